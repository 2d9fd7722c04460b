"""The API as a process: one port, uvicorn on it, and failures to start told in a sentence."""

import gc
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.errors import ConfigurationError
from api.listener import listen
from api.protocol import Protocol
from api.settings import Settings
from api.shared_port import BACKLOG, ConnectionCounts, SharingServer

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GRACE_SECONDS = 10  # requests that are not answered by then are cut off
GARBAGE_THRESHOLD = 10_000  # objects more, then the young ones are looked through for cycles
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished first.

    With several processes, this one looks after them: when one of them ends, all do, and whoever started this one
    starts all of them again.

    Raises:
        ConfigurationError: the API cannot start as it is configured.
    """
    # uvicorn raises the signal again when it has shut down; this makes it, and one before that, a clean end.
    for number in STOP_SIGNALS:
        signal.signal(number, _end_well)
    app = _RememberFailure(create_app(settings))
    with listen(settings.host, settings.port, host_setting="HOST", port_setting="PORT") as listener:
        host, port = listener.getsockname()[:2]
        log.info("api_starts", host=host, port=port, processes=settings.api_processes)
        counts = ConnectionCounts(settings.api_processes)
        if settings.api_processes > 1:
            status = _fork(settings.api_processes, counts)
            if status is not None:
                sys.exit(status)
        _serve(app, listener, counts)


def _serve(app: "_RememberFailure", listener: socket.socket, counts: ConnectionCounts) -> None:
    # What the start made stays, and a large batch makes thousands of objects: looking through all of them again and
    # again took a seventh of its time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Protocol,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        proxy_headers=False,  # nobody asks from where a request came
        backlog=BACKLOG,
    )
    try:
        SharingServer(config, listener, counts).run()
    except SystemExit:
        if app.failure is None:
            raise
        raise app.failure from None


def _fork(count: int, counts: ConnectionCounts) -> int | None:
    """Split into processes. None in each of them; in this one, when all have ended, what the first said that failed."""
    children: list[int] = []
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until there is somebody to pass them on
    for process in range(count):
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            counts.become(process)
            return None
        children.append(pid)

    is_ending = False

    def end(_number: int = 0, _frame: FrameType | None = None) -> None:
        nonlocal is_ending
        if not is_ending:  # a second signal would have them cut their requests off
            is_ending = True
            for child in children:
                os.kill(child, signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    failed = 0
    while children:
        pid, waited = os.wait()
        children.remove(pid)
        status = os.waitstatus_to_exitcode(waited)
        is_asked = is_ending and -status in STOP_SIGNALS  # after the end of its own handlers
        failed = failed or (0 if is_asked else abs(status))
        end()
    return failed


def _end_well(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


class _RememberFailure:
    """Keeps a ConfigurationError of the start-up, which uvicorn would print as a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.failure: ConfigurationError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failing = False

        async def send_unless_failing(message: Message) -> None:
            nonlocal failing
            failing = message["type"] == "lifespan.startup.failed"
            if not failing:
                await send(message)

        try:
            await self._app(scope, receive, send_unless_failing)
        except ConfigurationError as error:
            self.failure = error
            await send({"type": "lifespan.startup.failed", "message": ""})
