"""How much at once: requests of a key in a minute, and searches at the same time. Both are counted per process.

What is too much is refused at once, before its body is read, and told when to come again.
"""

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers import failure
from api.auth import is_search
from api.errors import TooManyRequests
from api.services.keys import Caller
from api.settings import Settings

MAX_BUCKETS = 100_000  # of as many keys; the one that was not used for longest is forgotten, and so is full again
MINUTE = 60.0


@dataclass
class _Bucket:
    """What a key may still send: as many requests as it may in a minute, each coming back when its time is over."""

    tokens: float
    filled_at: float


@dataclass(frozen=True)
class Standing:
    """Where a key stands after a request; it waits for `wait_seconds` if that was one too many."""

    limit: int
    remaining: int
    reset_seconds: float
    wait_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{math.ceil(self.reset_seconds * 1000)}ms",
        }


class Rates:
    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key_id: str, limit: int, *, now: float) -> Standing:
        """Count a request of a key that may send `limit` in a minute; `now` in seconds of any clock."""
        bucket = self._buckets.setdefault(key_id, _Bucket(limit, now))
        self._buckets.move_to_end(key_id)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        seconds_each = MINUTE / limit
        bucket.tokens = min(limit, bucket.tokens + (now - bucket.filled_at) / seconds_each)
        bucket.filled_at = now
        is_allowed = bucket.tokens >= 1
        if is_allowed:
            bucket.tokens -= 1
        return Standing(
            limit=limit,
            remaining=int(bucket.tokens),
            reset_seconds=(limit - bucket.tokens) * seconds_each,
            wait_seconds=0 if is_allowed else (1 - bucket.tokens) * seconds_each,
        )


class Limit:
    """ASGI middleware that refuses what is too much. It stands behind the authentication, which says whose it is."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._requests_per_minute = settings.max_requests_per_minute
        self._max_searches = settings.max_concurrent_searches
        self._rates = Rates()
        self._searches = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("state", {}).get("caller") if scope["type"] == "http" else None
        if caller is None:
            await self._app(scope, receive, send)
            return
        limit = caller.requests_per_minute or self._requests_per_minute
        if limit is not None:
            standing = self._rates.take(caller.api_key_id or "", limit, now=time.monotonic())
            if standing.wait_seconds:
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
