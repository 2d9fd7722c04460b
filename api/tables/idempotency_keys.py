"""The table `idempotency_keys`: who claimed a key for as long as its lease lasts, and the answer that came of it."""

from dataclasses import dataclass

from psycopg.types.json import Jsonb

from api.tables.database import Connection

# The primary key lets one of several inserts through; what the others find is theirs only if it is void.
CLAIM = """
INSERT INTO idempotency_keys AS known (caller, key, claim, lease_expires_at)
VALUES (%(caller)s, %(key)s, %(claim)s, now() + make_interval(secs => %(lease_seconds)s))
ON CONFLICT (caller, key) DO UPDATE SET
    claim            = excluded.claim,
    lease_expires_at = excluded.lease_expires_at,
    created_at       = excluded.created_at,
    fingerprint      = NULL,
    request_bytes    = NULL,
    status           = NULL,
    headers          = NULL,
    body             = NULL
WHERE (known.status IS NULL AND known.lease_expires_at <= now())
   OR known.created_at <= now() - make_interval(secs => %(lifetime_seconds)s)
RETURNING claim
"""

RENEW = """
UPDATE idempotency_keys SET lease_expires_at = now() + make_interval(secs => %(lease_seconds)s)
WHERE caller = %(caller)s AND key = %(key)s AND claim = %(claim)s
RETURNING claim
"""

KEEP = """
UPDATE idempotency_keys SET
    fingerprint   = %(fingerprint)s,
    request_bytes = %(request_bytes)s,
    status        = %(status)s,
    headers       = %(headers)s,
    body          = %(body)s
WHERE caller = %(caller)s AND key = %(key)s AND claim = %(claim)s
RETURNING claim
"""

GET_KEPT = """
SELECT fingerprint, request_bytes, status, headers, body FROM idempotency_keys
WHERE caller = %(caller)s AND key = %(key)s AND status IS NOT NULL
"""

# Whoever saw a commit fail does not know whether it did: if not, there is an answer. The row's lock, which the
# transaction has until then, makes this wait for the truth.
RELEASE = """
DELETE FROM idempotency_keys
WHERE caller = %(caller)s AND key = %(key)s AND claim = %(claim)s AND status IS NULL
"""

PURGE = "DELETE FROM idempotency_keys WHERE created_at <= now() - make_interval(secs => %(lifetime_seconds)s)"


@dataclass(frozen=True)
class Claim:
    """One request's claim to a key; `id` tells it from others' claims to the same."""

    caller: bytes
    key: str
    id: str


@dataclass(frozen=True)
class Kept:
    """What was asked with a key, and what was answered; `body` is None if it was too large to keep."""

    fingerprint: bytes
    request_bytes: int
    status: int
    headers: list[tuple[str, str]]
    body: bytes | None


async def claim(connection: Connection, claim: Claim, *, lease_seconds: float, lifetime_seconds: float) -> bool:
    """Claim a key; False if it is another's, or has an answer."""
    params = {**_params(claim), "lease_seconds": lease_seconds, "lifetime_seconds": lifetime_seconds}
    return await (await connection.execute(CLAIM, params)).fetchone() is not None


async def renew(connection: Connection, claim: Claim, *, lease_seconds: float) -> bool:
    """Make the lease last from now on; False if the claim is lost."""
    params = {**_params(claim), "lease_seconds": lease_seconds}
    return await (await connection.execute(RENEW, params)).fetchone() is not None


async def keep(connection: Connection, claim: Claim, kept: Kept) -> bool:
    """Keep the answer; False if the claim is lost."""
    values = {
        "fingerprint": kept.fingerprint,
        "request_bytes": kept.request_bytes,
        "status": kept.status,
        "headers": Jsonb(kept.headers),
        "body": kept.body,
    }
    return await (await connection.execute(KEEP, {**_params(claim), **values})).fetchone() is not None


async def find_kept(connection: Connection, claim: Claim) -> Kept | None:
    # Binary, because the text of a bytea is twice as long.
    row = await (await connection.execute(GET_KEPT, _params(claim), binary=True)).fetchone()
    if row is None:
        return None
    headers = [(name, value) for name, value in row["headers"]]
    return Kept(row["fingerprint"], row["request_bytes"], row["status"], headers, row["body"])


async def release(connection: Connection, claim: Claim) -> None:
    """Give the key back, unless the request was carried out."""
    await connection.execute(RELEASE, _params(claim))


async def purge(connection: Connection, *, lifetime_seconds: float) -> int:
    """Delete what is older; the answer is how much that was."""
    return (await connection.execute(PURGE, {"lifetime_seconds": lifetime_seconds})).rowcount


def _params(claim: Claim) -> dict[str, object]:
    return {"caller": claim.caller, "key": claim.key, "claim": claim.id}
