"""AWS Lambda: HTTP events of API Gateway, function URLs and load balancers; all other events drain the queue.

An environment is frozen between invocations, for minutes at times. The first thing after that is a look whether its
connections to the database are still there.
"""

import asyncio
import json
import os
import time
from contextlib import suppress
from functools import cache
from typing import Any, Final

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import lambda_environment
from api.answers import failure
from api.app import create_app
from api.errors import ApiError, DatabaseUnavailable, RequestTimeout, RequestTooLarge
from api.lambda_environment import MAX_PAYLOAD_BYTES, Context
from api.resources import Resources

MAX_HEADER_BYTES: Final = 16 * 1024  # of an answer, and what else of it is not its body
FROZEN_SECONDS: Final = 1.0  # without a request; then connections are looked at before the next one
CONNECT_SECONDS: Final = 3.0  # of the ten that Lambda has for initialising
ANSWER_SECONDS: Final = 1.0  # kept of an invocation's time to say that it was too short


def handler(event: dict[str, Any], context: Context) -> Any:
    """Answer one event; the function's entry point."""
    if is_http(event):
        return _api()(event, context)
    from api import lambda_worker  # the package of the API alone is without what it needs

    return lambda_worker.handler(event, context)


def is_http(event: dict[str, Any]) -> bool:
    request_context = event.get("requestContext")
    return isinstance(request_context, dict) and ("httpMethod" in event or "http" in request_context)


class Api:
    """The application, kept from one invocation to the next."""

    def __init__(self) -> None:
        app = create_app(lambda_environment.settings())
        resources: Resources = app.state.resources
        self._database = resources.database
        self._mangum = Mangum(WithinLimits(app), lifespan="off")
        self._used_at = time.time()
        lambda_environment.run(self._connect(resources))

    def __call__(self, event: dict[str, Any], context: Context) -> Any:
        # By the wall clock: the others may stand still while the environment does.
        if time.time() - self._used_at > FROZEN_SECONDS:
            lambda_environment.run(self._database.check_connections())
        try:
            return self._mangum(event, context)  # pyright: ignore[reportArgumentType]  # it wants more of a context than it uses
        finally:
            self._used_at = time.time()

    async def _connect(self, resources: Resources) -> None:
        """Connect while initialising costs nobody's time. A database that is away is told to each request."""
        await resources.open()
        with suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._database.chunk_table()


class WithinLimits:
    """ASGI middleware that holds an answer back until it is whole, as Lambda does anyway, and is known to fit.

    What does not fit, or is not there in the invocation's time, is answered with OpenAI's error. Lambda itself would
    answer without a reason, and end the environment in the middle of a transaction.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: Context = scope["aws.context"]
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        request_id = Headers(scope=scope).get("x-request-id") or context.aws_request_id
        headers = [*scope["headers"], [b"x-request-id", request_id.encode("latin-1", "replace")]]
        try:
            async with asyncio.timeout(context.get_remaining_time_in_millis() / 1000 - ANSWER_SECONDS):
                await self._app({**scope, "headers": headers}, receive, keep)
            _require_fitting(messages)
        except TimeoutError:
            error = RequestTimeout("The request takes longer than the function may; send smaller ones.")
            await _refuse(error, request_id, scope, receive, send)
        except RequestTooLarge as error:
            await _refuse(error, request_id, scope, receive, send)
        else:
            for message in messages:
                await send(message)


async def _refuse(error: ApiError, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    await failure(error, headers={"x-request-id": request_id})(scope, receive, send)


def _require_fitting(messages: list[Message]) -> None:
    body = b"".join(message.get("body", b"") for message in messages)
    room = MAX_PAYLOAD_BYTES - MAX_HEADER_BYTES
    if 6 * len(body) > room and _size_in_json(body, messages[0]) > room:  # escaping makes six of a byte at most
        raise RequestTooLarge(
            "The answer is larger than the 6 MB that AWS Lambda can send: ask for less at a time, with a smaller "
            "`limit`, or a file in ranges.",
            code="answer_too_large",
        )


def _size_in_json(body: bytes, start: Message) -> int:
    """How long the body is in what Lambda sends: text with what escaping adds, or anything else in base64."""
    media_type = Headers(raw=start["headers"]).get("content-type", "")
    if any(kind in media_type for kind in DEFAULT_TEXT_MIME_TYPES):
        with suppress(UnicodeDecodeError):
            return len(json.dumps(body.decode()))
    return len(body) * 4 // 3


@cache
def _api() -> Api:
    return Api()


if "AWS_LAMBDA_RUNTIME_API" in os.environ and os.environ.get("_HANDLER") == "api.lambda_handler.handler":
    _api()  # Lambda gives initialisation a whole processor, whatever the function's memory
