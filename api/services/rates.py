"""Requests of a key in a minute: a bucket for each key in PostgreSQL, from which all processes take in small leases."""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass, field

from api.errors import ApiError
from api.resources import Resources
from api.tables import request_rates
from api.tables.request_rates import Lease

MINUTE = 60.0
# A process holds up to a hundredth of a limit that others cannot use, and asks so often at most.
LEASES_PER_MINUTE = 100
MAX_ACCOUNTS = 100_000  # of as many keys; the one that was not used for longest is forgotten


@dataclass
class _Account:
    """What a process may let through of a key's requests, and what the bucket had at most when it is asked next."""

    left: float
    filled_at: float
    tokens: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True)
class Standing:
    """Where a key stands after a request; if that was one too many, it waits for `wait_seconds`."""

    limit: int
    is_allowed: bool
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
    """The accounts of a process. Without a database that can be written to, it counts by itself."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    async def take(self, key_id: str, limit: int, *, now: float) -> Standing:
        """Count a request of a key that may send `limit` in a minute; `now` in seconds of any clock."""
        account = self._accounts.setdefault(key_id, _Account(limit, now))
        self._accounts.move_to_end(key_id)
        if len(self._accounts) > MAX_ACCOUNTS:
            self._accounts.popitem(last=False)
        seconds_each = MINUTE / limit
        account.left = min(limit - account.tokens, account.left + max(now - account.filled_at, 0) / seconds_each)
        account.filled_at = now
        if not account.tokens:
            async with account.lock:
                # The others take as well: the bucket has no more than is thought here.
                if not account.tokens and account.left >= 1:
                    account.tokens, account.left = await self._lease(key_id, limit, account.left)
        is_allowed = account.tokens > 0
        account.tokens -= is_allowed
        return Standing(
            limit=limit,
            is_allowed=is_allowed,
            remaining=account.tokens + int(account.left),
            reset_seconds=(limit - account.left - account.tokens) * seconds_each,
            wait_seconds=0 if is_allowed else max(1 - account.left, 0) * seconds_each,
        )

    async def _lease(self, key_id: str, limit: int, left: float) -> Lease:
        wanted = max(limit // LEASES_PER_MINUTE, 1)
        try:
            async with self._resources.database.connection() as connection:
                return await request_rates.lease(connection, key_id, limit=limit, wanted=wanted)
        except ApiError:  # searches go on where PostgreSQL can only be read; what needs more will say so
            granted = min(wanted, int(left))
            return Lease(granted, left - granted)


async def forget_full(resources: Resources) -> None:
    """Forget the buckets that are full, as they are a minute after they were asked for."""
    async with resources.database.connection() as connection:
        await request_rates.forget_full(connection)
