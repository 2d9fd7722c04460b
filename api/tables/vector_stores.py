"""The table `vector_stores`. Its rows leave as OpenAI's objects: the SELECT list is the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

from psycopg.types.json import Jsonb

from api.schemas.vector_store_files import FILE_STATUSES, FileStatus
from api.schemas.vector_stores import VectorStore
from api.tables import scope
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.keyset import Position

# What an answer shows; `expires_at` decides, so that a store is expired the second it is and not when it is swept.
VECTOR_STORE = """
    id,
    'vector_store' AS object,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    name,
    description,
    usage_bytes,
    file_counts,
    CASE WHEN expires_at <= now() THEN 'expired'
         WHEN (file_counts ->> 'in_progress')::bigint > 0 THEN 'in_progress'
         ELSE status END AS status,
    expires_after,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at,
    floor(extract(epoch FROM last_active_at))::bigint AS last_active_at,
    metadata,
    embedding_model,
    embedding_dimension
"""

INSERT = f"""
INSERT INTO vector_stores (id, name, description, metadata, expires_after, expires_at,
                           created_at, last_active_at, embedding_model, embedding_dimension, tenant)
VALUES (%(id)s, %(name)s, %(description)s, %(metadata)s, %(expires_after)s, now() + make_interval(days => %(days)s),
        %(created_at)s, now(), %(embedding_model)s, %(embedding_dimension)s, %(tenant)s)
