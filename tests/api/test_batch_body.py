"""The quick reader of batches makes the request that orjson and pydantic make, or leaves the body to them."""

from contextlib import suppress
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as some

from api.batch_body import BatchReader
from api.schemas.embeddings import CreateEmbeddingBatchRequest

numbers = some.one_of(some.integers(-(2**53), 2**53), some.floats(allow_nan=False, allow_infinity=False))
texts = some.text(max_size=8)
values = some.recursive(
    some.one_of(some.none(), some.booleans(), numbers, texts),
    lambda inner: some.one_of(some.lists(inner, max_size=3), some.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
names = some.sampled_from(["id", "content", "embedding", "metadata", "other"])
chunks = some.one_of(
    some.dictionaries(names, values, max_size=4),
    some.fixed_dictionaries({"content": texts, "embedding": some.lists(numbers, max_size=5)}),
    values,
)
bodies = some.one_of(some.fixed_dictionaries({"embeddings": some.lists(chunks, max_size=4)}), values)


def read_slowly(body: bytes) -> bytes:
    return as_numbers(CreateEmbeddingBatchRequest.model_validate(orjson.loads(body)))


def read_quickly(body: bytes) -> bytes:
    return as_numbers(BatchReader().read(body))


def as_numbers(request: CreateEmbeddingBatchRequest) -> bytes:
    """The request as JSON, in which 1 and 1.0 are two, as they are in metadata."""
    chunks = [{name: getattr(chunk, name) for name in sorted(chunk.model_fields_set)} for chunk in request.embeddings]
    for chunk in chunks:
        if isinstance(vector := chunk.get("embedding"), memoryview | list):
            chunk["embedding"] = np.asarray(vector, dtype=np.float64).tolist()
    return orjson.dumps(chunks)


@given(bodies)
@examples(max_examples=300, derandomize=True, database=None, deadline=None)
def test_a_body_that_is_read_quickly_is_read_as_slowly(body: Any) -> None:
    data = orjson.dumps(body)
    with suppress(ValueError):
        assert read_quickly(data) == read_slowly(data)


@pytest.mark.parametrize(
    "chunk",
    [
        '{"content":"a [b]","metadata":{"c":[1]},"embedding":[1,-2.5e3]}',
        '{"content":"[","id":"1","metadata":null,"embedding":[0.25, 1]}',
        '{"content":"a","embedding":"AACAPw=="}',
        '{"content":"a","metadata":{"b":18446744073709551615,"c":-9223372036854775808,"d":{"e":null}}}',
        '{"content":"a","content":"\\ud83d\\ude00"}',
    ],
)
def test_what_is_usual_is_read_quickly(chunk: str) -> None:
    body = f'{{"embeddings":[{chunk}]}}'.encode()

    assert read_quickly(body) == read_slowly(body)


def test_a_vector_is_read_as_numbers_side_by_side() -> None:
    read = BatchReader().read(b'{"embeddings":[{"content":"a","embedding":[1,-2.5e3]}]}')

    assert isinstance(read.embeddings[0].embedding, memoryview)


@pytest.mark.parametrize(
    "chunk",
    [
        '{"content":"a","metadata":{"number":123456789012345678901234567890}}',  # orjson makes a float of it
        '{"content":"a","other":1}',
        '{"content":1}',
        '{"content":" "}',
        '{"content":"a","embedding":1}',
        '{"content":"a","embedding":[]}',
        '{"content":"a","embedding":[1.0],"metadata":[1.0]}',
    ],
)
def test_what_is_unusual_is_left_to_others(chunk: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        BatchReader().read(f'{{"embeddings":[{chunk}]}}'.encode())


@pytest.mark.parametrize(
    "vector", ["[[1.0,2.0]]", "[1.0,[2.0]]", "[[1.0],[2.0]]", "[[1.0,2.0],[]]", "[true,1.0]", '["1.0"]', "[null]"]
)
@pytest.mark.parametrize("content", ["a", "[", "\\u005b\\u005b"])
def test_what_is_no_list_of_numbers_is_left_to_others(content: str, vector: str) -> None:
    body = f'{{"embeddings":[{{"content":"{content}","embedding":{vector}}}]}}'

    with pytest.raises(ValueError, match=r"."):
        BatchReader().read(body.encode())


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{nope",
        '{"embeddings":[{"embedding":[NaN]}]}',
        '{"embeddings":["\\ud800"]}',
        '{"embeddings":[{"content":"a","metadata":{"b":NaN}}]}',
        '{"embeddings":[{"content":"a","metadata":{"b":{"c":-Infinity}}}]}',
        '{"embeddings":[{"content":"a","metadata":{"b":1e400}}]}',
        '{"embeddings":[{"content":"\\ud800"}]}',
    ],
)
def test_what_is_no_json_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        BatchReader().read(body.encode())
