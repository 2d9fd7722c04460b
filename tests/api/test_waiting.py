"""Waiting for PostgreSQL on a connection that the event loop keeps watching: what may come instead of an answer."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import dict_row

from api.tables.waiting import WatchedConnection


async def connect(url: str) -> WatchedConnection:
    return await WatchedConnection.connect(url, autocommit=True, row_factory=dict_row)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[WatchedConnection]:
    async with await connect(database) as connection:
        yield connection


async def one(connection: WatchedConnection) -> object:
    row = await (await connection.execute("SELECT 1 AS one")).fetchone()
    assert row is not None
    return row["one"]


async def sleeping(connection: WatchedConnection, database: str) -> "asyncio.Task[object]":
    """A statement under way that does not end by itself."""
    task: asyncio.Task[object] = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    async with asyncio.timeout(30), await connect(database) as other:
        while True:
            found = await other.execute(
                "SELECT pid FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'",
                [connection.info.backend_pid],
            )
            if await found.fetchone() is not None:
                return task


async def end(connection: WatchedConnection, database: str) -> None:
    async with await connect(database) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 30000)", [connection.info.backend_pid])


async def test_a_statement_that_nobody_waits_for_is_ended(connection: WatchedConnection, database: str) -> None:
    task = await sleeping(connection, database)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await one(connection) == 1


async def test_a_server_that_goes_away_under_way_is_noticed(connection: WatchedConnection, database: str) -> None:
    task = await sleeping(connection, database)
    await end(connection, database)
    with pytest.raises(psycopg.OperationalError):
        await task

    assert connection.broken
    async with await connect(database) as after:  # whose socket may have the number of the one that was lost
        assert await one(after) == 1


async def test_a_server_that_goes_away_between_statements_is_noticed(
    connection: WatchedConnection, database: str
) -> None:
    await one(connection)
    await end(connection, database)
    with pytest.raises(psycopg.OperationalError):
        await one(connection)

    async with await connect(database) as after:
        assert await one(after) == 1


async def test_ways_of_waiting_take_turns_on_a_connection(connection: WatchedConnection) -> None:
    await one(connection)
    async with connection.pipeline():
        cursors = [await connection.execute("SELECT %s::integer AS number", [number]) for number in range(3)]
        rows = [await cursor.fetchone() for cursor in cursors]
    async with connection.cursor().copy("COPY (SELECT 7 AS seven) TO STDOUT") as copy:
        copied = [row async for row in copy.rows()]

    assert rows == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert copied == [("7",)]
    assert await one(connection) == 1


async def test_what_the_server_says_unasked_wakes_nobody(connection: WatchedConnection, database: str) -> None:
    await connection.execute("LISTEN news")
    async with await connect(database) as other:
        await other.execute("NOTIFY news")

    assert await one(connection) == 1
    assert [notice.channel async for notice in connection.notifies(timeout=30, stop_after=1)] == ["news"]
