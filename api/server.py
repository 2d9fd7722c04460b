"""The API as a process: one port, uvicorn on it, and failures to start told in a sentence."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from api.errors import ConfigurationError
from api.listener import listen
from api.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()

GRACE_SECONDS = 10  # requests that are not answered by then are cut off
BACKLOG = 2048


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in flight are finished first.

    Raises:
        ConfigurationError: the API cannot start as it is configured.
    """
    # uvicorn raises the signal again when it has shut down; this makes it, and one before that, a clean end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_well)
    app = _RememberFailure(create_app(settings))
    with listen(settings.host, settings.port, host_setting="HOST", port_setting="PORT") as listener:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            backlog=BACKLOG,
        )
        server = uvicorn.Server(config)
        host, port = listener.getsockname()[:2]
        log.info("api_starts", host=host, port=port)
        try:
            server.run(sockets=[listener])
        except SystemExit:
            if app.failure is None:
                raise
            raise app.failure from None


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
