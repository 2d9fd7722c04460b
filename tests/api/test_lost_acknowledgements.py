"""A write whose acknowledgement is lost: the request fails, was carried out, and is not carried out again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from api.up.embedded_postgres import SOCKET_NAME
from tests.api.synced_tables import ARTICLES, execute, fetch
from tests.api.test_tenants import ROUTES, Caller, Route, furnish
from tests.conftest import KEY, Serve, raw
from tests.processes import free_port

COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # what PostgreSQL says when a transaction is there to stay
SYNC = Route("POST", "/v1/table_syncs", "admin", json={"table": "articles", "text_columns": ["title", "body"]})

# Those that write: presigned parts are for files in S3, and answers with a secret are kept nowhere.
WRITES = [route for route in ROUTES if route.method == "POST" and route.role == "write" and route.status == 200] + [
    SYNC
]

COUNT = """
SELECT (SELECT count(*) FROM vector_stores), (SELECT count(*) FROM embeddings), (SELECT count(*) FROM files),
       (SELECT count(*) FROM vector_store_files), (SELECT count(*) FROM file_batches), (SELECT count(*) FROM uploads),
       (SELECT count(*) FROM upload_parts), (SELECT count(*) FROM table_syncs),
       (SELECT count(*) FROM procrastinate_jobs)
"""


class Line:
    """A way to PostgreSQL that can break once, between a commit and its acknowledgement."""

    def __init__(self, database: str) -> None:
        address = urlsplit(database)
        [directory] = parse_qs(address.query)["host"]
        self._socket = f"{directory}/{SOCKET_NAME}"
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}{address.path}"
        self.breaks = False

    async def open(self) -> asyncio.Server:
        return await asyncio.start_server(self._connect, "127.0.0.1", self._port)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_unix_connection(self._socket)
        directions = {
            asyncio.create_task(self._carry(reader, questions)),
            asyncio.create_task(self._carry(answers, writer)),
        }
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, questions):
            end.transport.abort()
        await asyncio.wait(directions)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if self.breaks and COMMITTED in data:
                    self.breaks = False
                    return
                writer.write(data)
        except ConnectionError:
            return


@pytest.fixture
async def line(database: str) -> AsyncIterator[Line]:
    line = Line(database)
    async with AsyncExitStack() as exits:
        listening = await line.open()
        exits.callback(listening.close)
        yield line


@pytest.fixture
async def http(line: Line, serve: Serve, settings: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(**settings | {"database_url": line.url}) as client:
        yield raw(client)


@pytest.fixture
async def caller(http: httpx.AsyncClient, database: str) -> Caller:
    """One that has one of everything, and a table, and sends everything else with one key."""
    caller = Caller(http, KEY)
    await furnish(caller)
    await execute(database, ARTICLES)
    http.headers["Idempotency-Key"] = "order-66"
    return caller


@pytest.mark.parametrize("route", WRITES, ids=lambda route: route.path)
async def test_a_retry_after_a_lost_acknowledgement_gets_the_answer_and_writes_nothing(
    line: Line, caller: Caller, database: str, route: Route
) -> None:
    line.breaks = True
    lost = await caller.send(route)
    written = await fetch(database, COUNT)

    again = await caller.send(route)

    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "database_unavailable")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true"), again.text
    assert await fetch(database, COUNT) == written


async def test_what_was_carried_out_is_what_the_retry_is_told(line: Line, http: httpx.AsyncClient) -> None:
    http.headers["Idempotency-Key"] = "order-66"
    line.breaks = True
    await http.post("/v1/vector_stores", json={"name": "a"})

    told = (await http.post("/v1/vector_stores", json={"name": "a"})).json()

    assert (await http.get("/v1/vector_stores")).json()["data"] == [told]
