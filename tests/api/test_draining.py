"""A worker that has only so much time, as on AWS Lambda: what it does, and what it leaves to others."""

import asyncio
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI

from api import worker
from api.services import ingestion, vector_indexes
from tests.api.synced_tables import ARTICLES, declare, execute, fetch, state
from tests.fake_embedder import FakeEmbedder
from tests.working import opened

LARGE = 300
SECONDS = 60


async def drain(settings: dict[str, Any], *, seconds: float = SECONDS) -> int:
    async with opened(settings) as resources:
        return await worker.drain(resources, seconds=seconds)


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch, embedder: FakeEmbedder) -> float:
    """So much time that a file is begun, and no file is done."""
    monkeypatch.setattr(worker, "SHUTDOWN_SECONDS", 0.5)
    embedder.delay_seconds = SECONDS
    return 2.5


async def waiting_file(openai: AsyncOpenAI) -> tuple[str, str]:
    file = await openai.files.create(file=("a.txt", b"Text."), purpose="assistants")
    return (await openai.vector_stores.create(file_ids=[file.id])).id, file.id


async def large_store(http: httpx.AsyncClient) -> str:
    store = (await http.post("/v1/vector_stores", json={"embedding_dimension": 2})).json()["id"]
    rows = [{"content": "x", "embedding": [1.0, float(number)]} for number in range(LARGE)]
    await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": rows})
    return store


async def index_of(http: httpx.AsyncClient, store: str) -> dict[str, Any]:
    return (await http.get(f"/v1/vector_stores/{store}/index")).json()


async def test_a_file_that_takes_longer_than_a_worker_has_is_given_up_and_says_what_to_do(
    openai: AsyncOpenAI, settings: dict[str, Any], database: str, soon_over: float
) -> None:
    store, file = await waiting_file(openai)
    left = await drain(settings, seconds=soon_over)
    first = await fetch(database, "SELECT status, starts FROM vector_store_files")
    await execute(database, "UPDATE vector_store_files SET starts = 2")
    await drain(settings, seconds=soon_over)
    failed = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert (left, first) == (1, [("in_progress", 1)])
    assert failed.last_error is not None
    assert (failed.status, failed.last_error.code) == ("failed", "server_error")
    assert "run `quiver worker`" in failed.last_error.message
    assert (await openai.vector_stores.retrieve(store)).file_counts.failed == 1


async def test_a_file_that_a_worker_began_at_its_end_is_not_blamed(
    openai: AsyncOpenAI, settings: dict[str, Any], database: str, embedder: FakeEmbedder
) -> None:
    store, file = await waiting_file(openai)
    embedder.delay_seconds = SECONDS
    async with opened(settings) as resources, asyncio.timeout(SECONDS):
        ingesting = asyncio.create_task(ingestion.ingest(resources, store, file, worker_seconds=10 * SECONDS))
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
        ingesting.cancel()
        await asyncio.wait([ingesting])

    assert await fetch(database, "SELECT status, starts FROM vector_store_files") == [("in_progress", 0)]


async def test_synced_tables_are_brought_up_to_date(
    http: httpx.AsyncClient, settings: dict[str, Any], database: str
) -> None:
    await execute(database, ARTICLES)
    sync = await declare(http)

    assert await drain(settings) == 0
    assert (await state(http, sync))["status"] == "completed"


async def test_large_stores_get_their_indexes(http: httpx.AsyncClient, settings: dict[str, Any]) -> None:
    store = await large_store(http)
    await drain(settings | {"vector_index": {"min_chunks": LARGE}})

    assert (await index_of(http, store))["status"] == "ready"


async def test_a_build_that_takes_longer_than_half_of_the_time_is_given_up_and_told(
    http: httpx.AsyncClient, settings: dict[str, Any], database: str
) -> None:
    store = await large_store(http)
    async with (
        opened(settings | {"vector_index": {"min_chunks": LARGE}}) as resources,
        await psycopg.AsyncConnection.connect(database) as writer,
    ):
        await writer.execute("INSERT INTO embeddings SELECT * FROM embeddings WHERE false")  # a build waits for it
        async with asyncio.timeout(SECONDS):
            built = await vector_indexes.care(resources, seconds=1)

    assert built == 0
    assert "timeout" in (await index_of(http, store))["build"]["last_error"]


async def test_nobody_waits_for_a_job_that_another_worker_is_at(settings: dict[str, Any], database: str) -> None:
    await execute(
        database,
        "WITH worker AS (INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id) "
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, status, worker_id) "
        "SELECT 'vector_indexes', 'care_for_vector_indexes', 'care_for_vector_indexes', 'doing', id FROM worker",
    )
    async with asyncio.timeout(SECONDS):
        assert await drain(settings, seconds=10 * SECONDS) == 0
