"""The table `vector_store_files`: which file is in which store, and how far it is.

Whoever writes to it holds the store first, then its rows in the order of `file_id`, then the chunks, and counts last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, cast

from psycopg import sql
from psycopg.types.json import Jsonb

from api.schemas.chunking_strategies import Chunking
from api.schemas.vector_store_files import FileStatus, LastError, VectorStoreFile
from api.tables import keyset, scope
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.keyset import Position

FILE: Final = """
    file_id AS id,
    'vector_store.file' AS object,
    usage_bytes,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    vector_store_id,
    status,
    last_error,
    chunking_strategy,
    attributes
"""

# In the order of the ids, so that two who put in the same files wait for each other and never in a circle.
INSERT = """
INSERT INTO vector_store_files (vector_store_id, file_id, batch_id, attributes, chunking_strategy, created_at, turn)
SELECT %(vector_store_id)s, new.file_id, %(batch_id)s, new.attributes, new.chunking_strategy, %(now)s,
       %(turn)s + new.position
FROM unnest(%(file_ids)s::text[], %(attributes)s::jsonb[], %(chunking_strategies)s::jsonb[])
     WITH ORDINALITY AS new (file_id, attributes, chunking_strategy, position)
ORDER BY new.file_id
ON CONFLICT (vector_store_id, file_id) DO NOTHING
RETURNING file_id
"""

LAST_TURN = """
SELECT greatest(
    (SELECT max(turn) FROM vector_store_files
     WHERE vector_store_id = %(vector_store_id)s AND status = 'in_progress'),
    %(turn)s) AS turn
"""

RESTART = """
UPDATE vector_store_files SET
    status = 'in_progress', last_error = NULL, starts = 0, created_at = %(now)s, turn = %(turn)s,
    chunking_strategy = %(chunking_strategy)s
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
"""

SET_BATCH = """
UPDATE vector_store_files SET batch_id = %(batch_id)s
WHERE vector_store_id = %(vector_store_id)s AND file_id = ANY(%(file_ids)s)
"""

GET = f"""
SELECT {FILE} FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
  AND EXISTS (SELECT FROM vector_stores WHERE vector_stores.id = %(vector_store_id)s AND {{visible}})
