"""The short way of searches and inserts through the application."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import orjson
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers import answer_to
from api.errors import ApiError, ConfigurationError
from api.observation import current as current_observation
from api.resources import Resources
from api.routes.embeddings import create_embedding, create_embedding_batch
from api.routes.parameters import opened_in
from api.routes.vector_stores import search_vector_store
from api.schemas.embeddings import CreateEmbeddingBatchRequest, CreateEmbeddingRequest
from api.schemas.search import SearchRequest

STORES = "/v1/vector_stores/"
JSON = b"application/json"

Read = Callable[[bytes], BaseModel]


class Shortcut(NamedTuple):
    read: Read  # raises a ValueError when the body does not fit
    answer: Callable[[str, Any, Resources], Awaitable[Response]]  # the route's own function


class Shortcuts:
    """ASGI middleware that answers some POSTs without FastAPI's routing, which costs as much as a search does.

    Whatever does not fit goes the long way to its route, which describes what fits and says what does not. Both ways
    end in the same function.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._shortcuts = {
            "search": Shortcut(_reader_of(SearchRequest), search_vector_store),
            "embeddings": Shortcut(_reader_of(CreateEmbeddingRequest), create_embedding),
            "embeddings/batch": Shortcut(_batch_reader(), create_embedding_batch),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id, name = _target(scope)
        shortcut = self._shortcuts.get(name)
        if shortcut is None or not id or not _is_json(scope):
            await self._app(scope, receive, send)
            return
        resources = opened_in(scope)
        limit = resources.settings.max_request_bytes
        messages = await _receive(scope, receive, limit=limit)
        request = _request(messages, shortcut.read, limit=limit)
        if request is None:
            await self._app(scope, _again(messages, receive), send)
            return
        if (observation := current_observation()) is not None:
            observation.route, observation.vector_store_id = f"/vector_stores/{{vector_store_id}}/{name}", id
        try:
            answer = await shortcut.answer(id, request, resources)
        except (ApiError, ConfigurationError) as error:
            answer = answer_to(error, path=scope["path"])
        await answer(scope, receive, send)


def _reader_of(model: type[BaseModel]) -> Read:
    def read(body: bytes) -> BaseModel:
        return model.model_validate(orjson.loads(body))

    return read


def _batch_reader() -> Read:
    if find_spec("simdjson") is None:  # 15 MB, which the package for AWS Lambda does not have
        return _reader_of(CreateEmbeddingBatchRequest)
    from api.batch_body import BatchReader

    return BatchReader().read


def _target(scope: Scope) -> tuple[str, str]:
    """The id of a store and what is posted below it; both empty for other requests."""
    if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(STORES):
        return "", ""
    id, _, name = scope["path"].removeprefix(STORES).partition("/")
    return id, name


def _is_json(scope: Scope) -> bool:
    return _header(scope, b"content-type").partition(b";")[0].strip().lower() == JSON


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for header, value in scope["headers"] if header == name), b"")


async def _receive(scope: Scope, receive: Receive, *, limit: int) -> list[Message]:
    """The messages of the body, up to the one that makes it longer than the limit; none if it says to be longer."""
    size = _header(scope, b"content-length")
    if size.isdigit() and int(size) > limit:
        return []
    messages = [await receive()]
    length = len(messages[0].get("body", b""))
    while length <= limit and messages[-1].get("more_body", False):
        messages.append(await receive())
        length += len(messages[-1].get("body", b""))
    return messages


def _request(messages: list[Message], read: Read, *, limit: int) -> BaseModel | None:
    """What the body asks for; None if it does not fit, is too long, or broke off."""
    if not messages or messages[-1]["type"] != "http.request" or messages[-1].get("more_body", False):
        return None
    body = b"".join([message.get("body", b"") for message in messages])
    try:
        return read(body) if len(body) <= limit else None
    except ValueError:
        return None


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received, and then what comes."""
    received = iter(messages)

    async def receive_again() -> Message:
        return next(received, None) or await receive()

    return receive_again
