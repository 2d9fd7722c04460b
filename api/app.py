"""The HTTP application, assembled in plain sight."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api import tracing
from api.access_log import AccessLog
from api.answers import add_error_handlers
from api.auth import METRICS_PATH, PUBLIC_PATHS, Authenticate, required_key
from api.errors import ConfigurationError, DatabaseUnavailable, StorageUnavailable
from api.idempotency import Idempotency
from api.limits import Limit
from api.observation import current as current_observation
from api.openapi import DescribedApp
from api.resources import Resources
from api.routes import embeddings, files, keys, operations, table_syncs, uploads, vector_store_files, vector_stores
from api.settings import Settings
from api.shortcuts import Shortcuts

log: structlog.stdlib.BoundLogger = structlog.get_logger()

OPERATIONS = PUBLIC_PATHS | {METRICS_PATH}  # which have no version


class AnyBase:
    """ASGI middleware for bases with `/v1`, without it, and with it twice: all lead to the routes under `/v1`.

    LiteLLM's pg_vector provider appends `/v1/vector_stores` to its base, its openai provider `/vector_stores`; either
    is given the other's base now and then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPERATIONS:
            path: str = scope["path"]
            while path.startswith("/v1/"):
                path = path.removeprefix("/v1")
            if (path := f"/v1{path}") != scope["path"]:
                scope = {**scope, "path": path}
        try:
            await self._app(scope, receive, send)
        finally:
            if (observation := current_observation()) is not None:
                observation.see(scope)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application.

    Raises:
        ConfigurationError: there is no database or no key configured. A mapping that does not fit the table, or a
            database that is not migrated, is found when the application starts up.
    """
    settings = settings or Settings()
    if settings.database_url is None:
        raise ConfigurationError(
            "DATABASE_URL is not set. Set it to postgresql://user:password@host:5432/database, "
            "or run `quiver up`, which brings a database of its own."
        )
    key = required_key(settings)
    resources = Resources.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        tracing.start("quiver-api")
        await resources.open()
        try:
            with suppress(DatabaseUnavailable):  # it may come later; until then every answer, and /ready, says so
                table = await resources.database.chunk_table()
                if table.unfilled:
                    log.warning("table_refuses_inserts", table=table.name, columns_without_a_value=table.unfilled)
            with suppress(StorageUnavailable):  # likewise; it is in the log
                await resources.blobs.check()
            yield
        finally:
            await resources.close()
            await asyncio.to_thread(tracing.stop)

    app = DescribedApp(
        title="Quiver",
        summary="OpenAI's vector stores on your own PostgreSQL",
        version=version("quiver"),
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours are AccessLog's
        middleware=[
            Middleware(AccessLog, metrics=resources.metrics),
            Middleware(AnyBase),
            Middleware(Authenticate, key=key, resources=resources),
            Middleware(Limit, resources=resources),
            Middleware(Idempotency, resources=resources),
            Middleware(Shortcuts),
        ],
    )
    app.state.resources = resources
    add_error_handlers(app)
    for part in (embeddings, files, keys, table_syncs, uploads, vector_store_files, vector_stores):
        app.include_router(part.router, prefix="/v1")
    app.include_router(operations.router)
    return app
