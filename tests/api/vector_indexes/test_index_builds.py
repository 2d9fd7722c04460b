"""An HNSW index is built behind the writes, once, and whatever becomes of its builder."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg import sql

from api.resources import Resources
from api.services import vector_indexes
from api.worker import INDEXES
from tests.api.vector_indexes.indexed_chunks import LARGE, Chunks, filter_indexes, index_of, indexes
from tests.working import opened, worker_process

SECONDS = 60


async def test_a_store_gets_an_index_when_it_is_large(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE - 1)
    before = await vector_indexes.care(resources), await indexes(database)
    await chunks.put(1)

    assert await vector_indexes.care(resources) == 1
    assert before == (0, {})
    assert list((await indexes(database)).values()) == [True]
    assert await chunks.recall() >= 0.95


async def test_longer_vectors_are_indexed_sooner(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    store = await openai.vector_stores.create(extra_body={"embedding_dimension": 1536})
    rows = [{"content": "x", "embedding": [1.0] * 1535 + [float(number)]} for number in range(100)]
    await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json={"embeddings": rows})

    async with opened(settings | {"vector_index": {"min_chunks": 201}}) as resources:
        assert await vector_indexes.care(resources) == 0
    async with opened(settings | {"vector_index": {"min_chunks": 200}}) as resources:
        assert await vector_indexes.care(resources) == 1


async def test_a_chunk_that_is_committed_late_is_in_the_index(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    [first, *_] = await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute(
            "INSERT INTO embeddings (vector_store_id, id, content, embedding) "
            "SELECT vector_store_id, 'slow', '', embedding FROM embeddings WHERE id = %s",
            (first,),
        )
        await chunks.put(1)
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        await slow.commit()
        await building
    ids = await chunks.find(chunks.vectors[first], max_num_results=2)

    assert sorted(ids) == [first, "slow"]


async def is_building(database: str) -> bool:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute(
            "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database()"
        )
        return bool(await rows.fetchall())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():  # noqa: ASYNC110  # it is another process's
            await asyncio.sleep(0.05)


async def test_writes_and_searches_go_on_while_an_index_is_built(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        young = await chunks.put(LARGE)
        recall = await chunks.recall()
        state = await index_of(chunks)
    await building

    assert (state["status"], state["build"]["attempts"]) == ("building", 1)
    assert "waiting" in state["build"]["phase"]
    assert recall == 1
    assert await chunks.find(chunks.vectors[young[-1]], max_num_results=1) == young[-1:]


async def test_a_build_that_was_broken_off_is_made_good(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
    broken = len(await filter_indexes(database)), await indexes(database)
    recall = await chunks.recall()

    assert await vector_indexes.care(resources) == 1
    assert (broken, list((await indexes(database)).values())) == ((1, {}), [True])
    assert (recall, await chunks.recall()) == (1, pytest.approx(1, abs=0.05))


async def test_a_build_whose_worker_is_killed_is_made_good(
    chunks: Chunks, settings: dict[str, Any], resources: Resources, database: str, tmp_path: Path
) -> None:
    await chunks.put(LARGE)
    environment = {"DATABASE_URL": database, "VECTOR_INDEX__MIN_CHUNKS": str(LARGE), "FILES_DIR": str(tmp_path)}
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        await defer(database, "care_for_vector_indexes", queue=INDEXES)
        async with worker_process(environment, tmp_path) as process:
            await until(lambda: is_building(database))
            process.kill()
            await process.wait()
        still_building = await vector_indexes.care(resources), await is_building(database)
    await until(lambda: is_resting(database))

    await vector_indexes.care(resources)

    assert still_building == (0, True)
    assert (await index_of(chunks))["status"] == "ready"
    assert len(await indexes(database)) == 1


async def is_resting(database: str) -> bool:
    return not await is_building(database)


async def test_an_index_that_was_finished_without_its_worker_is_used(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vector_indexes SET is_ready = false")
    before = (await index_of(chunks))["status"]

    assert await vector_indexes.care(resources) == 0
    assert (before, (await index_of(chunks))["status"]) == ("building", "ready")


async def defer(database: str, task: str, *, queue: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES (%s, %s, '{\"timestamp\": 0}')",
            (queue, task),
        )


async def test_a_build_that_fails_is_said_and_tried_again(
    chunks: Chunks, settings: dict[str, Any], database: str
) -> None:
    await chunks.put(LARGE)
    await spoil(database, "'[1, 2]'")
    async with opened(settings | {"vector_index": {"min_chunks": LARGE, "retry_seconds": 3600}}) as resources:
        first, second = await vector_indexes.care(resources), await vector_indexes.care(resources)
    failed = await index_of(chunks)
    await spoil(database, "(SELECT embedding FROM embeddings WHERE id = 'c00001')")
    async with opened(settings | {"vector_index": {"min_chunks": LARGE, "retry_seconds": 0}}) as resources:
        third = await vector_indexes.care(resources)

    assert (first, second, third) == (0, 0, 1)
    assert (failed["status"], failed["build"]["attempts"]) == ("failed", 1)
    assert failed["build"]["last_error"] == "expected 16 dimensions, not 2"
    assert (await index_of(chunks))["status"] == "ready"


async def spoil(database: str, vector: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        statement = sql.SQL("UPDATE embeddings SET embedding = {} WHERE id = 'c00000'").format(sql.SQL(vector))
        await connection.execute(statement)


async def test_only_one_index_is_built_at_a_time(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE)

    built = await asyncio.gather(*(vector_indexes.care(resources) for _ in range(3)))

    assert sum(built) == 1
    assert len(await indexes(database)) == 1
