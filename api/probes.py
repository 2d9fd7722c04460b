"""The worker's HTTP side: whether it lives, whether it finds what it needs, what it has done. For operators alone."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.listener import listen
from api.metrics import CONTENT_TYPE
from api.resources import Resources
from api.services import readiness

SHUTDOWN_SECONDS = 1


@asynccontextmanager
async def served(resources: Resources) -> AsyncGenerator[None]:
    """Answer probes meanwhile, if WORKER_PORT says where.

    Raises:
        ConfigurationError: the port cannot be had.
    """
    settings = resources.settings
    if settings.worker_port is None:
        yield
        return
    with listen(settings.host, settings.worker_port, host_setting="HOST", port_setting="WORKER_PORT") as listener:
        config = uvicorn.Config(
            create_app(resources),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def create_app(resources: Resources) -> Starlette:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        answer = await readiness.check(resources)
        return JSONResponse(answer, status_code=200 if answer["status"] == "ok" else 503)

    async def metrics(_: Request) -> Response:
        return Response(resources.metrics.text(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals to the worker."""
        yield
