"""Search by sparse vectors, which the worker makes behind the writes: alone, and as the third leg of hybrid search."""

import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg import sql
from starlette.responses import JSONResponse, Response

from api import sparse
from api.errors import ModelUnavailable
from api.resources import Resources
from api.services import keywords, sparse_vectors
from tests.conftest import Serve, raw
from tests.fake_embedder import SPARSE_MODEL, FakeEmbedder, embed, weigh
from tests.working import opened, work_off

# What only one of its vectors, its words, or its sparse vector says.
CHUNKS: list[dict[str, Any]] = [
    {"id": "near", "content": "crossing by water", "embedding": embed("boats ferry").tolist()},
    {"id": "worded", "content": "boats", "embedding": embed("recipe for soup").tolist()},
    {
        "id": "weighed",
        "content": "boating boat boatman",
        "embedding": embed("ledger").tolist(),
        "metadata": {"l": "de"},
    },
    {"id": "neither", "content": "opening hours", "embedding": embed("price list").tolist()},
]
ALL = {"ranker": "rrf"}
SPARSE = {"search_mode": "sparse"}
MODES = ("vector", "keyword", "sparse")


@pytest.fixture
def settings(settings: dict[str, Any], embedder: FakeEmbedder) -> dict[str, Any]:
    return {**settings, "sparse": {"model": SPARSE_MODEL, "base_url": embedder.base_url, "max_attempts": 1}}


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources) -> str:
    store = (await openai.vector_stores.create()).id
    await put(http, store, CHUNKS)
    await keywords.index(resources, seconds=60)
    await sparse_vectors.fill(resources, seconds=60)
    return store


async def put(http: httpx.AsyncClient, store: str, chunks: list[dict[str, Any]]) -> None:
    answer = await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
    assert answer.status_code == 200, answer.text


async def search(http: httpx.AsyncClient, store: str, **body: Any) -> httpx.Response:
    body = {"query": "boats", "ranking_options": SPARSE, **body}
    return await http.post(f"/v1/vector_stores/{store}/search", json=body)


async def find(http: httpx.AsyncClient, store: str, **body: Any) -> dict[str, float]:
    """Scores by id, best first."""
    answer = await search(http, store, **body)
    assert answer.status_code == 200, answer.text
    return {result["file_id"]: result["score"] for result in answer.json()["data"]}


async def count(database: str, table: str) -> int:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        row = await (await connection.execute(statement)).fetchone()
    assert row is not None
    return row[0]


async def test_what_has_most_of_the_question_comes_first(http: httpx.AsyncClient, store: str) -> None:
    found = await find(http, store)

    assert list(found) == ["weighed", "worded"]
    assert found == pytest.approx({"weighed": 3 / 4, "worded": 1 / 2})  # the product over itself and the question's own


async def test_the_products_are_those_of_the_vectors(
    openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources
) -> None:
    texts = [" ".join(f"w{i * j % 7:03}" for j in range(1, 9)) for i in range(40)]
    store = (await openai.vector_stores.create()).id
    await put(http, store, [{"id": str(i), "content": text} for i, text in enumerate(texts)])
    await sparse_vectors.fill(resources, seconds=60)
    asked = weigh("w003 w005 w005")

    found = await find(http, store, query="w003 w005 w005", max_num_results=50)

    products = {
        str(i): sum(asked.get(entry, 0) * weight for entry, weight in weigh(text).items())
        for i, text in enumerate(texts)
    }
    assert found == pytest.approx({id: one / (one + 5) for id, one in products.items() if one})


async def test_no_dense_vector_is_asked_for(http: httpx.AsyncClient, store: str, embedder: FakeEmbedder) -> None:
    embedder.reset()

    await find(http, store)
    await find(http, store)

    assert embedder.calls == []
    assert embedder.sparse_calls == [{"model": SPARSE_MODEL, "input": ["boats"], "input_type": "query"}]


async def test_hybrid_fuses_the_ranks_of_three_legs(http: httpx.AsyncClient, store: str) -> None:
    orders = [list(await find(http, store, ranking_options={"search_mode": mode})) for mode in MODES]

    found = await find(http, store, ranking_options=ALL)

    ranks = {id: [order.index(id) if id in order else math.inf for order in orders] for id in found}
    assert found == pytest.approx({id: sum(61 / (61 + rank) for rank in ranks[id]) / 3 for id in ranks})
    assert next(iter(found)) == "worded"  # the only one in all three
    assert found.keys() == {"near", "worded", "weighed", "neither"}


async def test_the_weights_choose_among_the_legs(http: httpx.AsyncClient, store: str) -> None:
    weighed = {"embedding_weight": 0, "text_weight": 0, "sparse_weight": 2}
    unnamed = {"embedding_weight": 1, "text_weight": 0}

    by_sparse = await find(http, store, ranking_options={"hybrid_search": weighed})
    without = await find(http, store, ranking_options={"hybrid_search": unnamed})

    assert next(iter(by_sparse)) == "weighed"
    assert next(iter(without)) == "near"


