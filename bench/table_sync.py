"""What a synced table costs those who write to it, how long it is locked, and what becomes of a burst of changes.

    make bench-table-sync               a table of a million rows
    make bench-table-sync ROWS=20000

Everything runs on the same cores. The embedding service is a stand-in that costs nothing and counts what it is asked:
what is measured is PostgreSQL and the worker's statements.
"""

import argparse
import asyncio
import base64
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import numpy as np
import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.resources import Resources
from api.schemas.table_syncs import CreateTableSyncRequest
from api.services import table_sync_work, table_syncs
from api.tables import migrations
from api.tables import table_syncs as queue
from api.up.embedded_postgres import EmbeddedPostgres
from bench.stack import opened_at
from tests.servers import Server

ROWS = 1_000_000
SINGLE_WRITES = 2_000
BURST_ROWS, BURST_UPDATES = 10_000, 100  # a million changes
WATCHED_SECONDS = 2.0  # with nothing else going on, to compare with
LONG_SECONDS = 1800

LOAD = "INSERT INTO articles SELECT n, 'Title ' || n, repeat('word ', 50) FROM generate_series(1, %s) AS n"
UPDATE_ALL = "UPDATE articles SET title = title || '!'"
LOAD_NOTES = "INSERT INTO notes SELECT n, 'Note ' || n FROM generate_series(1, %s) AS n"
UPDATE_NOTES = "UPDATE notes SET body = body || '!'"
COUNT_CHANGES = "SELECT count(*) FROM table_sync_changes"

# What keeps writers out, and readers as well.
LOCKS = """
SELECT count(*) FROM pg_locks
WHERE relation = 'articles'::regclass AND granted AND mode IN ('ShareRowExclusiveLock', 'AccessExclusiveLock')
"""


class CountingEmbedder:
    """Every text has the same vector."""

    def __init__(self) -> None:
        self.texts = 0
        self.server = Server(Starlette(routes=[Route("/v1/embeddings", self._embed, methods=["POST"])]))
        self._vector = base64.b64encode(np.ones(384, "<f4").tobytes()).decode()

    async def _embed(self, request: Request) -> Response:
        texts = (await request.json())["input"]
        self.texts += len(texts)
        return JSONResponse({"data": [{"index": place, "embedding": self._vector} for place in range(len(texts))]})


@dataclass
class Longest:
    """The longest that anybody saw, in milliseconds."""

    lock: float = 0.0
    write: float = 0.0
    read: float = 0.0

    def __str__(self) -> str:
        return f"locked for {self.lock:6.1f} ms, longest write {self.write:6.1f} ms, longest read {self.read:6.1f} ms"


@asynccontextmanager
async def watched(url: str) -> AsyncGenerator[Longest]:
    """Somebody who writes, somebody who reads and somebody who looks at the locks, all without a pause."""
    longest = Longest()
    locked_since: float | None = None

    async def write(connection: psycopg.AsyncConnection) -> None:
        took = await seconds(connection, "UPDATE articles SET body = body || '.' WHERE id = 1")
        longest.write = max(longest.write, took * 1000)

    async def read(connection: psycopg.AsyncConnection) -> None:
        longest.read = max(longest.read, await seconds(connection, "SELECT body FROM articles WHERE id = 2") * 1000)

    async def look(connection: psycopg.AsyncConnection) -> None:
        nonlocal locked_since
        asked = time.perf_counter()
        if not await one(connection, LOCKS):
            locked_since = None
            return
        locked_since = locked_since or asked
        longest.lock = max(longest.lock, (time.perf_counter() - locked_since) * 1000)

    async def repeat(step: Callable[[psycopg.AsyncConnection], Awaitable[None]]) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                await step(connection)

    tasks = [asyncio.create_task(repeat(step)) for step in (write, read, look)]
    await asyncio.sleep(0.5)  # all of them are connected
    longest.lock = longest.write = longest.read = 0.0
    yield longest
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def one(connection: psycopg.AsyncConnection, query: LiteralString) -> int:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]


async def seconds(connection: psycopg.AsyncConnection, statement: LiteralString, *parameters: object) -> float:
    started = time.perf_counter()
    await connection.execute(statement, parameters or None)
    return time.perf_counter() - started