RETURNING {VECTOR_STORE}
"""  # noqa: S608  # only constants of this file are put together

GET = f"SELECT {VECTOR_STORE} FROM vector_stores WHERE id = %(id)s AND {{visible}}"  # noqa: S608

GET_CREATED_AT = "SELECT created_at FROM vector_stores WHERE id = %(id)s AND {visible}"

LIST = f"""
SELECT {VECTOR_STORE} FROM vector_stores
WHERE {{visible}} AND {{condition}}
ORDER BY vector_stores.created_at {{direction}}, id {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

UPDATE = f"""
UPDATE vector_stores SET
    name = CASE WHEN %(set_name)s THEN %(name)s ELSE name END,
    metadata = CASE WHEN %(set_metadata)s THEN %(metadata)s ELSE metadata END,
    expires_after = CASE WHEN %(set_expires_after)s THEN %(expires_after)s ELSE expires_after END,
    expires_at = now() + make_interval(
        days => CASE WHEN %(set_expires_after)s THEN %(days)s ELSE (expires_after ->> 'days')::int END),
    last_active_at = now(),
    status = 'completed'
WHERE id = %(id)s AND {{visible}}
RETURNING {VECTOR_STORE}
"""  # noqa: S608

DELETE = "DELETE FROM vector_stores WHERE id = %(id)s AND {visible} RETURNING id"

LOCK = f"{GET} FOR NO KEY UPDATE"

# Others may write to the store meanwhile, but it cannot be deleted.
HOLD = f"{GET} FOR KEY SHARE"

# Whoever may delete a file may not see all the stores that it is in.
HOLD_UNSEEN = "SELECT id FROM vector_stores WHERE id = %(id)s FOR KEY SHARE"

# Two that are created at once count one after the other.
LOCK_COUNT = "SELECT pg_advisory_xact_lock(hashtext('quiver stores of ' || %(tenant)s))"

COUNT = "SELECT count(*) AS count FROM vector_stores WHERE tenant = %(tenant)s"

LIST_EXISTING = "SELECT id FROM vector_stores WHERE id = ANY(%(ids)s) AND tenant = %(tenant)s AND {visible}"

# The first vector decides the dimension of a store that was created without one.
COUNT_CHUNKS = """
UPDATE vector_stores SET
    file_counts = file_counts || jsonb_build_object(
        'completed', (file_counts ->> 'completed')::bigint + %(files)s,
        'total', (file_counts ->> 'total')::bigint + %(files)s),
    usage_bytes = usage_bytes + %(usage_bytes)s,
    embedding_dimension = coalesce(embedding_dimension, %(dimension)s),
    last_active_at = now(),
    expires_at = now() + make_interval(days => (expires_after ->> 'days')::int)
WHERE id = %(id)s
  AND coalesce(embedding_dimension, %(dimension)s) IS NOT DISTINCT FROM %(dimension)s
  AND status <> 'expired' AND (expires_at IS NULL OR expires_at > now())
RETURNING id
"""

UNCOUNT_CHUNK = """
UPDATE vector_stores SET
    file_counts = file_counts || jsonb_build_object(
        'completed', greatest((file_counts ->> 'completed')::bigint - 1, 0),
        'total', greatest((file_counts ->> 'total')::bigint - 1, 0)),
    usage_bytes = greatest(usage_bytes - %(usage_bytes)s, 0)
WHERE id = %(id)s
"""

# Files move from one count to another. The first vector decides the dimension, as above.
COUNT_FILES = """
UPDATE vector_stores SET
    file_counts = jsonb_build_object(
        'in_progress', (file_counts ->> 'in_progress')::bigint + %(in_progress)s,
        'completed', (file_counts ->> 'completed')::bigint + %(completed)s,
        'failed', (file_counts ->> 'failed')::bigint + %(failed)s,
        'cancelled', (file_counts ->> 'cancelled')::bigint + %(cancelled)s,
        'total', (file_counts ->> 'total')::bigint
            + %(in_progress)s + %(completed)s + %(failed)s + %(cancelled)s),
    usage_bytes = usage_bytes + %(usage_bytes)s,
    embedding_dimension = coalesce(embedding_dimension, %(dimension)s)
WHERE id = %(id)s
  AND (%(dimension)s::integer IS NULL OR coalesce(embedding_dimension, %(dimension)s) = %(dimension)s)
RETURNING id
"""

# A search does not wait for a writer, who moves the time as well.
TOUCH = """
UPDATE vector_stores SET
    last_active_at = now(),
    expires_at = now() + make_interval(days => (expires_after ->> 'days')::int)
WHERE id = (SELECT id FROM vector_stores WHERE id = %(id)s AND {visible} FOR NO KEY UPDATE SKIP LOCKED)
"""

LIST_EXPIRED = "SELECT id FROM vector_stores WHERE expires_at <= now() AND status <> 'expired' ORDER BY expires_at"

# Asked again for the time: the store may have been used since it was listed. It is locked as for a deletion, so that
# whoever holds it comes to an end first.
LOCK_EXPIRED = """
SELECT id FROM vector_stores WHERE id = %(id)s AND expires_at <= now() AND status <> 'expired' FOR UPDATE
"""

SET_EXPIRED = """
UPDATE vector_stores SET
    status = 'expired', usage_bytes = 0,
    file_counts = '{"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}'
WHERE id = %(id)s
"""


async def insert(connection: Connection, *, id: str, created_at: datetime, values: dict[str, Any]) -> VectorStore:
    """Insert a store; `values` are its columns `name`, `description`, `metadata`, `expires_after` and `embedding_*`."""
    expires_after = values["expires_after"]
    params = {
        **values,
        "id": id,
        "created_at": created_at,
        "metadata": _jsonb(values["metadata"]),
        "expires_after": _jsonb(expires_after),
        "days": expires_after and expires_after["days"],
        "tenant": scope.owner(connection).tenant,
    }
    row = await (await connection.execute(INSERT, params)).fetchone()
    return cast("VectorStore", row)


async def find(connection: Connection, id: str) -> VectorStore | None:
    row = await (await scope.execute(connection, VectorStores.TABLE, GET, {"id": id})).fetchone()
    return cast("VectorStore | None", row)


async def find_created_at(connection: Connection, id: str) -> datetime | None:
    row = await (await scope.execute(connection, VectorStores.TABLE, GET_CREATED_AT, {"id": id})).fetchone()
    return None if row is None else row["created_at"]


async def list_between(
    connection: Connection,
    *,
    above: Position | None,
    below: Position | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[VectorStore]:
    """Stores strictly between two positions of the order (created_at, id)."""
    rows = await scope.list_between(
        connection, VectorStores.TABLE, LIST, above=above, below=below, direction=direction, limit=limit
    )
    return cast("list[VectorStore]", rows)


async def update(connection: Connection, id: str, *, changes: dict[str, Any]) -> VectorStore | None:
    """Change the named ones of `name`, `metadata` and `expires_after`; None clears. The expiry starts anew."""
    expires_after = changes.get("expires_after")
    params = {
        "id": id,
        "set_name": "name" in changes,
        "name": changes.get("name") or "",
        "set_metadata": "metadata" in changes,
        "metadata": _jsonb(changes.get("metadata")),
        "set_expires_after": "expires_after" in changes,
        "expires_after": _jsonb(expires_after),
        "days": expires_after and expires_after["days"],
    }
    row = await (await scope.execute(connection, VectorStores.TABLE, UPDATE, params)).fetchone()
    return cast("VectorStore | None", row)


async def delete(connection: Connection, id: str) -> bool:
    return await (await scope.execute(connection, VectorStores.TABLE, DELETE, {"id": id})).fetchone() is not None


async def lock(connection: Connection, id: str) -> VectorStore | None:
    """Keep others from writing to the store until the transaction ends."""
    row = await (await scope.execute(connection, VectorStores.TABLE, LOCK, {"id": id})).fetchone()
    return cast("VectorStore | None", row)


async def hold(connection: Connection, id: str) -> VectorStore | None:
    """Keep the store from being deleted until the transaction ends."""
    row = await (await scope.execute(connection, VectorStores.TABLE, HOLD, {"id": id})).fetchone()
    return cast("VectorStore | None", row)


async def hold_unseen(connection: Connection, id: str) -> bool:
    """The same for a store that the connection may not see: what is done to it must not depend on that."""
    return await (await connection.execute(HOLD_UNSEEN, {"id": id})).fetchone() is not None


async def count_of_tenant(connection: Connection) -> int:
    """How many stores the tenant has whose the next one will be; until the transaction ends, nobody adds any."""
    params = {"tenant": scope.owner(connection).tenant}
    await connection.execute(LOCK_COUNT, params)
    row = await (await connection.execute(COUNT, params)).fetchone()
    assert row is not None  # an aggregate always has one
    return row["count"]


async def list_existing(connection: Connection, ids: Sequence[str], *, tenant: str) -> set[str]:
    """Those of the ids that are stores of a tenant."""
    params = {"ids": list(ids), "tenant": tenant}
    rows = await (await scope.execute(connection, VectorStores.TABLE, LIST_EXISTING, params)).fetchall()
    return {row["id"] for row in rows}


async def count_chunks(connection: Connection, id: str, *, files: int, usage_bytes: int, dimension: int) -> bool:
    """Add to the counters. False: the store is gone, has expired, or has vectors of another dimension."""
    params = {"id": id, "files": files, "usage_bytes": usage_bytes, "dimension": dimension}
    return await (await connection.execute(COUNT_CHUNKS, params)).fetchone() is not None


async def uncount_chunk(connection: Connection, id: str, *, usage_bytes: int) -> None:
    await connection.execute(UNCOUNT_CHUNK, {"id": id, "usage_bytes": usage_bytes})


async def count_files(
    connection: Connection, id: str, changes: Mapping[FileStatus, int], *, usage_bytes: int, dimension: int | None
) -> bool:
    """Add to the counters of files by their status. False: the store is gone, or has vectors of another dimension."""
    counts = {status: changes.get(status, 0) for status in FILE_STATUSES}
    params = {**counts, "id": id, "usage_bytes": usage_bytes, "dimension": dimension}
    return await (await connection.execute(COUNT_FILES, params)).fetchone() is not None


async def touch(connection: Connection, id: str) -> None:
    await scope.execute(connection, VectorStores.TABLE, TOUCH, {"id": id})


async def list_expired(connection: Connection) -> list[str]:
    return [row["id"] for row in await (await connection.execute(LIST_EXPIRED)).fetchall()]


async def lock_expired(connection: Connection, id: str) -> bool:
    """Hold the store's row if it is still expired."""
    return await (await connection.execute(LOCK_EXPIRED, {"id": id})).fetchone() is not None


async def set_expired(connection: Connection, id: str) -> None:
    await connection.execute(SET_EXPIRED, {"id": id})


def _jsonb(value: object) -> Jsonb | None:
    return None if value is None else Jsonb(value)
