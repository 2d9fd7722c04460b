"""Idempotency keys: of the requests with one key, one is carried out, and its answer is that of them all for a day.

What a request writes and its answer are written in one transaction, so that either both are there or neither.

A key is claimed by a row with a lease. An advisory lock would end with its process at once, but needs a connection of
its own for as long as the request takes, and PgBouncer hands that on to others between two transactions.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import structlog

from api.errors import ApiError
from api.resources import Resources
from api.tables import idempotency_keys
from api.tables.database import Connection
from api.tables.idempotency_keys import Claim, Kept

log: structlog.stdlib.BoundLogger = structlog.get_logger()

LIFETIME_SECONDS = 24 * 3600
LEASE_SECONDS = 30.0  # how long a process that was killed, or lost its database, blocks a key
RENEW_SECONDS = 10.0  # two renewals may fail
MAX_KEPT_BYTES = 16 * 1024 * 1024  # of one answer; 2,048 chunks of 800 tokens have about half of that

# A retry is to be carried out: after a 401 with the right key, after a 409 without the obstacle, else a bit later.
PASSING_STATUSES = frozenset({401, 408, 409, 429})


class RequestUnderWay(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "idempotency_key_in_use"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1", "x-should-retry": "true"}


def caller_of(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode()).digest()


def is_final(status: int) -> bool:
    """Whether an answer stays the same however often the request is sent."""
    return 200 <= status < 500 and status not in PASSING_STATUSES


async def claim(resources: Resources, claim: Claim) -> Kept | None:
    """Claim a key, for `LEASE_SECONDS`; what was answered with it before, or None when the claim holds.

    Raises:
        RequestUnderWay: the claim is another's.
    """
    async with resources.database.connection() as connection:
        if await idempotency_keys.claim(
            connection, claim, lease_seconds=LEASE_SECONDS, lifetime_seconds=LIFETIME_SECONDS
        ):
            return None
        kept = await idempotency_keys.find_kept(connection, claim)
    if kept is None:
        raise _under_way()
    return kept


@asynccontextmanager
async def renewed(resources: Resources, claim: Claim, *, every_seconds: float = RENEW_SECONDS) -> AsyncGenerator[None]:
    """Hold on to a claim for as long as the block takes."""
    renewal = asyncio.create_task(_renew(resources, claim, every_seconds))
    try:
        yield
    finally:
        renewal.cancel()


async def settle(resources: Resources, connection: Connection, answer: Mapping[str, Any]) -> None:
    """Keep the answer of a request that came with a key, last in the transaction that carries it out.

    Raises:
        RequestUnderWay: the claim was lost meanwhile; the transaction is undone.
    """
    if resources.settle is not None:
        await resources.settle(connection, answer)


async def keep_on(connection: Connection, claim: Claim, kept: Kept) -> None:
    """Keep an answer, unless it is too large: then only that there was one.

    Raises:
        RequestUnderWay: the claim was lost meanwhile.
    """
    if not await idempotency_keys.keep(connection, claim, kept):
        raise _under_way()


async def keep(resources: Resources, claim: Claim, kept: Kept) -> None:
    """Keep an answer that goes with nothing that was written.

    A failure is no reason to withhold the answer: the claim's lease runs out, and a retry is carried out again.
    """
    try:
        async with resources.database.connection() as connection:
            await keep_on(connection, claim, kept)
    except ApiError as error:
        log.warning("idempotency_answer_lost", message=error.message)


async def release(resources: Resources, claim: Claim) -> None:
    """Give a key back, unless the request was carried out; without a database its lease runs out."""
    with suppress(ApiError):
        async with resources.database.connection() as connection:
            await idempotency_keys.release(connection, claim)


async def purge(resources: Resources) -> int:
    async with resources.database.connection(is_long=True) as connection:
        return await idempotency_keys.purge(connection, lifetime_seconds=LIFETIME_SECONDS)


def _under_way() -> RequestUnderWay:
    return RequestUnderWay(
        "A request with this Idempotency-Key is being carried out; send it again shortly for its answer."
    )


async def _renew(resources: Resources, claim: Claim, every_seconds: float) -> None:
    is_held = True
    while is_held:
        await asyncio.sleep(every_seconds)
        with suppress(ApiError):
            async with resources.database.connection() as connection:
                is_held = await idempotency_keys.renew(connection, claim, lease_seconds=LEASE_SECONDS)
