"""What a synced table costs those who write to it, and how fast a burst of changes becomes rows that wait.

    make bench-table-sync

Everything runs on the same cores. Nothing is embedded: what is measured is PostgreSQL and the worker's statements.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import LiteralString

import psycopg

from api.resources import Resources
from api.schemas import CreateTableSyncRequest
from api.services import table_sync_work, table_syncs
from api.settings import Settings
from api.tables import migrations
from api.tables import table_syncs as queue
from api.up.embedded_postgres import EmbeddedPostgres

SINGLE_WRITES = 2_000

LOAD = "INSERT INTO articles SELECT n, 'Title ' || n, repeat('word ', 50) FROM generate_series(1, %s) AS n"
UPDATE_ALL = "UPDATE articles SET title = title || '!'"
# Every row a hundred times over: a burst of as many changes as there are rows, of one row in a hundred.
UPDATE_SOME = "UPDATE articles SET title = title || '?' WHERE id <= (SELECT max(id) / 100 FROM articles)"


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


async def measure(url: str, rows: int) -> None:
    resources = Resources.of(Settings(database_url=url, _env_file=None))  # pyright: ignore[reportCallIssue]  # pydantic's
    await resources.database.open()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
        await connection.execute(LOAD, [rows])
        await connection.execute("VACUUM ANALYZE articles")
        before = (
            await single_writes(connection),
            await in_one_transaction(connection),
            await seconds(connection, UPDATE_ALL),
        )
        await connection.execute("VACUUM articles")
        started = time.perf_counter()
        sync = await table_syncs.create(resources, CreateTableSyncRequest(table="articles", text_columns=["title"]))
        declared = time.perf_counter() - started
        after = (
            await single_writes(connection),
            await in_one_transaction(connection),
            await seconds(connection, UPDATE_ALL),
        )
        for _ in range(99):
            await connection.execute(UPDATE_SOME)
        [changes] = await (await connection.execute("SELECT count(*) FROM table_sync_changes")).fetchone() or (0,)
        started = time.perf_counter()
        async with resources.database.transaction(is_long=True) as taking:
            while (await queue.take_over(taking, sync["id"], limit=table_sync_work.TAKEN_CHANGES))[0]:
                pass
        taken = time.perf_counter() - started
        [waiting] = await (await connection.execute("SELECT count(*) FROM table_sync_rows")).fetchone() or (0,)
        started = time.perf_counter()
        await table_syncs.drop(resources, sync["id"])
        dropped = time.perf_counter() - started
    await resources.close()
    print(f"{rows:,} rows                                     without      with the sync")
    print(f"one row updated, its own transaction       {before[0]:8.3f} ms  {after[0]:8.3f} ms")
    print(f"one row updated, one of {SINGLE_WRITES:,} in one        {before[1]:8.3f} ms  {after[1]:8.3f} ms")
    print(f"all rows updated in one statement          {before[2]:8.2f} s   {after[2]:8.2f} s")
    print(f"{changes:,} changes taken over as {waiting:,} rows in {taken:.1f} s")
    print(f"declared in {declared * 1000:.0f} ms, dropped in {dropped * 1000:.0f} ms, all of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres(Path(directory) / "data", durable=True) as server:
        asyncio.run(migrations.apply(server.url))
        asyncio.run(measure(server.url, rows))


if __name__ == "__main__":
    main()
