"""The embedder's HTTP side: which path leads where, and failures as OpenAI's envelope.

Starlette alone: importing FastAPI takes half a second of a start that takes one, and each request longer.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from embedder import engines
from embedder.access_log import REQUEST_ID_HEADER, AccessLog
from embedder.errors import (
    ApiError,
    InvalidRequest,
    MethodNotAllowed,
    ModelUnavailable,
    NotFound,
    error_response,
)
from embedder.fast_path import FastPath
from embedder.metrics import Metrics
from embedder.pool import Loader, Pool
from embedder.routes import embeddings, models, older, operations, rerank
from embedder.service import CUT_HEADER, Service
from embedder.settings import Settings
from embedder.tracing import Traced

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(settings: Settings | None = None, *, load: Loader = engines.load) -> Starlette:
    """Assemble the server. The models are loaded when it starts: see `opened`."""
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with opened(settings, metrics, load=load) as pool:
            app.state.service = Service(settings, pool, metrics)
            yield

    return assemble(settings, metrics, lifespan=lifespan)


@asynccontextmanager
async def opened(settings: Settings, metrics: Metrics, *, load: Loader = engines.load) -> AsyncGenerator[Pool]:
    """The models, being loaded; leaving finishes what was admitted.

    A model that stands alone, without a file, is waited for: a server without it would be good for nothing.

    Raises:
        ModelUnavailable: the one model cannot be loaded.
        ConfigurationWrong: the file is wrong.
    """
    pool = Pool(settings, load=load, on_batch=metrics.count_batch)
    metrics.watch(pool)
    await pool.start()
    try:
        if settings.config is None:
            await pool.has_loaded.wait()
            if error := next(iter(pool.models)).error:
                raise ModelUnavailable(error)
        yield pool
    finally:
        await pool.close()


def assemble(
    settings: Settings,
    metrics: Metrics,
    *,
    lifespan: Callable[[Starlette], object] | None = None,
    provider: "TracerProvider | None" = None,
) -> Starlette:
    is_written = settings.log_level in ("debug", "info")
    middleware = [Middleware(AccessLog, metrics=metrics, form=settings.log_format, is_written=is_written)]
    if provider is not None:
        middleware.append(Middleware(Traced, provider=provider))
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", REQUEST_ID_HEADER],
                expose_headers=[REQUEST_ID_HEADER, CUT_HEADER, "retry-after"],
            )
        )
    served = list(routes())
    middleware.append(Middleware(FastPath, routes=[route for route in served if "POST" in (route.methods or ())]))
    return Starlette(
        routes=served,
        middleware=middleware,
        exception_handlers={ApiError: answer_api_error, HTTPException: answer_http_exception, Exception: answer_bug},
        lifespan=lifespan,  # pyright: ignore[reportArgumentType]  # Starlette's own type for it is no public name
    )


def routes() -> Iterator[Route]:
    for prefix in ("/v1", ""):
        yield Route(f"{prefix}/embeddings", embeddings.create_embeddings, methods=["POST"])
        yield Route(f"{prefix}/rerank", rerank.rerank, methods=["POST"])
        for path in ("sparse_embeddings", "embed_sparse"):
            yield Route(f"{prefix}/{path}", embeddings.create_sparse_embeddings, methods=["POST"])
        for path, endpoint in {
            "health": operations.health,
            "ready": operations.ready,
            "models": models.list_models,
            "models/{name:path}": models.retrieve_model,
        }.items():
            yield Route(f"{prefix}/{path}", endpoint, methods=["GET"])
    yield Route("/v2/rerank", rerank.rerank, methods=["POST"])
    yield Route("/infinity/rerank", rerank.rerank_for_infinity, methods=["POST"])
    yield Route("/embed", older.embed, methods=["POST"])
    yield Route("/batch_embed", older.batch_embed, methods=["POST"])
    yield Route("/metrics", operations.metrics, methods=["GET"])
    yield Route("/openapi.json", operations.openapi, methods=["GET"])
    one_model = "/admin/models/{name:path}"
    administration: list[tuple[str, str, Endpoint]] = [
        ("GET", "/admin/models", models.list_statuses),
        ("POST", "/admin/models", models.register_model),
        ("GET", one_model, models.retrieve_status),
        ("PATCH", one_model, models.change_model),
        ("DELETE", one_model, models.unregister_model),
    ]
    for method, path, endpoint in administration:
        yield Route(path, endpoint, methods=[method])


async def answer_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # registered for these only
    return error_response(error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself raises: no such path, or not by this method."""
    assert isinstance(error, HTTPException)  # registered for these only
    where = f"{request.method} {request.url.path}"
    if error.status_code == MethodNotAllowed.status:
        response = error_response(MethodNotAllowed(f"{where} is not supported; see the Allow header."))
        response.headers.update(error.headers or {})
        return response
    if error.status_code == NotFound.status:
        return error_response(NotFound(f"There is no {where}."))
    return error_response(InvalidRequest(error.detail))


async def answer_bug(request: Request, _error: Exception) -> Response:
    response = error_response(ApiError("The embedder failed; its log says why."))
    response.headers[REQUEST_ID_HEADER] = request.state.request_id
    return response
