"""HTTP as uvicorn speaks it, with an end to connections on which no request comes, and fewer copies of bodies."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 30  # from a connection, or a request's first byte, to the end of the request's headers


class Protocol(HttpToolsProtocol):
    """uvicorn itself waits for the headers as long as somebody keeps the connection open."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as uvicorn's
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._wait_no_longer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        # A large body comes in pieces that are asked for one by one: as it is, a piece is not copied twice more.
        if not self.cycle.body:
            self.cycle.body, body = body, b""  # pyright: ignore[reportAttributeAccessIssue]  # what it makes of it
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