"""  # noqa: S608  # only constants of this file are put together

# A file that was taken out is looked for where its place is kept.
GET_CREATED_AT = """
SELECT created_at FROM vector_store_files WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
UNION ALL
SELECT created_at FROM detached_files WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
LIMIT 1
"""

LIST = f"""
SELECT {FILE} FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND {{condition}}
ORDER BY vector_store_files.created_at {{direction}}, file_id {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

LOCK = f"""
SELECT {FILE} FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = ANY(%(file_ids)s)
ORDER BY file_id
FOR UPDATE
"""  # noqa: S608

COUNT = "SELECT count(*) AS count FROM vector_store_files WHERE vector_store_id = %(vector_store_id)s"

LIST_STORES = "SELECT vector_store_id FROM vector_store_files WHERE file_id = %(file_id)s ORDER BY vector_store_id"

SET_ATTRIBUTES = f"""
UPDATE vector_store_files SET attributes = %(attributes)s
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
RETURNING {FILE}
"""  # noqa: S608

CLAIM = """
UPDATE vector_store_files SET starts = starts + 1
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s AND status = 'in_progress'
RETURNING created_at, starts, chunking_strategy, extract(epoch FROM now() - created_at)::float8 AS age_seconds
"""

RELEASE = """
UPDATE vector_store_files SET starts = greatest(starts - 1, 0)
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s AND created_at = %(created_at)s
"""

# A file that was put in anew since the claim is somebody else's to finish.
IS_CLAIMED = """
SELECT FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
  AND status = 'in_progress' AND created_at = %(created_at)s
"""

LOCK_CLAIMED = """
SELECT usage_bytes, attributes FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
  AND status = 'in_progress' AND created_at = %(created_at)s
FOR UPDATE
"""

SETTLE = """
UPDATE vector_store_files SET status = %(status)s, last_error = %(last_error)s, usage_bytes = %(usage_bytes)s
WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
"""

CANCEL_BATCH = """
WITH waiting AS (
    SELECT file_id, usage_bytes FROM vector_store_files
    WHERE batch_id = %(batch_id)s AND vector_store_id = %(vector_store_id)s AND status = 'in_progress'
    ORDER BY file_id
    FOR UPDATE
)
UPDATE vector_store_files AS file SET status = 'cancelled', usage_bytes = 0
FROM waiting
WHERE file.vector_store_id = %(vector_store_id)s AND file.file_id = waiting.file_id
RETURNING file.file_id, waiting.usage_bytes
"""

DELETE = """
WITH deleted AS (
    DELETE FROM vector_store_files WHERE vector_store_id = %(vector_store_id)s AND file_id = %(file_id)s
    RETURNING vector_store_id, file_id, created_at, status, usage_bytes
), kept AS (
    INSERT INTO detached_files (vector_store_id, file_id, created_at)
    SELECT vector_store_id, file_id, created_at FROM deleted
    ON CONFLICT (vector_store_id, file_id) DO UPDATE SET created_at = excluded.created_at, detached_at = now()
)
SELECT status, usage_bytes FROM deleted
"""

DELETE_OF_STORE = """
WITH files AS (DELETE FROM vector_store_files WHERE vector_store_id = %(vector_store_id)s),
     places AS (DELETE FROM detached_files WHERE vector_store_id = %(vector_store_id)s)
DELETE FROM file_batches WHERE vector_store_id = %(vector_store_id)s
"""

FORGET_PLACES = "DELETE FROM detached_files WHERE detached_at < now() - interval '1 day'"


@dataclass(frozen=True)
class NewFile:
    """A file to put into a store."""

    file_id: str
    attributes: dict[str, Any] | None
    chunking_strategy: Chunking


class Claim(TypedDict):
    """What a worker needs to know of a file that waits; `created_at` says which attachment of it this is."""

    created_at: datetime
    starts: int
    chunking_strategy: Chunking
    age_seconds: float


class Claimed(TypedDict):
    usage_bytes: int
    attributes: dict[str, Any] | None


class Detached(TypedDict):
    status: FileStatus
    usage_bytes: int


async def last_turn(connection: Connection, vector_store_id: str, *, least: int) -> int:
    """The turn of the store's last waiting file, and at least that many."""
    params = {"vector_store_id": vector_store_id, "turn": least}
    row = await (await connection.execute(LAST_TURN, params)).fetchone()
    assert row is not None  # an aggregate always has one
    return row["turn"]


async def insert(
    connection: Connection,
    vector_store_id: str,
    new: Sequence[NewFile],
    *,
    batch_id: str | None,
    now: datetime,
    turn: int,
) -> set[str]:
    """Insert those that the store does not have, with the turns behind the given one, and answer with their ids."""
    params = {
        "vector_store_id": vector_store_id,
        "batch_id": batch_id,
        "now": now,
        "turn": turn,
        "file_ids": [file.file_id for file in new],
        "attributes": [None if file.attributes is None else Jsonb(file.attributes) for file in new],
        "chunking_strategies": [Jsonb(file.chunking_strategy) for file in new],
    }
    return {row["file_id"] for row in await (await connection.execute(INSERT, params)).fetchall()}


async def restart(connection: Connection, vector_store_id: str, file: NewFile, *, now: datetime, turn: int) -> None:
    """Have a file of the store ingested anew. Its chunks stay until then; its attributes are not touched."""
    params = {
        "vector_store_id": vector_store_id,
        "file_id": file.file_id,
        "chunking_strategy": Jsonb(file.chunking_strategy),
        "now": now,
        "turn": turn,
    }
    await connection.execute(RESTART, params)


async def set_batch(connection: Connection, vector_store_id: str, file_ids: Sequence[str], batch_id: str) -> None:
    params = {"vector_store_id": vector_store_id, "file_ids": list(file_ids), "batch_id": batch_id}
    await connection.execute(SET_BATCH, params)


async def find(connection: Connection, vector_store_id: str, file_id: str) -> VectorStoreFile | None:
    key = _key(vector_store_id, file_id)
    row = await (await scope.execute(connection, VectorStores.TABLE, GET, key)).fetchone()
    return cast("VectorStoreFile | None", row)


async def find_created_at(connection: Connection, vector_store_id: str, file_id: str) -> datetime | None:
    """When the file was put in, be it taken out by now (for a day)."""
    row = await (await connection.execute(GET_CREATED_AT, _key(vector_store_id, file_id))).fetchone()
    return None if row is None else row["created_at"]


async def list_between(
    connection: Connection,
    vector_store_id: str,
    *,
    batch_id: str | None,
    status: FileStatus | None,
    above: Position | None,
    below: Position | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[VectorStoreFile]:
    """Files of a store, or of one batch, strictly between two positions of the order (created_at, file_id)."""
    condition, params = keyset.between("vector_store_files", above=above, below=below, id="file_id")
    # Only what is asked for: a condition that may be empty hides from the planner which index serves it.
    if batch_id is not None:
        condition = sql.SQL("{} AND batch_id = %(batch_id)s").format(condition)
    if status is not None:
        condition = sql.SQL("{} AND status = %(status)s").format(condition)
    statement = sql.SQL(LIST).format(
        condition=condition,
        direction=sql.SQL("ASC" if direction == "asc" else "DESC"),
    )
    params |= {"vector_store_id": vector_store_id, "batch_id": batch_id, "status": status, "limit": limit}
    return cast("list[VectorStoreFile]", await (await connection.execute(statement, params)).fetchall())


async def count(connection: Connection, vector_store_id: str) -> int:
    row = await (await connection.execute(COUNT, {"vector_store_id": vector_store_id})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["count"]


async def lock(connection: Connection, vector_store_id: str, file_ids: Sequence[str]) -> list[VectorStoreFile]:
    """Those of the files that the store has, locked until the transaction ends."""
    params = {"vector_store_id": vector_store_id, "file_ids": list(file_ids)}
    return cast("list[VectorStoreFile]", await (await connection.execute(LOCK, params)).fetchall())


async def list_stores(connection: Connection, file_id: str) -> list[str]:
    """The stores that have a file, in the order of their ids."""
    rows = await (await connection.execute(LIST_STORES, {"file_id": file_id})).fetchall()
    return [row["vector_store_id"] for row in rows]


async def set_attributes(
    connection: Connection, vector_store_id: str, file_id: str, attributes: dict[str, Any] | None
) -> VectorStoreFile | None:
    params = {**_key(vector_store_id, file_id), "attributes": None if attributes is None else Jsonb(attributes)}
    return cast("VectorStoreFile | None", await (await connection.execute(SET_ATTRIBUTES, params)).fetchone())


async def claim(connection: Connection, vector_store_id: str, file_id: str) -> Claim | None:
    """Note that work on the file starts. None: nobody waits for it."""
    row = await (await connection.execute(CLAIM, _key(vector_store_id, file_id))).fetchone()
    return cast("Claim | None", row)


async def release(connection: Connection, vector_store_id: str, file_id: str, created_at: datetime) -> None:
    """Note that work on the file came to an end in good order, though without a result."""
    await connection.execute(RELEASE, {**_key(vector_store_id, file_id), "created_at": created_at})


async def is_claimed(connection: Connection, vector_store_id: str, file_id: str, created_at: datetime) -> bool:
    """Whether the file still waits for the work that was started on it."""
    params = {**_key(vector_store_id, file_id), "created_at": created_at}
    return await (await connection.execute(IS_CLAIMED, params)).fetchone() is not None


async def lock_claimed(
    connection: Connection, vector_store_id: str, file_id: str, created_at: datetime
) -> Claimed | None:
    """The same, holding the row until the transaction ends."""
    params = {**_key(vector_store_id, file_id), "created_at": created_at}
    return cast("Claimed | None", await (await connection.execute(LOCK_CLAIMED, params)).fetchone())


async def settle(
    connection: Connection,
    vector_store_id: str,
    file_id: str,
    *,
    status: Literal["completed", "failed"],
    last_error: LastError | None,
    usage_bytes: int,
) -> None:
    params = {
        **_key(vector_store_id, file_id),
        "status": status,
        "last_error": None if last_error is None else Jsonb(last_error),
        "usage_bytes": usage_bytes,
    }
    await connection.execute(SETTLE, params)


async def cancel_batch(connection: Connection, vector_store_id: str, batch_id: str) -> dict[str, int]:
    """Cancel the files of a batch that still wait; the `usage_bytes` that each had, by id."""
    params = {"vector_store_id": vector_store_id, "batch_id": batch_id}
    rows = await (await connection.execute(CANCEL_BATCH, params)).fetchall()
    return {row["file_id"]: row["usage_bytes"] for row in rows}


async def delete(connection: Connection, vector_store_id: str, file_id: str) -> Detached | None:
    row = await (await connection.execute(DELETE, _key(vector_store_id, file_id))).fetchone()
    return cast("Detached | None", row)


async def delete_of_store(connection: Connection, vector_store_id: str) -> None:
    """Forget the files and the batches of a store."""
    await connection.execute(DELETE_OF_STORE, {"vector_store_id": vector_store_id})


async def forget_places(connection: Connection) -> None:
    await connection.execute(FORGET_PLACES)


def _key(vector_store_id: str, file_id: str) -> dict[str, str]:
    return {"vector_store_id": vector_store_id, "file_id": file_id}
