"""The table `migration_checkpoints`: how far each `quiver migrate` has come, moved together with what it wrote."""

from typing import Any, TypedDict, cast

from psycopg.types.json import Jsonb

from api.tables.database import Connection

CHECKPOINT = """
    id, vector_store_id, position, rows_written, rows_skipped, rows_rejected, rejects_bytes,
    finished_at IS NOT NULL AS is_finished
"""

FIND = f"SELECT {CHECKPOINT} FROM migration_checkpoints WHERE id = %(id)s"  # noqa: S608  # constants of this file

# One that led to a store that is gone begins anew.
INSERT = f"""
INSERT INTO migration_checkpoints (id, vector_store_id, source)
VALUES (%(id)s, %(vector_store_id)s, %(source)s)
ON CONFLICT (id) DO UPDATE SET
    vector_store_id = excluded.vector_store_id, source = excluded.source, position = NULL,
    rows_written = 0, rows_skipped = 0, rows_rejected = 0, rejects_bytes = 0,
    created_at = now(), updated_at = now(), finished_at = NULL
RETURNING {CHECKPOINT}
"""  # noqa: S608

# Whoever else would move it waits, and finds that it has been moved.
HOLD = """
SELECT id FROM migration_checkpoints
WHERE id = %(id)s AND position IS NOT DISTINCT FROM %(before)s::jsonb
FOR NO KEY UPDATE
"""

# Two who run the same migration cannot both move it from where it was.
ADVANCE = """
UPDATE migration_checkpoints SET
    position = %(position)s, rejects_bytes = %(rejects_bytes)s, updated_at = now(), finished_at = NULL,
    rows_written = rows_written + %(written)s,
    rows_skipped = rows_skipped + %(skipped)s,
    rows_rejected = rows_rejected + %(rejected)s
WHERE id = %(id)s AND position IS NOT DISTINCT FROM %(before)s::jsonb
RETURNING id
"""

FINISH = "UPDATE migration_checkpoints SET finished_at = now() WHERE id = %(id)s"


class Checkpoint(TypedDict):
    id: str
    vector_store_id: str
    position: Any  # JSON, None before the first row
    rows_written: int
    rows_skipped: int
    rows_rejected: int
    rejects_bytes: int
    is_finished: bool


async def find(connection: Connection, id: str) -> Checkpoint | None:
    row = await (await connection.execute(FIND, {"id": id})).fetchone()
    return cast("Checkpoint | None", row)


async def insert(connection: Connection, id: str, *, vector_store_id: str, source: str) -> Checkpoint:
    """Begin a migration, or begin it anew."""
    params = {"id": id, "vector_store_id": vector_store_id, "source": source}
    row = await (await connection.execute(INSERT, params)).fetchone()
    return cast("Checkpoint", row)


async def hold(connection: Connection, id: str, *, before: object) -> bool:
    """Keep others from moving a migration on from the position `before`. False: somebody has done so already."""
    params = {"id": id, "before": None if before is None else Jsonb(before)}
    return await (await connection.execute(HOLD, params)).fetchone() is not None


async def advance(
    connection: Connection,
    id: str,
    *,
    before: object,
    position: object,
    written: int,
    skipped: int,
    rejected: int,
    rejects_bytes: int,
) -> bool:
    """Move a migration on from the position `before`. False: somebody else has moved it."""
    params = {
        "id": id,
        "before": None if before is None else Jsonb(before),
        "position": Jsonb(position),
        "written": written,
        "skipped": skipped,
        "rejected": rejected,
        "rejects_bytes": rejects_bytes,
    }
    return await (await connection.execute(ADVANCE, params)).fetchone() is not None


async def finish(connection: Connection, id: str) -> None:
    await connection.execute(FINISH, {"id": id})
