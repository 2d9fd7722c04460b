"""The quick reader of batches reads what orjson reads, and refuses what orjson refuses."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as some

from api.batch_body import BatchReader

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


@given(bodies)
@examples(max_examples=150, derandomize=True, database=None, deadline=None)
def test_a_body_is_read_as_orjson_reads_it(body: Any) -> None:
    data = orjson.dumps(body)
    read = orjson.dumps(BatchReader().read(data), default=memoryview.tolist)

    assert orjson.loads(read) == orjson.loads(data)


def test_a_vector_is_read_as_numbers_side_by_side() -> None:
    read = BatchReader().read(b'{"embeddings":[{"content":"a [b]","metadata":{"c":[1]},"embedding":[1,-2.5e3]}]}')

    (chunk,) = read["embeddings"]
    assert isinstance(chunk["embedding"], memoryview)
    assert chunk["embedding"].tolist() == [1.0, -2500.0]


def test_a_body_without_lists_is_read() -> None:
    read = BatchReader().read(b'{"embeddings":[{"content":"a","embedding":"AACAPw=="}]}')

    assert read == {"embeddings": [{"content": "a", "embedding": "AACAPw=="}]}


@pytest.mark.parametrize(
    "vector", ["[[1.0,2.0]]", "[1.0,[2.0]]", "[[1.0],[2.0]]", "[[1.0,2.0],[]]", "[true,1.0]", '["1.0"]', "[null]"]
)
@pytest.mark.parametrize("content", ["a", "[", "\\u005b\\u005b"])
def test_what_is_no_list_of_numbers_stays_what_it_is(content: str, vector: str) -> None:
    body = f'{{"embeddings":[{{"content":"{content}","embedding":{vector}}}]}}'

    assert BatchReader().read(body.encode())["embeddings"][0]["embedding"] == orjson.loads(vector)


@pytest.mark.parametrize("body", ["", "{nope", '{"embeddings":[{"embedding":[NaN]}]}', '{"embeddings":["\\ud800"]}'])
def test_what_is_no_json_is_refused(body: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        BatchReader().read(body.encode())
