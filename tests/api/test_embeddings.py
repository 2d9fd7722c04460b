"""Chunks without files, as litellm-pgvector's clients put them in; and reading and deleting them."""

import asyncio
import base64
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psycopg
import pytest
from openai import AsyncOpenAI

from tests.fake_embedder import DIMENSION, FakeEmbedder, embed


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


@pytest.fixture
async def path(store: str) -> str:
    return f"/v1/vector_stores/{store}/embeddings"


async def counts(http: httpx.AsyncClient, path: str) -> tuple[int, int]:
    store = (await http.get(path.removesuffix("/embeddings"))).json()
    assert store["file_counts"]["completed"] == store["file_counts"]["total"]
    return store["file_counts"]["total"], store["usage_bytes"]


async def test_an_embedding_has_litellm_pgvectors_shape(http: httpx.AsyncClient, path: str, store: str) -> None:
    body = {"content": "Returns within 30 days.", "embedding": [0.5] * DIMENSION, "metadata": {"id": "policy"}}

    embedding = (await http.post(path, json=body)).json()

    assert embedding.pop("created_at") > 0
    assert embedding.pop("id").startswith("emb_")
    assert embedding == {
        "object": "embedding",
        "vector_store_id": store,
        "content": "Returns within 30 days.",
        "metadata": {"id": "policy"},
    }


async def test_a_batch_answers_in_its_order(http: httpx.AsyncClient, path: str) -> None:
    contents = [f"text {i}" for i in range(20)]

    batch = (await http.post(f"{path}/batch", json={"embeddings": [{"content": text} for text in contents]})).json()

    assert batch["object"] == "embedding.batch"
    assert [embedding["content"] for embedding in batch["data"]] == contents
    assert [embedding["id"] for embedding in batch["data"]] == sorted(embedding["id"] for embedding in batch["data"])


async def test_what_comes_without_a_vector_is_embedded_by_the_server(
    http: httpx.AsyncClient, path: str, embedder: FakeEmbedder
) -> None:
    body = {"embeddings": [{"content": "mine", "embedding": [1.0] * DIMENSION}, {"content": "yours"}]}

    answer = await http.post(f"{path}/batch", json=body)

    assert answer.status_code == 200
    assert embedder.texts == ["yours"]


