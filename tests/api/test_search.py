"""Search of one store: exact, in OpenAI's shape, and in litellm-pgvector's words too."""

import asyncio
from typing import Any, LiteralString

import httpx
import numpy as np
import psycopg
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.conftest import Serve
from tests.fake_embedder import DIMENSION, FakeEmbedder, embed

CHUNKS: list[dict[str, Any]] = [
    {"content": "Returns are accepted within 30 days", "metadata": {"lang": "en", "year": 2024, "filename": "faq.md"}},
    {"content": "Shipping is free for orders over 50", "metadata": {"lang": "en", "year": 2023}},
    {"content": "Rückgabe innerhalb von 30 Tagen", "metadata": {"lang": "de", "year": 2024}},
    {"content": "Bread is baked at dawn"},
]


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient) -> str:
    store = await openai.vector_stores.create()
    await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json={"embeddings": CHUNKS})
    return store.id


@pytest.fixture
async def search(store: str, http: httpx.AsyncClient) -> Any:
    async def search(**body: Any) -> dict[str, Any]:
        answer = await http.post(f"/v1/vector_stores/{store}/search", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return search


async def raw_search(openai: AsyncOpenAI, store: str, **body: Any) -> dict[str, Any]:
    """A search with fields that the client does not know."""
    return await openai.post(f"/vector_stores/{store}/search", cast_to=dict[str, Any], body=body)


async def execute(database: str, statement: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(statement)


def texts(page: dict[str, Any]) -> list[str]:
    return [result["content"][0]["text"] for result in page["data"]]


async def test_the_client_finds_the_nearest_first(openai: AsyncOpenAI, store: str) -> None:
    page = await openai.vector_stores.search(store, query="are returns accepted", max_num_results=2)

    assert page.data[0].content[0].text == "Returns are accepted within 30 days"
    assert len(page.data) == 2
    assert page.data[0].score > page.data[1].score


async def test_an_answer_has_openais_fields_and_no_other(search: Any) -> None:
    page = await search(query="returns", max_num_results=1)
    result = page["data"][0]

    assert page.keys() == {"object", "search_query", "data", "has_more", "next_page"}
    assert page["object"] == "vector_store.search_results.page"
    assert page["search_query"] == ["returns"]
    assert (page["has_more"], page["next_page"]) == (False, None)
    assert result.keys() == {"file_id", "filename", "score", "attributes", "content"}
    assert result["content"] == [{"type": "text", "text": "Returns are accepted within 30 days"}]
    assert result["attributes"] == {"lang": "en", "year": 2024, "filename": "faq.md"}
    assert result["filename"] == "faq.md"


async def test_a_chunk_without_a_file_goes_by_its_own_id(search: Any) -> None:
    result = (await search(query="bread baked at dawn"))["data"][0]

    assert result["file_id"].startswith("emb_")
    assert result["filename"] == result["file_id"]
    assert result["attributes"] is None


async def test_attributes_are_scalars_whatever_the_metadata_is(http: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create()
    metadata = {"list": [1, "a"], "map": {"b": None}, "null": None, "yes": True, "half": 0.5}
    await http.post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": "x", "metadata": metadata})

    page = await openai.vector_stores.search(store.id, query="x")

    assert page.data[0].attributes == {"list": '[1,"a"]', "map": '{"b":null}', "yes": True, "half": 0.5}


async def test_the_score_is_one_minus_half_the_cosine_distance(search: Any) -> None:
    query = embed("returns accepted")

    page = await search(query_embedding=query.tolist())

    vectors = {chunk["content"]: embed(chunk["content"]) for chunk in CHUNKS}
    expected = {text: (1 + float(vector @ query)) / 2 for text, vector in vectors.items()}
    assert {text: result["score"] for text, result in zip(texts(page), page["data"], strict=True)} == pytest.approx(
        expected, abs=1e-3
    )
    assert texts(page) == sorted(expected, key=lambda text: -expected[text])


async def test_a_query_vector_needs_no_embedding(search: Any, embedder: FakeEmbedder) -> None:
    embedder.reset()

    page = await search(query_embedding=embed("bread").tolist(), max_num_results=1)

    assert texts(page) == ["Bread is baked at dawn"]
    assert page["search_query"] == []
    assert embedder.calls == []


async def test_several_questions_are_answered_together(search: Any, embedder: FakeEmbedder) -> None:
    embedder.reset()

    page = await search(query=["returns accepted", "bread baked"], max_num_results=2)

    assert set(texts(page)) == {"Returns are accepted within 30 days", "Bread is baked at dawn"}
    assert page["search_query"] == ["returns accepted", "bread baked"]
    assert len(embedder.calls) == 1


async def test_a_chunk_found_by_two_questions_comes_once(search: Any) -> None:
    page = await search(query=["returns", "returns accepted"], max_num_results=10)

    assert len(texts(page)) == len(set(texts(page))) == 4


async def test_the_threshold_leaves_out_what_is_below(search: Any) -> None:
    every = await search(query="returns accepted")
    border = (every["data"][0]["score"] + every["data"][1]["score"]) / 2

    page = await search(query="returns accepted", ranking_options={"ranker": "auto", "score_threshold": border})

    assert texts(page) == texts(every)[:1]


async def test_litellms_nulls_are_as_good_as_absent(search: Any) -> None:
    nulls = dict.fromkeys(["filters", "max_num_results", "ranking_options", "rewrite_query"])

    assert len(texts(await search(query="returns", **nulls))) == 4


async def test_litellm_pgvectors_words_keep_working(search: Any) -> None:
    page = await search(query="30", limit=100, filters={"lang": "en", "year": 2024}, return_metadata=False)

    assert texts(page) == ["Returns are accepted within 30 days"]
    assert page["data"][0]["attributes"] is None


async def test_the_reference_request_is_understood(search: Any) -> None:
    page = await search(
        query=["return policy", "refund window"],
        max_num_results=10,
        rewrite_query=False,
        filters={
            "type": "and",
            "filters": [
                {"type": "eq", "key": "lang", "value": "en"},
                {"type": "or", "filters": [{"type": "gte", "key": "year", "value": 2024}]},
            ],
        },
        ranking_options={
            "ranker": "auto",
            "score_threshold": 0.0,
            "hybrid_search": {"embedding_weight": 1.0, "text_weight": 0.5},
        },
    )

    assert texts(page) == ["Returns are accepted within 30 days"]


async def test_an_empty_store_finds_nothing(openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create()

    assert (await openai.vector_stores.search(store.id, query="anything")).data == []


async def test_a_store_finds_only_its_own(openai: AsyncOpenAI, http: httpx.AsyncClient, store: str) -> None:
    other = await openai.vector_stores.create()
    await http.post(f"/v1/vector_stores/{other.id}/embeddings", json={"content": "returns returns returns"})

    page = await openai.vector_stores.search(store, query="returns returns returns")

    assert len(page.data) == len(CHUNKS)


async def test_search_is_exact_although_an_index_covers_all_stores(
    http: httpx.AsyncClient, openai: AsyncOpenAI, database: str
) -> None:
    random = np.random.default_rng(7)
    vectors = random.normal(size=(400, DIMENSION))
    store, crowd = [(await openai.vector_stores.create()).id for _ in range(2)]
    await insert_vectors(http, store, vectors[:40])
    await insert_vectors(http, crowd, vectors[40:])
    await create_hnsw_index(database)

    page = await http.post(
        f"/v1/vector_stores/{store}/search", json={"query_embedding": vectors[200].tolist(), "max_num_results": 10}
    )

    similarity = vectors[:40] @ vectors[200] / np.linalg.norm(vectors[:40], axis=1)
    assert texts(page.json()) == [str(i) for i in np.argsort(-similarity)[:10]]


async def insert_vectors(http: httpx.AsyncClient, store: str, vectors: Any) -> None:
    embeddings = [{"content": str(i), "embedding": vector.tolist()} for i, vector in enumerate(vectors)]
    answer = await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": embeddings})
    assert answer.status_code == 200


async def create_hnsw_index(database: str) -> None:

    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "CREATE INDEX ON embeddings USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops) WITH (m = 4)"
        )
        await connection.execute("ANALYZE embeddings")


async def test_searching_moves_the_expiry_of_a_store_that_slept(openai: AsyncOpenAI, store: str, database: str) -> None:

    await openai.vector_stores.update(store, expires_after={"anchor": "last_active_at", "days": 2})
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vector_stores SET last_active_at = now() - interval '1 day'")
    slept = await openai.vector_stores.retrieve(store)

    await openai.vector_stores.search(store, query="returns")

    woken = await openai.vector_stores.retrieve(store)
    assert woken.last_active_at is not None and slept.last_active_at is not None and woken.expires_at is not None
    assert woken.last_active_at >= slept.last_active_at + 86400 - 5
    assert woken.expires_at == woken.last_active_at + 2 * 86400


async def test_a_search_does_not_wait_for_a_writer(openai: AsyncOpenAI, store: str, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database) as writer:
        await writer.execute("UPDATE vector_stores SET last_active_at = now() - interval '1 day'")

        page = await asyncio.wait_for(openai.vector_stores.search(store, query="returns"), 5)

    assert len(page.data) == len(CHUNKS)


async def test_a_store_that_another_process_deleted_is_gone_at_once(
    openai: AsyncOpenAI, store: str, serve: Serve, settings: dict[str, Any]
) -> None:
    await openai.vector_stores.search(store, query="returns")
    async with serve(**settings) as other:
        await other.vector_stores.delete(store)

    with pytest.raises(NotFoundError):
        await openai.vector_stores.search(store, query="returns")
    with pytest.raises(NotFoundError):
        await raw_search(openai, store, query_embedding=embed("returns").tolist())


async def test_a_store_that_expired_since_its_last_search_is_refused(
    openai: AsyncOpenAI, store: str, database: str
) -> None:
    await openai.vector_stores.search(store, query="returns")
    await execute(database, "UPDATE vector_stores SET expires_at = now() - interval '1 second'")

    with pytest.raises(BadRequestError, match="has expired"):
        await openai.vector_stores.search(store, query="returns")


async def test_a_question_is_embedded_by_the_model_that_the_store_has_now(
    openai: AsyncOpenAI, store: str, database: str, embedder: FakeEmbedder
) -> None:
    await openai.vector_stores.search(store, query="returns")
    await execute(database, "UPDATE vector_stores SET embedding_model = 'another'")
    embedder.reset()

    page = await openai.vector_stores.search(store, query="returns accepted", max_num_results=1)

    assert page.data[0].content[0].text == "Returns are accepted within 30 days"
    assert [call["model"] for call in embedder.calls] == ["all-minilm-l6-v2", "another"]


async def test_a_vector_fits_the_dimension_that_the_store_has_now(
    openai: AsyncOpenAI, store: str, database: str
) -> None:
    await raw_search(openai, store, query_embedding=embed("returns").tolist())
    await execute(database, "UPDATE vector_stores SET embedding_dimension = 8")
    await execute(database, "UPDATE embeddings SET embedding = '[1,2,3,4,5,6,7,8]'")

    page = await raw_search(openai, store, query_embedding=[1.0, 2, 3, 4, 5, 6, 7, 8])

    assert [round(result["score"], 3) for result in page["data"]] == [1.0] * len(CHUNKS)


async def test_a_search_is_answered_alike_with_and_without_the_shortcut(http: httpx.AsyncClient, store: str) -> None:
    url = f"/v1/vector_stores/{store}/search"
    for body in (b'{"query": "returns accepted", "limit": 3}', b'{"query": "returns", "limt": 3}', b'{"query": ', b""):
        short = await http.post(url, content=body, headers={"Content-Type": "application/json"})
        long = await http.post(url, content=body, headers={"Content-Type": "application/json; charset=utf-8"})

        assert (short.status_code, short.content) == (long.status_code, long.content)


async def test_attributes_leave_as_they_were_put_in(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    store = (await openai.vector_stores.create()).id
    sent = [
        {"word": "[null]", "brace": "}{", "quote": '"', "umlaut": "ü", "number": 1.5, "yes": False},
        {"filename": "a.md", "number": 2},
        {},
    ]
    chunks = [{"content": f"text {i}", "metadata": metadata} for i, metadata in enumerate(sent)]
    await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})

    page = await raw_search(openai, store, query="text")

    found = {result["content"][0]["text"]: result for result in page["data"]}
    assert [found[f"text {i}"]["attributes"] for i in range(3)] == sent
    assert found["text 1"]["filename"] == "a.md"


async def test_a_database_that_is_only_read_is_searched(
    openai: AsyncOpenAI, store: str, database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    await execute(database, "UPDATE vector_stores SET last_active_at = now() - interval '1 day'")
    read_only = settings | {"database_url": f"{database}&options=-c%20default_transaction_read_only%3Don"}

    async with serve(**read_only) as reader:
        page = await reader.vector_stores.search(store, query="returns")

    assert len(page.data) == len(CHUNKS)