async def test_weighted_scores_are_the_mean_of_the_three(http: httpx.AsyncClient, store: str) -> None:
    options = {
        "ranker": "weighted",
        "hybrid_search": {"embedding_weight": 0.5, "text_weight": 0.2, "sparse_weight": 0.3},
    }

    found = await find(http, store, ranking_options=options)

    parts = [await find(http, store, ranking_options={"search_mode": mode}) for mode in MODES]
    vector, keyword, weighed = ([part.get(id, 0) for id in found] for part in parts)
    means = [0.5 * v + 0.2 * k + 0.3 * s for v, k, s in zip(vector, keyword, weighed, strict=True)]
    assert list(found.values()) == pytest.approx(means, abs=1e-6)


async def test_auto_does_without_sparse_vectors(http: httpx.AsyncClient, store: str, embedder: FakeEmbedder) -> None:
    embedder.reset()

    await find(http, store, ranking_options=None)

    assert embedder.sparse_calls == []


async def test_in_a_large_store_they_order_what_the_other_legs_find(
    serve: Serve, settings: dict[str, Any], store: str
) -> None:
    large = {**settings, "sparse": {**settings["sparse"], "max_exact_chunks": 3}}
    async with serve(**large) as client:
        alone = await find(raw(client), store)
        beside = await find(raw(client), store, ranking_options=ALL)

    assert list(alone) == ["worded"]  # by its words, which "weighed" has not
    assert list(beside)[:2] == ["worded", "weighed"]


async def test_filters_hold_for_sparse_vectors(http: httpx.AsyncClient, store: str) -> None:
    found = await find(http, store, filters={"type": "eq", "key": "l", "value": "de"})

    assert list(found) == ["weighed"]


async def test_several_questions_are_fused(http: httpx.AsyncClient, store: str) -> None:
    found = await find(http, store, query=["boats", "opening"])

    assert set(found) == {"weighed", "worded", "neither"}


async def test_a_question_of_unknown_words_finds_nothing(http: httpx.AsyncClient, store: str) -> None:
    assert await find(http, store, query="?!") == {}
    assert await find(http, store, query="zymurgy") == {}


async def test_a_deleted_chunk_is_found_no_more_and_its_place_goes_to_another(
    http: httpx.AsyncClient, store: str
) -> None:
    await http.delete(f"/v1/vector_stores/{store}/embeddings/weighed")

    assert list(await find(http, store, max_num_results=1)) == ["worded"]


async def test_a_chunk_put_in_anew_has_the_vector_of_its_own_text(
    http: httpx.AsyncClient, store: str, resources: Resources
) -> None:
    await http.delete(f"/v1/vector_stores/{store}/embeddings/weighed")
    await put(http, store, [{"id": "weighed", "content": "kamchatka"}])
    between = await find(http, store)
    await sparse_vectors.fill(resources, seconds=60)

    assert list(between) == ["worded"]
    assert list(await find(http, store)) == ["worded"]
    assert list(await find(http, store, query="kamchatka")) == ["weighed"]


async def test_the_sweep_takes_the_vectors_of_deleted_chunks_away(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str
) -> None:
    for id in ("near", "weighed"):
        await http.delete(f"/v1/vector_stores/{store}/embeddings/{id}")

    await sparse_vectors.sweep(resources)

    assert await count(database, "sparse_chunks") == 2
    assert list(await find(http, store)) == ["worded"]


async def test_the_sweep_takes_the_vectors_of_a_deleted_store_away(
    openai: AsyncOpenAI, store: str, resources: Resources, database: str
) -> None:
    await openai.vector_stores.delete(store)

    await sparse_vectors.sweep(resources)

    assert [await count(database, table) for table in ("sparse_stores", "sparse_chunks")] == [0, 0]


async def test_the_worker_fills_a_store_that_was_there_before(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any], database: str
) -> None:
    store = (await openai.vector_stores.create()).id
    await put(http, store, CHUNKS)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE embeddings SET seq = NULL WHERE id IN ('near', 'weighed')")
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "VALUES ('default', 'fill_sparse', '{\"timestamp\": 0}')"
        )

    await work_off(settings)

    assert list(await find(http, store)) == ["weighed", "worded"]


async def test_all_batches_of_a_store_are_filled(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any], database: str
) -> None:
    store = (await openai.vector_stores.create()).id
    await put(
        http, store, [{"id": f"n{i}", "content": f"boat {i}"} for i in range(12)] + [{"id": "e", "content": "?!"}]
    )
    async with opened({**settings, "sparse": {**settings["sparse"], "batch_size": 5}}) as resources:
        assert await sparse_vectors.fill(resources, seconds=60) == 13

    assert await count(database, "sparse_chunks") == 12
    assert len(await find(http, store, max_num_results=50)) == 12


