"""The table `request_rates`: what each key may still send within a minute, whichever process it asks."""

from typing import NamedTuple

from api.tables.database import Connection

# One row, one lock, no second statement: of processes that ask at once, each is told what the others left.
LEASE = """
INSERT INTO request_rates AS known (api_key_id, tokens, filled_at, granted)
VALUES (%(api_key_id)s, %(limit)s::integer - %(wanted)s::integer, clock_timestamp(), %(wanted)s)
ON CONFLICT (api_key_id) DO UPDATE SET (tokens, filled_at, granted) = (
    SELECT filled.tokens - least(%(wanted)s, floor(filled.tokens)),
           filled.at,
           least(%(wanted)s, floor(filled.tokens))::integer
    FROM (
        SELECT clock.at, least(
            %(limit)s,
            known.tokens + greatest(extract(epoch FROM clock.at - known.filled_at), 0)::float8 * %(limit)s / 60
        ) AS tokens
        FROM (SELECT clock_timestamp() AS at) AS clock
    ) AS filled
)
RETURNING granted, tokens
"""

# A minute later it is full, as one is that nobody asked for.
FORGET_FULL = "DELETE FROM request_rates WHERE filled_at < now() - interval '1 minute'"


class Lease(NamedTuple):
    """So many requests for the process that asked, and what is left for all."""

    granted: int
    left: float


async def lease(connection: Connection, api_key_id: str, *, limit: int, wanted: int) -> Lease:
    """Take up to `wanted` requests from the bucket of a key that may send `limit` in a minute."""
    params = {"api_key_id": api_key_id, "limit": limit, "wanted": wanted}
    row = await (await connection.execute(LEASE, params)).fetchone()
    assert row is not None  # INSERT ... ON CONFLICT DO UPDATE ... RETURNING always returns a row
    return Lease(row["granted"], row["tokens"])


async def forget_full(connection: Connection) -> None:
    await connection.execute(FORGET_FULL)
