"""Vectors of queries: asked for once, remembered within bounds, many in one call under load, nobody else's error."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from starlette.responses import JSONResponse

from api.embeddings import Embeddings
from api.errors import EmbeddingUnavailable, InvalidRequest
from api.query_vectors import MAX_CALLS, MAX_TEXTS, QueryVectors
from api.settings import EmbeddingSettings
from api.vectors import Vector
from tests.fake_embedder import DIMENSION, MODEL, FakeEmbedder, embed

CACHE_BYTES = 1024 * 1024


@pytest.fixture
async def embeddings(embedder: FakeEmbedder) -> AsyncIterator[Embeddings]:
    client = Embeddings(EmbeddingSettings(base_url=embedder.base_url, max_attempts=1))
    yield client
    await client.close()


@pytest.fixture
async def vectors(embeddings: Embeddings) -> AsyncIterator[QueryVectors[Vector]]:
    vectors: QueryVectors[Vector] = QueryVectors(embeddings, cache_bytes=CACHE_BYTES)
    yield vectors
    await vectors.close()


async def one(vectors: QueryVectors[Vector], text: str) -> Any:
    return (await vectors.embed([text], model=MODEL, dimension=DIMENSION))[0]


async def test_each_text_has_its_own_vector_in_order(vectors: QueryVectors[Vector]) -> None:
    texts = ["arrow", "bow", "arrow", "quiver"]
    found = await vectors.embed(texts, model=MODEL, dimension=DIMENSION)

    assert all(np.allclose(vector, embed(text), atol=1e-6) for text, vector in zip(texts, found, strict=True))


async def test_vectors_are_asked_for_uncompressed(vectors: QueryVectors[Vector], embedder: FakeEmbedder) -> None:
    await one(vectors, "arrow")

    assert [headers["accept-encoding"] for headers in embedder.headers] == ["identity"]


async def test_a_query_that_was_asked_before_is_remembered(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    first, again = await one(vectors, "arrow"), await one(vectors, "arrow")

    assert np.array_equal(first, again)
    assert len(embedder.calls) == 1


async def test_the_model_and_the_dimension_are_told_apart(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    await vectors.embed(["arrow"], model=MODEL, dimension=DIMENSION)
    await vectors.embed(["arrow"], model="another", dimension=DIMENSION)
    smaller = await vectors.embed(["arrow"], model=MODEL, dimension=100)

    assert smaller[0].shape == (100,)
    assert len({(call["model"], call.get("dimensions")) for call in embedder.calls}) == 3


async def test_a_query_waits_only_while_more_are_under_way_than_wait(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    await asyncio.gather(*(one(vectors, f"query {number}") for number in range(8)))

    assert sorted(len(call["input"]) for call in embedder.calls) == [1, 1, 2, 4]


async def test_what_waits_when_a_call_ends_goes_together(vectors: QueryVectors[Vector], embedder: FakeEmbedder) -> None:
    large = vectors.embed([f"query {number}" for number in range(10)], model=MODEL, dimension=DIMENSION)
    await asyncio.gather(large, *(one(vectors, f"behind {number}") for number in range(9)))

    assert [len(call["input"]) for call in embedder.calls] == [10, 9]


async def test_so_many_calls_are_under_way_for_a_model_and_no_more(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    await asyncio.gather(*(one(vectors, f"query {number}") for number in range(40)))

    sizes = sorted(len(call["input"]) for call in embedder.calls)
    assert sizes == [1, 1, 2, 4, 32]
    assert len(sizes) == MAX_CALLS + 1


async def test_queries_of_another_model_do_not_wait_for_each_other(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    large = vectors.embed([f"query {number}" for number in range(10)], model="another", dimension=DIMENSION)
    await asyncio.gather(large, one(vectors, "arrow"), one(vectors, "bow"))

    assert sorted(len(call["input"]) for call in embedder.calls) == [1, 1, 10]


async def test_the_queries_of_one_search_go_together(vectors: QueryVectors[Vector], embedder: FakeEmbedder) -> None:
    await vectors.embed([f"query {number}" for number in range(8)], model=MODEL, dimension=DIMENSION)

    assert [len(call["input"]) for call in embedder.calls] == [8]


async def test_one_call_has_so_many_texts_and_no_more(vectors: QueryVectors[Vector], embedder: FakeEmbedder) -> None:
    embedder.delay_seconds = 0.05
    await asyncio.gather(*(one(vectors, f"query {number}") for number in range(3 * MAX_TEXTS)))

    assert max(len(call["input"]) for call in embedder.calls) == MAX_TEXTS
    assert sorted(embedder.texts) == sorted(f"query {number}" for number in range(3 * MAX_TEXTS))


async def test_identical_queries_at_a_time_are_asked_once(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    embedder.delay_seconds = 0.1
    found = await asyncio.gather(*(one(vectors, "arrow") for _ in range(20)))

    assert embedder.texts == ["arrow"]
    assert all(np.array_equal(vector, found[0]) for vector in found)


async def test_a_refused_text_fails_its_own_callers_only(vectors: QueryVectors[Vector], embedder: FakeEmbedder) -> None:
    embedder.delay_seconds = 0.1
    first = asyncio.create_task(vectors.embed([f"first {n}" for n in range(4)], model=MODEL, dimension=DIMENSION))
    async with asyncio.timeout(10):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
    together = [asyncio.create_task(one(vectors, f"together {number}")) for number in range(3)]
    await first
    refusal = {"error": {"message": "too long", "type": "invalid_request_error", "param": None, "code": None}}
    embedder.failures = [JSONResponse(refusal, 400), JSONResponse(refusal, 400)]  # the call, then its first text

    answers = await asyncio.gather(*together, return_exceptions=True)

    assert [isinstance(answer, InvalidRequest) for answer in answers] == [True, False, False]


async def test_an_error_reaches_everybody_and_is_not_remembered(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    embedder.failures = [JSONResponse({"error": {"message": "away"}}, 503)]
    answers = await asyncio.gather(one(vectors, "arrow"), one(vectors, "arrow"), return_exceptions=True)

    assert [type(answer) for answer in answers] == [EmbeddingUnavailable] * 2
    assert np.allclose(await one(vectors, "arrow"), embed("arrow"), atol=1e-6)


async def test_a_caller_that_goes_away_leaves_the_others_their_answer(
    vectors: QueryVectors[Vector], embedder: FakeEmbedder
) -> None:
    embedder.delay_seconds = 0.2
    gone, staying = asyncio.create_task(one(vectors, "arrow")), asyncio.create_task(one(vectors, "arrow"))
    await asyncio.sleep(0.05)
    gone.cancel()

    assert np.allclose(await staying, embed("arrow"), atol=1e-6)
    assert gone.cancelled()


async def test_the_oldest_are_forgotten_when_there_are_too_many(embeddings: Embeddings, embedder: FakeEmbedder) -> None:
    vectors = QueryVectors(embeddings, cache_bytes=3 * (4 * DIMENSION + 550))
    for text in ("one", "two", "three", "one", "four", "one", "two"):
        await one(vectors, text)

    assert embedder.texts == ["one", "two", "three", "four", "two"]


async def test_to_remember_nothing_is_possible(embeddings: Embeddings, embedder: FakeEmbedder) -> None:
    vectors = QueryVectors(embeddings, cache_bytes=0)
    await one(vectors, "arrow")
    await one(vectors, "arrow")

    assert embedder.texts == ["arrow", "arrow"]


async def test_a_search_that_is_repeated_embeds_its_query_once(
    openai: AsyncOpenAI, http: httpx.AsyncClient, embedder: FakeEmbedder
) -> None:
    store = await openai.vector_stores.create()
    await http.post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": "Arrows fly."})
    for _ in range(3):
        await openai.vector_stores.search(store.id, query=["arrows", "bows"])

    assert sorted(embedder.texts) == ["Arrows fly.", "arrows", "bows"]
