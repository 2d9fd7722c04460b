"""Final answers are kept, failures are carried out again, and what cannot be kept is not done twice."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from openai import AsyncOpenAI

from api.services import idempotency
from tests.api.idempotency.keyed_requests import (
    KEYED,
    STORES,
    code,
    count_chunks,
    create,
    is_replayed,
    let_the_lease_run_out,
    names,
    put,
    query,
    until_embedding,
)
from tests.conftest import Serve, raw
from tests.fake_embedder import FakeEmbedder


async def test_a_final_refusal_is_kept(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    refusals = [await put(http, "vs_none") for _ in range(2)]

    assert [answer.status_code for answer in refusals] == [404, 404]
    assert [is_replayed(answer) for answer in refusals] == [False, True]


async def test_a_failure_is_carried_out_again(http: httpx.AsyncClient, store: str, embedder: FakeEmbedder) -> None:
    embedder.stop()
    failed = await put(http, store)
    embedder.start()

    answer = await put(http, store)

    assert (failed.status_code, answer.status_code, is_replayed(answer)) == (502, 200, False)
    assert await count_chunks(http, store) == 1


async def test_a_conflict_is_carried_out_again(http: httpx.AsyncClient, store: str) -> None:
    chunks = f"{STORES}/{store}/embeddings"
    await http.post(chunks, json={"id": "one", "content": "other"})
    conflict = await put(http, store, id="one")
    await http.delete(f"{chunks}/one")

    answer = await put(http, store, id="one")

    assert (conflict.status_code, conflict.headers["x-should-retry"]) == (409, "false")
    assert (answer.status_code, is_replayed(answer)) == (200, False)


async def test_what_nobody_foresaw_is_carried_out_again(http: httpx.AsyncClient, database: str) -> None:
    await query(database, "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
    await query(database, "CREATE TRIGGER t BEFORE INSERT ON vector_stores FOR EACH ROW EXECUTE FUNCTION fail()")
    failed = await create(http)
    await query(database, "DROP TRIGGER t ON vector_stores")

    assert (failed.status_code, (await create(http)).status_code) == (500, 200)
    assert await names(http) == ["a"]


async def test_without_its_database_a_request_is_not_carried_out(serve: Serve, settings: dict[str, Any]) -> None:
    away = {"database_url": "postgresql://127.0.0.1:1/none", "database_timeout_seconds": 0.2}

    async with serve(**settings | away) as client:
        answer = await create(raw(client))

    assert code(answer) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "1"


@asynccontextmanager
async def without_keys(database: str) -> AsyncGenerator[None]:
    """The table of keys out of reach, as in a database that a request's second transaction does not get to."""
    await query(database, "ALTER TABLE idempotency_keys RENAME TO away")
    yield
    await query(database, "ALTER TABLE away RENAME TO idempotency_keys")


async def test_a_search_whose_answer_cannot_be_kept_is_answered_all_the_same(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str
) -> None:
    await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"})
    embedder.reset()
    embedder.delay_seconds = 0.5
    first = asyncio.create_task(search(http, store))
    await until_embedding(embedder)
    async with without_keys(database):
        answer = await first

    assert answer.status_code == 200
    assert code(await search(http, store)) == (409, "idempotency_key_in_use")


async def search(http: httpx.AsyncClient, store: str) -> httpx.Response:
    return await http.post(f"{STORES}/{store}/search", json={"query": "new"}, headers=KEYED)


async def test_a_write_whose_answer_cannot_be_kept_is_undone(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str
) -> None:
    embedder.delay_seconds = 0.5
    first = asyncio.create_task(put(http, store))
    await until_embedding(embedder)
    async with without_keys(database):
        answer = await first

    assert code(answer) == (503, "database_not_migrated")
    assert await count_chunks(http, store) == 0


async def test_an_answer_outlives_the_lease(http: httpx.AsyncClient, database: str) -> None:
    first = await create(http)
    await let_the_lease_run_out(database)

    assert (await create(http)).content == first.content
    assert await names(http) == ["a"]


async def test_an_answer_too_large_to_keep_is_not_made_twice(http: httpx.AsyncClient, store: str) -> None:
    content = "x" * (idempotency.MAX_KEPT_BYTES // 2)
    body = {"embeddings": [{"content": content, "embedding": [1.0, 2.0]}] * 2}
    path = f"{STORES}/{store}/embeddings/batch"
    small = (await http.post(STORES, json={"embedding_dimension": 2})).json()["id"]

    first, second = [await http.post(path.replace(store, small), json=body, headers=KEYED) for _ in range(2)]

    assert first.status_code == 200
    assert code(second) == (409, "idempotency_answer_not_kept")
    assert second.headers["x-should-retry"] == "false"
    assert await count_chunks(http, small) == 2
