"""The table `files`. Its rows leave as OpenAI's objects: the SELECT list is the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, cast

from psycopg import sql

from api.schemas.files import FileObject
from api.tables import keyset, scope
from api.tables.columns import Files
from api.tables.database import Connection
from api.tables.keyset import Position
from api.tables.scope import Owner

# Nothing is done to a file before it can be used, so each is `processed` at once, which `wait_for_processing` awaits.
FILE = """
    id,
    'file' AS object,
    bytes,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at,
    filename,
    purpose,
    'processed' AS status
"""

# `expires_at` decides, so that a file is gone the second it expires and not when it is swept.
UNEXPIRED = "(expires_at IS NULL OR expires_at > now())"

INSERT = f"""
INSERT INTO files (id, filename, purpose, bytes, created_at, expires_at, tenant, api_key_id)
VALUES (%(id)s, %(filename)s, %(purpose)s, %(bytes)s, %(created_at)s,
        %(created_at)s::timestamptz + make_interval(secs => %(expires_after_seconds)s),
        %(tenant)s, %(api_key_id)s)
RETURNING {FILE}
"""  # noqa: S608  # only constants of this file are put together

GET = f"SELECT {FILE} FROM files WHERE id = %(id)s AND {{visible}} AND {UNEXPIRED}"  # noqa: S608

GET_CREATED_AT = "SELECT created_at FROM files WHERE id = %(id)s AND {visible}"

LIST = f"""
SELECT {FILE} FROM files
WHERE {{visible}} AND {UNEXPIRED} AND {{condition}}
ORDER BY files.created_at {{direction}}, id {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

LIST_EXISTING = "SELECT id FROM files WHERE id = ANY(%(ids)s)"

# In the order of the ids, so that two who hold the same files wait for each other and never in a circle. A store has
# files of its own tenant only, even if an admin sees those of all.
HOLD = f"""
SELECT id FROM files
WHERE id = ANY(%(ids)s) AND {{visible}} AND {UNEXPIRED}
  AND tenant = (SELECT tenant FROM vector_stores WHERE vector_stores.id = %(vector_store_id)s)
ORDER BY id
FOR KEY SHARE
"""  # noqa: S608

LIST_EXPIRED = "SELECT id FROM files WHERE expires_at <= now() ORDER BY expires_at"

DELETE_EXPIRED = "DELETE FROM files WHERE id = %(id)s AND expires_at <= now() RETURNING id"

DELETE = f"DELETE FROM files WHERE id = %(id)s AND {{visible}} AND {UNEXPIRED} RETURNING id"  # noqa: S608


async def insert(
    connection: Connection, *, id: str, created_at: datetime, values: dict[str, Any], owner: Owner
) -> FileObject:
    """Insert a file; `values` are its `filename`, `purpose`, `bytes` and `expires_after_seconds`."""
    params = {**values, "id": id, "created_at": created_at, "tenant": owner.tenant, "api_key_id": owner.api_key_id}
    row = await (await connection.execute(INSERT, params)).fetchone()
    assert row is not None  # INSERT ... RETURNING always returns a row
    return _file(row)


async def find(connection: Connection, id: str) -> FileObject | None:
    row = await (await scope.execute(connection, Files.TABLE, GET, {"id": id})).fetchone()
    return None if row is None else _file(row)


async def find_created_at(connection: Connection, id: str) -> datetime | None:
    row = await (await scope.execute(connection, Files.TABLE, GET_CREATED_AT, {"id": id})).fetchone()
    return None if row is None else row["created_at"]


async def list_between(
    connection: Connection,
    *,
    above: Position | None,
    below: Position | None,
    purpose: str | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[FileObject]:
    """Files, of one purpose or any, strictly between two positions of the order (created_at, id)."""
    visible, seen = scope.visible(connection, Files.TABLE)
    condition, params = keyset.between("files", above=above, below=below)
    if purpose is not None:
        condition = sql.SQL("{} AND purpose = %(purpose)s").format(condition)
    statement = sql.SQL(LIST).format(
        visible=visible,
        condition=condition,
        direction=sql.SQL("ASC" if direction == "asc" else "DESC"),
    )
    params |= {**seen, "purpose": purpose, "limit": limit}
    return [_file(row) for row in await (await connection.execute(statement, params)).fetchall()]


async def list_existing(connection: Connection, ids: list[str]) -> set[str]:
    """Those of the ids that have a row, expired or not."""
    rows = await (await connection.execute(LIST_EXISTING, {"ids": ids})).fetchall()
    return {row["id"] for row in rows}


async def delete(connection: Connection, id: str) -> bool:
    return await (await scope.execute(connection, Files.TABLE, DELETE, {"id": id})).fetchone() is not None


async def hold(connection: Connection, ids: Sequence[str], *, vector_store_id: str) -> set[str]:
    """Keep files from being deleted until the transaction ends; the answer is which of them the store may have."""
    params = {"ids": list(ids), "vector_store_id": vector_store_id}
    rows = await (await scope.execute(connection, Files.TABLE, HOLD, params)).fetchall()
    return {row["id"] for row in rows}


async def list_expired(connection: Connection) -> list[str]:
    return [row["id"] for row in await (await connection.execute(LIST_EXPIRED)).fetchall()]


async def delete_expired(connection: Connection, id: str) -> bool:
    """Delete a file if it has expired."""
    return await (await connection.execute(DELETE_EXPIRED, {"id": id})).fetchone() is not None


def _file(row: dict[str, Any]) -> FileObject:
    """OpenAI's `expires_at` may be absent, but not null."""
    if row["expires_at"] is None:
        del row["expires_at"]
    return cast("FileObject", row)
