"""Ingestion: what fails is named, what may come back is tried again, and a killed worker loses nothing."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI
from starlette.responses import JSONResponse

from api.resources import Resources
from tests.conftest import make_settings
from tests.fake_embedder import FakeEmbedder
from tests.working import work_off, worker_process

SECONDS = 60


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


async def attach(openai: AsyncOpenAI, store: str, content: bytes, name: str = "a.txt") -> str:
    file = await openai.files.create(file=(name, content), purpose="assistants")
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file.id)
    return file.id


async def execute(database: str, statement: str) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def make_due(database: str) -> None:
    """What waits for another try need not wait for the time."""
    await execute(database, "UPDATE procrastinate_jobs SET scheduled_at = NULL")


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"\x00\x01\x02\x03" * 100, "a.bin", "unsupported_file"),
        (b"%PDF-1.7 and nothing of the kind", "a.pdf", "invalid_file"),
        (b" \n\n ", "a.txt", "invalid_file"),
    ],
)
async def test_a_file_that_cannot_be_read_fails_alone_and_says_why(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], content: bytes, name: str, code: str
) -> None:
    bad, good = await attach(openai, store, content, name), await attach(openai, store, b"Good.")
    await work_off(settings)
    failed = await openai.vector_stores.files.retrieve(bad, vector_store_id=store)
    after = await openai.vector_stores.retrieve(store)

    assert failed.last_error is not None
    assert (failed.status, failed.last_error.code, failed.usage_bytes) == ("failed", code, 0)
    assert len(failed.last_error.message) > 20
    assert (after.file_counts.completed, after.file_counts.failed, after.status) == (1, 1, "completed")
    assert [result.file_id for result in (await openai.vector_stores.search(store, query="a")).data] == [good]


async def test_a_batch_of_which_every_file_fails_has_failed(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any]
) -> None:
    file = await openai.files.create(file=("a.txt", b" "), purpose="assistants")
    batch = await openai.vector_stores.file_batches.create(store, file_ids=[file.id])
    await work_off(settings)

    assert (await openai.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)).status == "failed"


async def test_a_short_absence_of_the_embedder_costs_nothing(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    file = await attach(openai, store, b"Text.")
    embedder.failures = [JSONResponse({"error": {"message": "away"}}, 503) for _ in range(4)]
    await work_off(settings)

    assert (await openai.vector_stores.files.retrieve(file, vector_store_id=store)).status == "completed"


async def test_a_long_absence_of_the_embedder_is_waited_for(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.ingestion.EMBED_RETRY_SECONDS", 0)
    away = settings | {"embedding": {"base_url": "http://127.0.0.1:9", "max_attempts": 1}}
    file = await attach(openai, store, b"Text.")
    await work_off(away)
    waiting = await openai.vector_stores.files.retrieve(file, vector_store_id=store)
    await make_due(database)
    await work_off(settings)

    assert waiting.status == "in_progress"
    assert (await openai.vector_stores.files.retrieve(file, vector_store_id=store)).status == "completed"


async def test_an_absence_without_end_is_given_up(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.ingestion.EMBED_RETRY_SECONDS", 0)
    away = {"base_url": "http://127.0.0.1:9", "max_attempts": 1}
    file = await attach(openai, store, b"Text.")
    await work_off(settings | {"embedding": away, "ingestion_retry_seconds": 0})
    failed = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert failed.last_error is not None
    assert (failed.status, failed.last_error.code) == ("failed", "server_error")
    assert "cannot be reached" in failed.last_error.message


async def test_a_model_that_is_not_there_fails_the_file_at_once(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    store = (await http.post("/v1/vector_stores", json={"embedding_model": "no-such-model"})).json()["id"]
    file = await attach(openai, store, b"Text.")
    await work_off(settings)
    failed = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert failed.last_error is not None
    assert "no-such-model" in failed.last_error.message


async def test_a_file_whose_bytes_are_lost_says_so(openai: AsyncOpenAI, store: str, settings: dict[str, Any]) -> None:
    file = await attach(openai, store, b"Text.")
    await Resources.of(make_settings(**settings)).blobs.delete(file)
    await work_off(settings)
    failed = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert failed.last_error is not None
    assert (failed.status, "storage" in failed.last_error.message) == ("failed", True)


async def test_a_file_that_kills_its_workers_is_given_up(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str
) -> None:
    file = await attach(openai, store, b"Text.")
    await execute(database, "UPDATE vector_store_files SET starts = 20")
    await work_off(settings)
    failed = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert failed.last_error is not None
    assert (failed.status, failed.last_error.code) == ("failed", "server_error")


async def test_a_worker_that_is_asked_to_stop_hands_its_file_back_uncounted(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    await attach(openai, store, b"Text.")
    embedder.delay_seconds = 40
    environment = {
        "DATABASE_URL": database,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "FILES_DIR": str(settings["files_dir"]),
    }
    async with worker_process(environment, tmp_path) as worker, asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.05)
        worker.terminate()
        await worker.wait()

    assert await execute(database, "SELECT starts FROM vector_store_files") == [(0,)]
    assert await execute(database, "SELECT status FROM procrastinate_jobs WHERE task_name = 'ingest_file'") == [
        ("todo",)
    ]


async def test_a_file_that_is_cancelled_while_it_is_embedded_leaves_nothing(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    file = await openai.files.create(file=("a.txt", b"Late text."), purpose="assistants")
    batch = await openai.vector_stores.file_batches.create(store, file_ids=[file.id])
    embedder.delay_seconds = 1
    working = asyncio.create_task(work_off(settings))
    async with asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
    await openai.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    await working
    after = await openai.vector_stores.retrieve(store)

    assert (after.file_counts.cancelled, after.file_counts.total, after.usage_bytes) == (1, 1, 0)
    assert (await openai.vector_stores.search(store, query="late")).data == []


async def test_one_store_with_many_files_does_not_keep_another_waiting(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    for number in range(8):
        await attach(openai, store, f"Many {number}.".encode())
    other = await openai.vector_stores.create()
    await attach(openai, other.id, b"Few 0.")
    await attach(openai, other.id, b"Few 1.")
    await work_off(settings, concurrency=1)

    assert embedder.texts[:4] == ["Many 0.", "Many 1.", "Few 0.", "Many 2."]
    assert embedder.texts.index("Few 1.") <= 5


async def test_a_file_without_a_job_gets_one(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str
) -> None:
    file = await attach(openai, store, b"Text.")
    await execute(database, "DELETE FROM procrastinate_jobs")
    await execute(
        database,
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
        "VALUES ('default', 'recover_jobs', '{\"timestamp\": 0}')",
    )
    await work_off(settings, concurrency=1)

    assert (await openai.vector_stores.files.retrieve(file, vector_store_id=store)).status == "completed"


async def test_a_killed_job_whose_next_one_waits_already_keeps_no_other_from_being_recovered(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str
) -> None:
    file = await attach(openai, store, b"Text.")
    await execute(
        database,
        """
        INSERT INTO procrastinate_jobs (queue_name, task_name, args, queueing_lock, lock)
        VALUES ('default', 'index_keywords', '{"timestamp": 0}', 'index_keywords', 'index_keywords')
        """,
    )
    await execute(database, "UPDATE procrastinate_jobs SET status = 'doing'")  # of workers that are no longer known
    await execute(
        database,
        """
        INSERT INTO procrastinate_jobs (queue_name, task_name, args, queueing_lock, lock)
        VALUES ('default', 'index_keywords', '{"timestamp": 10}', 'index_keywords', 'index_keywords'),
               ('default', 'recover_jobs', '{"timestamp": 10}', 'recover_jobs', NULL)
        """,
    )
    await work_off(settings, concurrency=1)

    assert (await openai.vector_stores.files.retrieve(file, vector_store_id=store)).status == "completed"
    assert await execute(database, "SELECT task_name FROM procrastinate_jobs WHERE status = 'doing'") == []


async def test_workers_that_are_killed_lose_and_double_nothing(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any], database: str, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    chance = random.Random(7)  # noqa: S311  # when to kill
    names = [f"{number}.txt" for number in range(200)]
    files = [
        (await openai.files.create(file=(name, f"Text of {name}. ".encode() * 300), purpose="assistants")).id
        for name in names
    ]
    strategy: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 0}}
    embedder.delay_seconds = 0.3  # so that many are killed in the middle
    batch = await openai.vector_stores.file_batches.create(store, file_ids=files, chunking_strategy=strategy)

    async def left() -> int:
        return (await openai.vector_stores.retrieve(store)).file_counts.in_progress

    environment = {
        "DATABASE_URL": database,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "FILES_DIR": str(settings["files_dir"]),
    }

    async def kill_until_few_are_left(name: str) -> int:
        kills = 0
        directory = tmp_path / name
        directory.mkdir()
        while await left() > 20:
            async with worker_process(environment, directory):
                await asyncio.sleep(chance.uniform(0.5, 4))
            kills += 1
        return kills

    async with asyncio.timeout(900):
        kills = await asyncio.gather(kill_until_few_are_left("one"), kill_until_few_are_left("two"))
        async with worker_process(environment, tmp_path):
            while await left():  # noqa: ASYNC110  # it works
                await asyncio.sleep(0.5)

    done = await openai.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)
    after = await openai.vector_stores.retrieve(store)
    rows = await execute(
        database,
        "SELECT file_id, count(*), count(DISTINCT chunk_index), max(chunk_index) + 1, sum(octet_length(content)) "
        "FROM embeddings GROUP BY file_id",
    )

    assert sum(kills) >= 4
    assert (done.status, done.file_counts.completed, done.file_counts.total) == ("completed", 200, 200)
    assert (after.file_counts.completed, after.file_counts.total) == (200, 200)
    assert sorted(row[0] for row in rows) == sorted(files)
    assert all(count == distinct == highest for _, count, distinct, highest, _ in rows)
    assert after.usage_bytes == sum(row[4] for row in rows)
