"""The table `api_keys`. Its rows leave as they are shown: the SELECT list is the wire. The keys are not in it."""

from datetime import datetime
from typing import Any, Final, Literal, TypedDict, cast

from api.schemas.keys import ApiKey, Role
from api.tables import scope
from api.tables.columns import ApiKeys
from api.tables.database import Connection
from api.tables.keyset import Position

API_KEY: Final = """
    id,
    'api_key' AS object,
    name,
    'qv_...' || ending AS redacted_value,
    role,
    tenant,
    vector_store_ids,
    requests_per_minute,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at,
    floor(extract(epoch FROM last_used_at))::bigint AS last_used_at
"""

INSERT = f"""
INSERT INTO api_keys (id, hash, ending, name, role, tenant, vector_store_ids, requests_per_minute,
                      created_at, expires_at)
VALUES (%(id)s, %(hash)s, %(ending)s, %(name)s, %(role)s, %(tenant)s, %(vector_store_ids)s, %(requests_per_minute)s,
        %(created_at)s, to_timestamp(%(expires_at)s::bigint))
RETURNING {API_KEY}
"""  # noqa: S608  # only constants of this file are put together

# The key says whose request it is: there is no scope yet.
GET_GRANT = """
SELECT id, role, tenant, vector_store_ids, requests_per_minute,
       extract(epoch FROM expires_at)::float8 AS expires_at,
       last_used_at IS NULL OR last_used_at < now() - interval '1 minute' AS is_unnoted
FROM api_keys WHERE hash = %(hash)s
"""

# Of many processes that use a key at once, one notes it and none waits.
NOTE_USE = """
UPDATE api_keys SET last_used_at = now()
WHERE id = (SELECT id FROM api_keys WHERE id = %(id)s FOR NO KEY UPDATE SKIP LOCKED)
"""

GET_CREATED_AT = "SELECT created_at FROM api_keys WHERE id = %(id)s AND {visible}"

LIST = f"""
SELECT {API_KEY} FROM api_keys
WHERE {{visible}} AND {{condition}}
ORDER BY api_keys.created_at {{direction}}, id {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

DELETE = "DELETE FROM api_keys WHERE id = %(id)s AND {visible} RETURNING id"


class Grant(TypedDict):
    """What a key allows; `expires_at` is a Unix time."""

    id: str
    role: Role
    tenant: str | None
    vector_store_ids: list[str] | None
    requests_per_minute: int | None
    expires_at: float | None
    is_unnoted: bool  # its last use was not noted within the last minute


async def insert(connection: Connection, *, id: str, created_at: datetime, values: dict[str, Any]) -> ApiKey:
    """Insert a key; `values` are its `hash` and `ending` and the fields of the request."""
    row = await (await connection.execute(INSERT, {**values, "id": id, "created_at": created_at})).fetchone()
    return cast("ApiKey", row)


async def find_grant(connection: Connection, digest: bytes) -> Grant | None:
    return cast("Grant | None", await (await connection.execute(GET_GRANT, {"hash": digest})).fetchone())


async def note_use(connection: Connection, id: str) -> None:
    await connection.execute(NOTE_USE, {"id": id})


async def find_created_at(connection: Connection, id: str) -> datetime | None:
    row = await (await scope.execute(connection, ApiKeys.TABLE, GET_CREATED_AT, {"id": id})).fetchone()
    return None if row is None else row["created_at"]


async def list_between(
    connection: Connection,
    *,
    above: Position | None,
    below: Position | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[ApiKey]:
    """Keys strictly between two positions of the order (created_at, id)."""
    rows = await scope.list_between(
        connection, ApiKeys.TABLE, LIST, above=above, below=below, direction=direction, limit=limit
    )
    return cast("list[ApiKey]", rows)


async def delete(connection: Connection, id: str) -> bool:
    return await (await scope.execute(connection, ApiKeys.TABLE, DELETE, {"id": id})).fetchone() is not None
