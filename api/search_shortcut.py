"""The short way of a search through the application."""

import orjson
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers import answer_to
from api.errors import ApiError, ConfigurationError
from api.observation import current as current_observation
from api.routes.parameters import opened_in
from api.routes.vector_stores import search_answer
from api.schemas.search import SearchRequest
from api.services import search

BEFORE_ID, AFTER_ID = "/v1/vector_stores/", "/search"
ROUTE = "/vector_stores/{vector_store_id}/search"  # as it is called in metrics and in the log
JSON = (b"content-type", b"application/json")


class SearchShortcut:
    """ASGI middleware that answers a search without FastAPI's routing, which costs as much as the service does.

    Whatever is not a search that fits goes the long way to its route, which describes what fits and says what does
    not. Both ways end in the same function.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (id := _searched(scope)) is None:
            await self._app(scope, receive, send)
            return
        resources = opened_in(scope)
        read = await _read(receive, limit=resources.settings.max_request_bytes)
        request = _request(read)
        if request is None:
            await self._app(scope, _again(read, receive), send)
            return
        if (observation := current_observation()) is not None:
            observation.route, observation.vector_store_id = ROUTE, id
        try:
            answer = search_answer(await search.search(resources, id, request))
        except (ApiError, ConfigurationError) as error:
            answer = answer_to(error, path=scope["path"])
        await answer(scope, receive, send)


def _searched(scope: Scope) -> str | None:
    """The id of the store that is searched, None if this is not a search with a body of JSON."""
    path: str = scope["path"]
    if scope["method"] != "POST" or not (path.startswith(BEFORE_ID) and path.endswith(AFTER_ID)):
        return None
    id = path[len(BEFORE_ID) : -len(AFTER_ID)]
    return id if id and "/" not in id and JSON in scope["headers"] else None


async def _read(receive: Receive, *, limit: int) -> list[Message]:
    """The messages of the body, up to the one that makes it longer than the limit."""
    read: list[Message] = []
    size = 0
    while size <= limit and (not read or read[-1].get("more_body", False)):
        read.append(await receive())
        size += len(read[-1].get("body", b""))
    return read


def _request(read: list[Message]) -> SearchRequest | None:
    if read[-1]["type"] != "http.request" or read[-1].get("more_body", False):
        return None
    body = b"".join([message.get("body", b"") for message in read])
    try:
        return SearchRequest.model_validate(orjson.loads(body))
    except (orjson.JSONDecodeError, ValidationError):
        return None


def _again(read: list[Message], receive: Receive) -> Receive:
    """What was read, and then what comes."""
    messages = iter(read)

    async def receive_again() -> Message:
        return next(messages, None) or await receive()

    return receive_again
