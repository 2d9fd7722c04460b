"""The worker: a process of its own that takes jobs from the queue and stops when it is asked to."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI

from api.services import expiry
from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from tests.fake_embedder import FakeEmbedder
from tests.working import opened, worker_process

SECONDS = 30


async def expire(database: str, store: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "UPDATE vector_stores SET expires_at = now() - interval '1 second' WHERE id = %s", (store,)
        )


async def filled_store(openai: AsyncOpenAI, http: httpx.AsyncClient) -> str:
    store = await openai.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})
    await http.post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": "text"})
    return store.id


async def test_an_expired_store_refuses_work_but_can_be_looked_at(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str
) -> None:
    store = await filled_store(openai, http)
    await expire(database, store)

    search = await http.post(f"/v1/vector_stores/{store}/search", json={"query": "text"})
    insert = await http.post(f"/v1/vector_stores/{store}/embeddings", json={"content": "more"})

    assert (search.status_code, insert.status_code) == (400, 400)
    assert search.json()["error"]["code"] == "vector_store_expired"
    assert (await openai.vector_stores.retrieve(store)).status == "expired"


async def test_a_sweep_empties_what_has_expired_and_nothing_else(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str, settings: dict[str, Any]
) -> None:
    kept, expired = await filled_store(openai, http), await filled_store(openai, http)
    await expire(database, expired)

    async with opened(settings) as resources:
        first, second = await expiry.sweep(resources), await expiry.sweep(resources)

    assert (first, second) == ([expired], [])
    assert (await http.get(f"/v1/vector_stores/{expired}/embeddings")).json()["data"] == []
    assert len((await http.get(f"/v1/vector_stores/{kept}/embeddings")).json()["data"]) == 1
    swept = await openai.vector_stores.retrieve(expired)
    assert (swept.status, swept.usage_bytes, swept.file_counts.total) == ("expired", 0, 0)


async def test_a_store_that_expires_while_a_text_is_embedded_takes_it_no_more(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    store = await filled_store(openai, http)
    embedder.delay_seconds = 0.5
    insertion = asyncio.create_task(http.post(f"/v1/vector_stores/{store}/embeddings", json={"content": "late"}))
    async with asyncio.timeout(SECONDS):
        while "late" not in embedder.texts:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
    await expire(database, store)

    async with opened(settings) as resources:
        await expiry.sweep(resources)

    assert (await insertion).status_code == 400
    assert (await http.get(f"/v1/vector_stores/{store}/embeddings")).json()["data"] == []


@pytest.mark.parametrize("expires_after", [None, {"anchor": "last_active_at", "days": 5}])
async def test_an_expired_store_is_revived_by_modifying_its_expiry(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str, settings: dict[str, Any], expires_after: Any
) -> None:
    store = await filled_store(openai, http)
    await expire(database, store)
    async with opened(settings) as resources:
        await expiry.sweep(resources)

    revived = await openai.vector_stores.update(store, expires_after=expires_after)

    assert revived.status == "completed"
    assert (await http.post(f"/v1/vector_stores/{store}/embeddings", json={"content": "new"})).status_code == 200


async def test_a_worker_process_sweeps_and_stops_when_asked(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str, tmp_path: Path
) -> None:
    store = await filled_store(openai, http)
    await expire(database, store)

    async with working(database, tmp_path):
        await defer_sweep(database)
        await until_no_job_waits(database)

    assert (await http.get(f"/v1/vector_stores/{store}/embeddings")).json()["data"] == []


@asynccontextmanager
async def working(database: str, directory: Path) -> AsyncGenerator[Process]:
    """A worker; at the end it is asked to stop, and must, with status 0."""
    async with worker_process({"DATABASE_URL": database}, directory) as worker:
        yield worker
        worker.send_signal(signal.SIGTERM)
        log = directory / "worker.log"
        assert await asyncio.wait_for(worker.wait(), SECONDS) == 0, log.read_text()


async def until_no_job_waits(database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as connection,
        asyncio.timeout(SECONDS),
    ):
        while await (await connection.execute("SELECT 1 FROM procrastinate_jobs")).fetchone():  # noqa: ASYNC110  # it works
            await asyncio.sleep(0.1)


async def defer_sweep(database: str) -> None:
    """What the clock does each minute, now."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "VALUES ('default', 'sweep_expired_stores', '{\"timestamp\": 0}')"
        )