async def test_a_vector_may_be_base64_of_floats(http: httpx.AsyncClient, path: str) -> None:
    encoded = base64.b64encode(embed("apples").tobytes()).decode()
    await http.post(path, json={"content": "apples", "embedding": encoded})

    found = (await http.post(path.replace("embeddings", "search"), json={"query_embedding": encoded})).json()

    assert found["data"][0]["score"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
async def test_vectors_of_any_scale_keep_their_direction(http: httpx.AsyncClient, path: str, scale: float) -> None:
    numbers = (embed("apples").astype(np.float64) * scale).tolist()
    await http.post(path, json={"content": "apples", "embedding": numbers})

    found = (await http.post(path.replace("embeddings", "search"), json={"query_embedding": numbers})).json()

    assert found["data"][0]["score"] == pytest.approx(1.0, abs=1e-3)


async def test_counters_follow_what_is_there(http: httpx.AsyncClient, path: str) -> None:
    await http.post(path, json={"content": "grün"})  # five bytes in UTF-8
    batch = await http.post(f"{path}/batch", json={"embeddings": [{"content": "ab"}, {"content": "cd"}]})
    assert await counts(http, path) == (3, 9)

    await http.delete(f"{path}/{batch.json()['data'][0]['id']}")

    assert await counts(http, path) == (2, 7)


async def test_counters_are_right_when_many_write_at_once(http: httpx.AsyncClient, path: str) -> None:
    body = {"embeddings": [{"content": "abc", "embedding": [1.0] * DIMENSION}] * 5}

    answers = await asyncio.gather(*[http.post(f"{path}/batch", json=body) for _ in range(12)])

    assert {answer.status_code for answer in answers} == {200}
    assert await counts(http, path) == (60, 180)


async def test_a_batch_with_one_bad_vector_writes_nothing(http: httpx.AsyncClient, path: str) -> None:
    bad = [{"content": "good"}, {"content": "bad", "embedding": [1.0, 2.0]}]

    answer = await http.post(f"{path}/batch", json={"embeddings": bad})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "embeddings.1.embedding"
    assert await counts(http, path) == (0, 0)
    assert (await http.get(path)).json()["data"] == []


async def test_repeating_a_batch_with_ids_changes_nothing(http: httpx.AsyncClient, path: str) -> None:
    body = {"embeddings": [{"id": f"row-{i}", "content": f"text {i}", "metadata": {"n": i}} for i in range(3)]}
    first = (await http.post(f"{path}/batch", json=body)).json()["data"]

    second = (await http.post(f"{path}/batch", json=body)).json()["data"]

    assert second == first
    assert (await counts(http, path))[0] == 3


async def test_repeats_that_arrive_together_insert_once(http: httpx.AsyncClient, path: str) -> None:
    body = {"id": "same", "content": "text"}

    answers = await asyncio.gather(*[http.post(path, json=body) for _ in range(8)])

    assert {answer.status_code for answer in answers} == {200}
    assert (await counts(http, path))[0] == 1


async def test_a_repeat_may_bring_new_chunks_along(http: httpx.AsyncClient, path: str) -> None:
    await http.post(path, json={"id": "a", "content": "first"})

    body = {"embeddings": [{"content": "new"}, {"id": "a", "content": "first"}, {"id": "b", "content": "second"}]}
    batch = (await http.post(f"{path}/batch", json=body)).json()["data"]

    assert [embedding["content"] for embedding in batch] == ["new", "first", "second"]
    assert (await counts(http, path))[0] == 3


@pytest.mark.parametrize(
    "change", [{"content": "other"}, {"metadata": {"n": 2}}, {"embedding": [1.0] * (DIMENSION - 1) + [-9.0]}]
)
async def test_an_id_of_something_else_is_a_conflict(
    http: httpx.AsyncClient, path: str, change: dict[str, Any]
) -> None:
    body = {"id": "a", "content": "text", "metadata": {"n": 1}, "embedding": [1.0] * DIMENSION}
    await http.post(path, json=body)

    answer = await http.post(path, json=body | change)

    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert (await http.get(f"{path}/a")).json()["content"] == "text"


async def test_an_id_may_stand_in_two_stores(http: httpx.AsyncClient, path: str, openai: AsyncOpenAI) -> None:
    other = (await openai.vector_stores.create()).id
    await http.post(path, json={"id": "a", "content": "here"})

    answer = await http.post(f"/v1/vector_stores/{other}/embeddings", json={"id": "a", "content": "there"})

    assert answer.status_code == 200
    assert (await http.get(f"{path}/a")).json()["content"] == "here"


async def test_embeddings_are_listed_in_pages(http: httpx.AsyncClient, path: str) -> None:
    await http.post(f"{path}/batch", json={"embeddings": [{"content": f"text {i}"} for i in range(5)]})

    first = (await http.get(path, params={"limit": 2, "order": "asc"})).json()
    second = (await http.get(path, params={"limit": 3, "order": "asc", "after": first["last_id"]})).json()
    back = (await http.get(path, params={"limit": 1, "order": "asc", "before": second["first_id"]})).json()

    assert [chunk["content"] for chunk in first["data"] + second["data"]] == [f"text {i}" for i in range(5)]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [chunk["content"] for chunk in back["data"]] == ["text 1"]


async def test_an_embedding_can_be_read_and_deleted_once(http: httpx.AsyncClient, path: str) -> None:
    made = (await http.post(path, json={"content": "text"})).json()
    assert (await http.get(f"{path}/{made['id']}")).json() == made

    deleted = await http.delete(f"{path}/{made['id']}")

    assert deleted.json() == {"id": made["id"], "object": "embedding.deleted", "deleted": True}
    assert (await http.get(f"{path}/{made['id']}")).status_code == 404
    assert (await http.delete(f"{path}/{made['id']}")).status_code == 404


async def test_stores_of_different_dimensions_live_side_by_side(http: httpx.AsyncClient) -> None:
    narrow = (await http.post("/v1/vector_stores", json={"embedding_dimension": 3})).json()["id"]
    wide = (await http.post("/v1/vector_stores", json={"embedding_dimension": 1536})).json()["id"]
    for store, dimension in ((narrow, 3), (wide, 1536)):
        body = {"content": f"{dimension}", "embedding": [1.0] * dimension}
        assert (await http.post(f"/v1/vector_stores/{store}/embeddings", json=body)).status_code == 200

    found = await http.post(f"/v1/vector_stores/{narrow}/search", json={"query_embedding": [1.0, 1.0, 1.0]})

    assert [result["content"][0]["text"] for result in found.json()["data"]] == ["3"]


async def test_the_first_vector_decides_an_open_dimension(http: httpx.AsyncClient, path: str) -> None:
    await http.post(path, json={"content": "five", "embedding": [1.0] * 5})

    answer = await http.post(path, json={"content": "six", "embedding": [1.0] * 6})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "embedding_dimension_mismatch"


async def test_racing_first_vectors_leave_one_dimension(http: httpx.AsyncClient, path: str) -> None:
    bodies = [{"content": "text", "embedding": [1.0] * (3 + i % 2)} for i in range(10)]

    answers = await asyncio.gather(*[http.post(path, json=body) for body in bodies])

    accepted = [len(body["embedding"]) for body, answer in zip(bodies, answers, strict=True) if answer.is_success]
    assert len(set(accepted)) == 1
    assert {answer.status_code for answer in answers} == {200, 400}
    assert (await counts(http, path))[0] == len(accepted)


async def test_the_deepest_metadata_that_goes_in_comes_out(http: httpx.AsyncClient, path: str) -> None:
    metadata: Any = {}
    for _ in range(99):
        metadata = {"a": metadata}

    made = await http.post(path, json={"content": "deep", "metadata": metadata})

    assert made.status_code == 200
    assert (await http.get(path)).json()["data"][0]["metadata"] == metadata


@pytest.mark.parametrize("id", ["docs/a.md#1", "a b", "100%", "ключ", "..", "a?b"])
async def test_an_id_of_any_characters_can_be_read_and_deleted(http: httpx.AsyncClient, path: str, id: str) -> None:
    url = f"{path}/{quote(id, safe='')}".replace("/..", "/%2E%2E")
    await http.post(path, json={"id": id, "content": "text"})

    assert (await http.get(url)).json()["id"] == id
    assert (await http.delete(url)).json()["deleted"]


async def test_deleting_a_store_and_its_chunks_at_once_is_no_deadlock(
    http: httpx.AsyncClient, openai: AsyncOpenAI
) -> None:
    for _ in range(5):
        store = (await openai.vector_stores.create()).id
        path = f"/v1/vector_stores/{store}/embeddings"
        body = {"embeddings": [{"content": str(i), "embedding": [1.0]} for i in range(8)]}
        ids = [chunk["id"] for chunk in (await http.post(f"{path}/batch", json=body)).json()["data"]]

        deletions = [http.delete(f"{path}/{id}") for id in ids]
        answers = await asyncio.gather(*deletions, http.delete(f"/v1/vector_stores/{store}"))

        assert {answer.status_code for answer in answers} <= {200, 404}


async def test_inserting_into_a_store_that_is_being_deleted_leaves_nothing(
    http: httpx.AsyncClient, openai: AsyncOpenAI, database: str
) -> None:
    for _ in range(5):
        store = (await openai.vector_stores.create()).id
        body = {"embeddings": [{"content": "x", "embedding": [1.0]}] * 20}

        insertions = [http.post(f"/v1/vector_stores/{store}/embeddings/batch", json=body) for _ in range(6)]
        answers = await asyncio.gather(*insertions, http.delete(f"/v1/vector_stores/{store}"))

        assert {answer.status_code for answer in answers} <= {200, 404}
    async with await psycopg.AsyncConnection.connect(database) as connection:
        assert await (await connection.execute("SELECT FROM embeddings")).fetchone() is None
