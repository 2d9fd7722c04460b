"""The embedder's HTTP side: routes, key, limits, and failures as OpenAI's envelope."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from embedder import engines, schemas
from embedder.access_log import REQUEST_ID_HEADER, AccessLog
from embedder.batching import Batcher
from embedder.engines import Encoded, Engine
from embedder.errors import (
    ApiError,
    ClientGone,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTooLarge,
    Unauthenticated,
)
from embedder.settings import Settings


@dataclass
class Service:
    """What the routes work with. The models are there before the first request is."""

    settings: Settings
    models: dict[str, Batcher] = field(default_factory=dict[str, Batcher])
    started_at: int = field(default_factory=lambda: int(time.time()))

    def get_model(self, name: str) -> Batcher:
        if batcher := self.models.get(name):
            return batcher
        served = ", ".join(map(repr, self.models))
        message = f"The model {name!r} is not served here; served: {served}."
        raise NotFound(message, param="model", code="model_not_found")


async def service_of(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(service_of)]


async def check_key(request: Request, service: ServiceOf) -> None:
    if service.settings.api_key is None:
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    expected = service.settings.api_key.get_secret_value()
    if scheme.lower() != "bearer" or not secrets.compare_digest(key.strip().encode(), expected.encode()):
        raise Unauthenticated("The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.")


router = APIRouter()


@router.get("/health")
async def health(service: ServiceOf) -> Response:
    return json_response({"status": "ok", "models": list(service.models)})


@router.get("/models", dependencies=[Depends(check_key)])
async def list_models(service: ServiceOf) -> Response:
    models = schemas.model_list(list(service.models), created=service.started_at)
    return json_response(models)


@router.post(
    "/embeddings",
    dependencies=[Depends(check_key)],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schemas.EmbeddingRequest.model_json_schema()}},
        }
    },
)
async def create_embeddings(request: Request, service: ServiceOf) -> Response:
    """Embed a text or a list of texts as unit-length vectors, in their order.

    A text longer than the model's window (256 tokens for all-minilm-l6-v2) is cut to it.
    """
    settings = service.settings
    body = await read_body(request, limit=settings.max_request_bytes)
    wanted = schemas.parse_embedding_request(body)
    batcher = service.get_model(wanted.model)
    engine = batcher.engine
    if len(wanted.input) > settings.max_texts:
        message = f"'input' has {len(wanted.input)} texts; send at most {settings.max_texts} in one request."
        raise InvalidRequest(message, param="input")
    if wanted.dimensions not in (None, engine.dimensions):
        message = (
            f"The model {engine.name!r} has {engine.dimensions} dimensions and cannot give "
            f"{wanted.dimensions}; leave 'dimensions' out."
        )
        raise InvalidRequest(message, param="dimensions")
    encoded = await encode_unless_gone(request, batcher, wanted.input)
    content = schemas.embedding_response(encoded, model=engine.name, encoding_format=wanted.encoding_format or "float")
    return Response(content, media_type="application/json")


async def read_body(request: Request, *, limit: int) -> bytes:
    too_large = RequestTooLarge(f"The request body is larger than {limit} bytes; send fewer texts at once.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


async def encode_unless_gone(request: Request, batcher: Batcher, texts: list[str]) -> Encoded:
    """Encode, unless the caller hangs up first: then its texts leave the queue."""
    encoding = asyncio.create_task(batcher.encode(texts))
    hanging_up = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect can come
    try:
        await asyncio.wait((encoding, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if not encoding.done():
            raise ClientGone("The caller hung up.")
        return encoding.result()
    finally:
        encoding.cancel()
        hanging_up.cancel()


def json_response(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def error_response(error: ApiError) -> Response:
    return Response(
        orjson.dumps(error.envelope()),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )


async def answer_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # registered for these only
    return error_response(error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """What the router itself raises: no such path, or not by this method."""
    assert isinstance(error, StarletteHTTPException)  # registered for these only
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


def create_app(settings: Settings | None = None, *, engine: Engine | None = None) -> FastAPI:
    """Assemble the server. Unless an engine is given, the model is loaded before the first request is taken.

    Raises:
        ModelUnavailable: (when the server starts) the model cannot be loaded.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        loaded = engine or await asyncio.to_thread(engines.load, settings)
        batcher = Batcher(
            loaded,
            max_batch_texts=settings.max_batch_texts,
            max_batch_characters=settings.max_batch_characters,
            max_queued_texts=settings.max_queued_texts,
        )
        async with batcher:
            app.state.service.models[loaded.name] = batcher
            yield

    app = FastAPI(title="Quiver embedder", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = Service(settings)
    app.include_router(router, prefix="/v1")
    app.include_router(router, include_in_schema=False)
    app.add_exception_handler(ApiError, answer_api_error)
    app.add_exception_handler(StarletteHTTPException, answer_http_exception)
    app.add_exception_handler(Exception, answer_bug)
    app.add_middleware(AccessLog)
    return app