async def test_a_worker_without_its_database_stops_when_asked(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    await migrations.apply(server.url)

    async with working(server.url, tmp_path):
        server.stop()


async def test_a_worker_survives_the_absence_of_its_database(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    await migrations.apply(server.url)
    try:
        async with working(server.url, tmp_path) as worker:
            server.stop()
            server.start()
            await defer_sweep(server.url)
            await until_no_job_waits(server.url)

            assert worker.returncode is None
    finally:
        server.stop()


async def test_files_that_take_long_do_not_keep_a_sweep_waiting(
    openai: AsyncOpenAI,
    http: httpx.AsyncClient,
    database: str,
    settings: dict[str, Any],
    embedder: FakeEmbedder,
    tmp_path: Path,
) -> None:
    expired = await filled_store(openai, http)
    file = await openai.files.create(file=("a.txt", b"Long text."), purpose="assistants")
    await openai.vector_stores.create(file_ids=[file.id])
    await expire(database, expired)
    embedder.delay_seconds = 60
    environment = {
        "DATABASE_URL": database,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "FILES_DIR": str(settings["files_dir"]),
        "WORKER_CONCURRENCY": "1",
    }
    async with worker_process(environment, tmp_path), asyncio.timeout(SECONDS):
        while "Long text." not in embedder.texts:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.05)
        await defer_sweep(database)
        while (await http.get(f"/v1/vector_stores/{expired}/embeddings")).json()["data"]:  # noqa: ASYNC110  # it works
            await asyncio.sleep(0.1)


async def test_a_worker_that_waits_for_its_database_stops_soon(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    await migrations.apply(server.url)
    async with worker_process({"DATABASE_URL": server.url}, tmp_path) as worker:
        server.stop()
        async with asyncio.timeout(3 * SECONDS):  # the queue may have been opening, which takes half a minute to fail
            while "worker_waits_for_database" not in (tmp_path / "worker.log").read_text():  # noqa: ASYNC110  # it writes
                await asyncio.sleep(0.1)
            await asyncio.sleep(3)  # by then it looks for the database anew
        worker.terminate()

        assert await asyncio.wait_for(worker.wait(), 15) == 0


async def test_a_job_that_waits_already_is_not_deferred_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    await migrations.apply(server.url)
    waits_longer = """
    INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, scheduled_at)
    VALUES ('table_syncs', 'sync_tables', 'sync_tables', now() + interval '1 hour')
    """
    try:
        async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as connection:
            await connection.execute(waits_longer)
            async with working(server.url, tmp_path):
                await until_deferred_again(connection, "index_keywords")  # ten seconds, and ten turns of the other

            deferred = await connection.execute("SELECT DISTINCT task_name FROM procrastinate_periodic_defers")
            assert ("sync_tables",) not in await deferred.fetchall()
    finally:
        server.stop()

    assert "ERROR" not in server.log_path.read_text()


async def until_deferred_again(connection: psycopg.AsyncConnection, task: str) -> None:
    seen: set[int] = set()  # the moments it was due at; the table has the last
    async with asyncio.timeout(SECONDS):
        while len(seen) < 2:
            rows = await connection.execute(
                "SELECT defer_timestamp FROM procrastinate_periodic_defers WHERE task_name = %s", (task,)
            )
            seen |= {timestamp for (timestamp,) in await rows.fetchall()}
            await asyncio.sleep(0.2)