async def single_writes(connection: psycopg.AsyncConnection) -> float:
    """Milliseconds of an update of one row in a transaction of its own."""
    started = time.perf_counter()
    for number in range(SINGLE_WRITES):
        await connection.execute("UPDATE articles SET title = 'x' WHERE id = %s", [number + 1])
    return (time.perf_counter() - started) / SINGLE_WRITES * 1000


async def in_one_transaction(connection: psycopg.AsyncConnection) -> float:
    """Milliseconds of each of so many updates in one transaction."""
    async with connection.transaction():
        return await single_writes(connection)


async def writes(connection: psycopg.AsyncConnection) -> tuple[float, float, float]:
    return (
        await single_writes(connection),
        await in_one_transaction(connection),
        await seconds(connection, UPDATE_ALL),
    )


async def measure_writes(resources: Resources, connection: psycopg.AsyncConnection, url: str, rows: int) -> None:
    """One table, written to without the sync and with it, and watched while that is declared and dropped."""
    await connection.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    await connection.execute(LOAD, [rows])
    await connection.execute("VACUUM ANALYZE articles")
    before = await writes(connection)
    await connection.execute("VACUUM articles")
    async with watched(url) as idle:
        await asyncio.sleep(WATCHED_SECONDS)
    async with watched(url) as declaring:
        started = time.perf_counter()
        sync = await table_syncs.create(resources, CreateTableSyncRequest(table="articles", text_columns=["title"]))
        declared = time.perf_counter() - started
    after = await writes(connection)
    changes = await one(connection, COUNT_CHANGES)
    started = time.perf_counter()
    async with resources.database.transaction(is_long=True) as taking:
        while (await queue.take_over(taking, sync["id"], limit=table_sync_work.TAKEN_CHANGES))[0]:
            pass
    taken = time.perf_counter() - started
    waiting = await one(connection, "SELECT count(*) FROM table_sync_rows")
    async with watched(url) as dropping:
        started = time.perf_counter()
        await table_syncs.drop(resources, sync["id"])
        dropped = time.perf_counter() - started
    print(f"{rows:,} rows                                     without      with the sync")
    print(f"one row updated, its own transaction       {before[0]:8.3f} ms  {after[0]:8.3f} ms")
    print(f"one row updated, one of {SINGLE_WRITES:,} in one        {before[1]:8.3f} ms  {after[1]:8.3f} ms")
    print(f"all rows updated in one statement          {before[2]:8.2f} s   {after[2]:8.2f} s")
    print(f"{changes:,} changes taken over as {waiting:,} rows in {taken:.1f} s")
    print(f"without either            {idle}")
    print(f"declared in {declared * 1000:7.0f} ms    {declaring}")
    print(f"dropped in {dropped * 1000:8.0f} ms    {dropping}")


async def measure_burst(resources: Resources, connection: psycopg.AsyncConnection, embedder: CountingEmbedder) -> None:
    """A million changes of few rows, all there before a worker sees the first."""
    await connection.execute("CREATE TABLE notes (id bigint PRIMARY KEY, body text)")
    await connection.execute(LOAD_NOTES, [BURST_ROWS])
    sync = await table_syncs.create(resources, CreateTableSyncRequest(table="notes", text_columns=["body"]))
    await table_sync_work.work(resources, seconds=LONG_SECONDS)
    embedder.texts = 0
    for _ in range(BURST_UPDATES):
        await connection.execute(UPDATE_NOTES)
    changes = await one(connection, COUNT_CHANGES)
    started = time.perf_counter()
    await table_sync_work.work(resources, seconds=LONG_SECONDS)
    worked = time.perf_counter() - started
    status = (await table_syncs.get(resources, sync["id"]))["status"]
    print(f"{changes:,} changes of {BURST_ROWS:,} rows: {embedder.texts:,} texts embedded, {status} in {worked:.1f} s")


async def measure(url: str, rows: int) -> None:
    embedder = CountingEmbedder()
    embedder.server.start()
    async with (
        opened_at(url, embedding={"base_url": embedder.server.base_url}) as resources,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        await measure_writes(resources, connection, url, rows)
        await measure_burst(resources, connection, embedder)
    embedder.server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "data", durable=True) as server:
        asyncio.run(migrations.apply(server.url))
        asyncio.run(measure(server.url, rows))


if __name__ == "__main__":
    main()
