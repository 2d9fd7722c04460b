import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256

import numpy as np
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from api import protocol
from api.protocol import Protocol
from tests.processes import free_port

SECONDS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"
EVERYTHING = PlainTextResponse("all")  # is answered


async def digest(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the digest of the body, of which the first pieces wait together."""
    await asyncio.sleep(0.05)
    body = b"".join([piece async for piece in Request(scope, receive).stream()])
    await PlainTextResponse(sha256(body).hexdigest())(scope, receive, send)


@asynccontextmanager
async def connected(
    app: ASGIApp = EVERYTHING,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server."""
    port = free_port()
    config = uvicorn.Config(app, http=Protocol, port=port, lifespan="off", log_config=None, timeout_keep_alive=SECONDS)
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


@pytest.mark.parametrize("sizes", [[0], [1], [70_000], [3_000_000], [300_000, 1, 0, 200_000]])
@pytest.mark.parametrize("piece", [1_000, 100_000])
async def test_bodies_arrive_as_they_were_sent(sizes: list[int], piece: int) -> None:
    bodies = [np.random.default_rng(size).bytes(size) for size in sizes]
    sent = b"".join(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies)
    async with connected(digest) as (reader, writer):
        for start in range(0, len(sent), piece):
            writer.write(sent[start : start + piece])
            await writer.drain()

        for body in bodies:  # the next ones were sent before the first was answered
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(64) == sha256(body).hexdigest().encode()
