import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from api import protocol
from api.protocol import Protocol
from tests.processes import free_port

SECONDS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that answers everything."""
    port = free_port()
    config = uvicorn.Config(
        PlainTextResponse("all"), http=Protocol, port=port, lifespan="off", log_config=None, timeout_keep_alive=SECONDS
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        while not server.started:  # noqa: ASYNC110  # it does not tell
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()
            server.should_exit = True
            await serving


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", REQUEST[:-2]])
async def test_a_connection_on_which_no_whole_head_comes_is_closed(
    monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    async with connected() as (reader, writer):
        writer.write(beginning)

        assert await reader.read() == b""


async def test_a_connection_is_closed_when_its_second_request_does_not_come_to_the_end_of_its_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    async with connected() as (reader, writer):
        writer.write(REQUEST)
        first = await reader.readuntil(b"all")
        writer.write(REQUEST[:-2])

        assert first.startswith(ANSWER)
        assert await reader.read() == b""


async def test_a_connection_with_requests_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            assert (await reader.readuntil(b"all")).startswith(ANSWER)
            await asyncio.sleep(0.15)  # longer than a head may take