async def test_a_model_that_comes_back_goes_on_where_it_was(
    http: httpx.AsyncClient, store: str, resources: Resources, embedder: FakeEmbedder
) -> None:
    await put(http, store, [{"id": "late", "content": "boat boat boat boat"}])
    embedder.sparse_failures = [Response(status_code=503)]

    with pytest.raises(ModelUnavailable):
        await sparse_vectors.fill(resources, seconds=60)
    await sparse_vectors.fill(resources, seconds=60)

    assert next(iter(await find(http, store))) == "late"


async def test_a_text_that_the_model_refuses_keeps_no_other_waiting(
    http: httpx.AsyncClient, store: str, resources: Resources, embedder: FakeEmbedder
) -> None:
    embedder.refused = "unspeakable"
    chunks = [{"id": f"n{i}", "content": f"harbour {i}", "embedding": embed("x").tolist()} for i in range(6)]
    bad = {"id": "bad", "content": "unspeakable harbour", "embedding": embed("x").tolist()}
    await put(http, store, [*chunks[:3], bad, *chunks[3:]])

    await sparse_vectors.fill(resources, seconds=60)

    assert sorted(await find(http, store, query="harbour")) == [f"n{i}" for i in range(6)]


async def test_another_model_makes_all_vectors_anew(
    store: str, serve: Serve, settings: dict[str, Any], database: str, resources: Resources
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE sparse_stores SET model = 'another'")
    async with serve(**settings) as client:
        before = await find(raw(client), store)
        await sparse_vectors.fill(resources, seconds=60)

        assert before == {}
        assert list(await find(raw(client), store)) == ["weighed", "worded"]


async def test_hybrid_does_without_a_sparse_model_that_is_away_and_says_so(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder
) -> None:
    embedder.sparse_failures = [Response(status_code=503)]
    degraded = await search(http, store, ranking_options=ALL)
    whole = await search(http, store, ranking_options=ALL)

    assert degraded.headers["x-quiver-sparse"] == "unavailable"
    assert degraded.json()["data"][0]["file_id"] == "worded"
    assert "x-quiver-sparse" not in whole.headers


@pytest.mark.parametrize(
    "options", [SPARSE, {"hybrid_search": {"embedding_weight": 0, "text_weight": 0, "sparse_weight": 1}}]
)
async def test_a_search_that_has_nothing_else_fails_with_its_sparse_model(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, options: dict[str, Any]
) -> None:
    embedder.sparse_failures = [JSONResponse({"data": [{"index": 0, "indices": [1, 1], "values": [1.0, 2.0]}]})]

    answer = await search(http, store, ranking_options=options)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "model_unavailable")


async def test_a_required_sparse_model_that_is_away_is_a_502(
    serve: Serve, settings: dict[str, Any], store: str, embedder: FakeEmbedder
) -> None:
    async with serve(**{**settings, "sparse": {**settings["sparse"], "required": True}}) as client:
        embedder.sparse_failures = [Response(status_code=503)]
        answer = await search(raw(client), store, ranking_options=ALL)

    assert answer.status_code == 502


async def test_a_model_that_is_not_served_is_a_502_that_names_the_setting(
    serve: Serve, settings: dict[str, Any], store: str
) -> None:
    async with serve(**{**settings, "sparse": {**settings["sparse"], "model": "unknown"}}) as client:
        answer = await search(raw(client), store)

    assert answer.status_code == 502
    assert "SPARSE__BASE_URL" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        (SPARSE, "ranking_options.search_mode"),
        (
            {"hybrid_search": {"embedding_weight": 1, "text_weight": 1, "sparse_weight": 1}},
            "ranking_options.hybrid_search.sparse_weight",
        ),
    ],
)
async def test_without_a_sparse_model_asking_for_one_is_a_400(
    serve: Serve, settings: dict[str, Any], store: str, options: dict[str, Any], param: str
) -> None:
    async with serve(**{**settings, "sparse": {}}) as client:
        answer = await search(raw(client), store, ranking_options=options)
        hybrid = await search(raw(client), store, ranking_options=ALL)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "sparse_model_not_configured")
    assert hybrid.status_code == 200


async def test_only_the_greatest_weights_of_a_text_are_kept(resources: Resources) -> None:
    assert resources.sparse_model is not None
    text = " ".join(f"{number:04}" for number in range(600))

    (weights,) = await resources.sparse_model.embed_chunks([f"{text} boat boat"])

    assert len(weights.of_entries) == sparse.MAX_WEIGHTS
    assert weights.of_entries.items() >= weigh("boat boat").items()
