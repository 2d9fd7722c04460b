"""One log line and one count for each request, and the request id that joins it to the caller's own."""

import itertools
import re
import secrets
import sys
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Literal

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedder.metrics import Metrics

REQUEST_ID_HEADER = "x-request-id"
USABLE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
QUIET = ("/health", "/ready", "/metrics")
PROCESS, NUMBERS = secrets.token_hex(8), itertools.count(1)  # together a request's id; random ones cost a system call
UNMATCHED = "other"  # one label for all paths that are none: anybody can make up more

log = structlog.get_logger()


class AccessLog:
    """The line goes past structlog where it is JSON: that would cost a request more than its routing does."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, form: Literal["json", "console"], is_written: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._is_written = is_written
        self._write = write_json if form == "json" else write_console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500  # what the server answers when no response was begun
        started = time.perf_counter()

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            return send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            path: str = scope["path"]
            route = scope.get("route")
            self._metrics.count_request(route.path if route is not None else UNMATCHED, status, seconds)
            if self._is_written and not path.endswith(QUIET):
                milliseconds = round(seconds * 1000, 1)
                self._write(request_id, method=scope["method"], path=path, status=status, milliseconds=milliseconds)


def request_id_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and USABLE_ID.fullmatch(value):
            return value.decode()
    return f"req_{PROCESS}{next(NUMBERS):08x}"


def write_json(request_id: str, **facts: str | float) -> None:
    line = {"event": "request", **facts, "request_id": request_id, "level": "info", "timestamp": datetime.now(UTC)}
    sys.stderr.write(orjson.dumps(line, option=orjson.OPT_UTC_Z).decode() + "\n")


def write_console(request_id: str, **facts: str | float) -> None:
    log.info("request", **facts, request_id=request_id)
