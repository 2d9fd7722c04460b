"""What every route works with: the models, the keys, the body of a request, and a caller who may hang up."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from embedder import token_ids
from embedder.batching import CUT_HEADER, Computed
from embedder.callers import Callers
from embedder.engines import Text
from embedder.errors import ClientGone, Forbidden, InvalidRequest, RequestTooLarge, Unauthenticated
from embedder.metrics import Metrics
from embedder.model import Model
from embedder.pool import Pool
from embedder.settings import Settings

QUERY_TYPES = ("query", "search_query")
PASSAGE_TYPES = ("passage", "document", "search_document")


@dataclass
class Service:
    settings: Settings
    pool: Pool
    metrics: Metrics
    callers: Callers = field(default_factory=Callers)
    started_at: int = field(default_factory=lambda: int(time.time()))

    def check_key(self, request: Request) -> None:
        if self.settings.api_key is None:
            return
        if not holds_key(request, self.settings.api_key, self.settings.admin_key):
            raise Unauthenticated("The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.")

    def check_admin_key(self, request: Request) -> None:
        if self.settings.admin_key is None:
            raise Forbidden("Models cannot be changed over HTTP until EMBEDDER_ADMIN_KEY is set.")
        if not holds_key(request, self.settings.admin_key):
            raise Unauthenticated("The admin key is missing or wrong; send it as 'Authorization: Bearer <key>'.")

    def check_texts(self, texts: Sequence[object], *, param: str) -> None:
        if len(texts) > self.settings.max_texts:
            message = f"{param!r} has {len(texts)} texts; send at most {self.settings.max_texts} in one request."
            raise InvalidRequest(message, param=param)

    async def texts_of(self, value: list[str] | list[list[int]]) -> list[str]:
        """The texts of an `input`, decoded where they are token ids."""
        self.check_texts(value, param="input")
        if isinstance(value[0], str):
            return value  # pyright: ignore[reportReturnType]  # a list of one kind
        return await asyncio.to_thread(token_ids.decode, value)  # pyright: ignore[reportArgumentType]  # as above


def service_of(request: Request) -> Service:
    return request.app.state.service


def holds_key(request: Request, *keys: SecretStr | None) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    offered = given.strip().encode()
    return any(key is not None and secrets.compare_digest(offered, key.get_secret_value().encode()) for key in keys)


async def read_body(request: Request) -> bytes:
    limit = service_of(request).settings.max_request_bytes
    chunks: list[bytes] = []
    size = 0
    while True:  # Starlette's own stream, without its cost
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The caller hung up.")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        is_whole = not message.get("more_body")
        if size > limit or (not is_whole and declared_length(request) > limit):
            raise too_large(limit)
        if is_whole:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def declared_length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request body is larger than {limit} bytes; send fewer texts at once.")


async def compute(
    request: Request,
    model: Model,
    texts: Sequence[Text],
    *,
    kind: str = "dense",
    input_type: object = None,
    max_tokens: int | None = None,
) -> Computed:
    """A row of the model for each text, unless the caller hangs up first: then the texts leave the queue.

    Raises:
        InvalidRequest: the model is of another kind, or may not cut a text that is too long.
    """
    work = rows(model, texts, kind=kind, input_type=input_type, max_tokens=max_tokens)
    return await service_of(request).callers.answer(request, work)


async def rows(
    model: Model, texts: Sequence[Text], *, kind: str, input_type: object, max_tokens: int | None
) -> Computed:
    runtime = await model.runtime(texts)
    declaration = model.declaration
    if runtime.facts.kind != kind:
        paths = {"dense": "/v1/embeddings", "sparse": "/v1/sparse_embeddings", "rerank": "/v1/rerank"}
        message = f"The model {declaration.name!r} is a {runtime.facts.kind} one; use {paths[runtime.facts.kind]}."
        raise InvalidRequest(message, param="model", code="wrong_model_kind")
    return await runtime.compute(
        texts,
        prompt=prompt_for(model, input_type),
        max_tokens=max_tokens,
        refuses_long=declaration.truncate == "refuse",
    )


def prompt_for(model: Model, input_type: object) -> str:
    """What is put before a text of this type: as declared, or else as the model itself has it."""
    facts, declaration = model.facts, model.declaration
    if facts is None or facts.kind == "rerank":
        return ""
    if not isinstance(input_type, str):
        return facts.default_prompt
    if input_type in QUERY_TYPES:
        declared, names = declaration.query_prompt, QUERY_TYPES
    elif input_type in PASSAGE_TYPES:
        declared, names = declaration.passage_prompt, PASSAGE_TYPES
    else:
        declared, names = None, (input_type,)
    if declared is not None:
        return declared
    return next((facts.prompts[name] for name in names if name in facts.prompts), facts.default_prompt)


def json_response(content: object, *, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")


def answer(content: bytes, computed: Computed) -> Response:
    """A computed answer, which says how many texts were cut."""
    return Answer(content, cut=computed.cut)


class Answer(Response):
    """JSON whose head is written as bytes: to have Starlette encode it took longer than to send it."""

    def __init__(self, content: bytes, *, cut: int) -> None:
        self.status_code = 200
        self.background = None
        self.body = content
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        if cut:
            self.raw_headers.append((CUT_HEADER.encode(), b"%d" % cut))
