"""How much at once: requests of a key in a minute, and searches of a process at the same time.

What is too much is refused at once, before its body is read, and told when to come again. A body that stops
coming holds nothing up for long.
"""

import asyncio
import math
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers import failure
from api.auth import is_search
from api.errors import TooManyRequests
from api.resources import Resources
from api.services.keys import Caller
from api.services.rates import Rates, Standing

SILENCE_SECONDS = 30  # in the middle of a body; then it counts as broken off


class Limit:
    """ASGI middleware that refuses what is too much. It stands behind the authentication, which says whose it is."""

    def __init__(self, app: ASGIApp, *, resources: Resources) -> None:
        self._app = app
        settings = resources.settings
        self._requests_per_minute = settings.max_requests_per_minute
        self._max_searches = settings.max_concurrent_searches
        self._rates = Rates(resources)
        self._searches = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller") if scope["type"] == "http" else None
        if caller is None:
            await self._app(scope, receive, send)
            return
        receive = _unless_it_stops(receive)
        limit = caller.requests_per_minute or self._requests_per_minute
        if limit is not None:
            standing = await self._rates.take(caller.api_key_id or "", limit, now=time.monotonic())
            if not standing.is_allowed:
                await _refusal(standing)(scope, receive, send)
                return
            send = _with_headers(send, standing.headers)
        if is_search(scope["method"], scope["path"]):
            await self._search(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _search(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._searches >= self._max_searches:
            error = TooManyRequests(
                f"The server has {self._searches} searches to do at the moment; try again shortly.",
                code="too_many_searches",
            )
            await failure(error)(scope, receive, send)
            return
        self._searches += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._searches -= 1


def _unless_it_stops(receive: Receive) -> Receive:
    """The body as it comes; as broken off, once nothing more of it has come for too long."""
    is_over = False  # who asks after that waits for the caller to leave, which takes as long as it takes

    async def receive_in_time() -> Message:
        nonlocal is_over
        if is_over:
            return await receive()
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await receive()
        except TimeoutError:
            message = {"type": "http.disconnect"}
        is_over = not message.get("more_body", False)
        return message

    return receive_in_time


def _refusal(standing: Standing) -> ASGIApp:
    seconds = math.ceil(standing.wait_seconds)
    error = TooManyRequests(
        f"Rate limit reached: this key may send {standing.limit} requests a minute. Try again in {seconds} s."
    )
    return failure(error, headers={**standing.headers, "Retry-After": str(seconds)})


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
