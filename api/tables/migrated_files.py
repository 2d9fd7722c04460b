"""Files whose chunks come from elsewhere with their vectors: completed as soon as they are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from api.tables.database import Connection

# In the order of the ids, as everybody takes these locks.
UPSERT = """
WITH upserted AS (
    INSERT INTO vector_store_files AS file
        (vector_store_id, file_id, status, usage_bytes, attributes, chunking_strategy, created_at, turn)
    SELECT %(vector_store_id)s, new.file_id, 'completed', new.usage_bytes, new.attributes, new.chunking_strategy,
           coalesce(new.created_at, now()), 0
    FROM unnest(%(file_ids)s::text[], %(usage_bytes)s::bigint[], %(attributes)s::jsonb[],
                %(chunking_strategies)s::jsonb[], %(created_at)s::timestamptz[])
         AS new (file_id, usage_bytes, attributes, chunking_strategy, created_at)
    ORDER BY new.file_id
    ON CONFLICT (vector_store_id, file_id) DO UPDATE SET usage_bytes = file.usage_bytes + excluded.usage_bytes
    RETURNING xmax = 0 AS is_new
)
SELECT count(*) FILTER (WHERE is_new) AS count FROM upserted
"""

LIST_STRATEGIES = """
SELECT file_id, chunking_strategy FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = ANY(%(file_ids)s)
"""

UNKNOWN_STRATEGY: Final = {"type": "other"}  # OpenAI's word for how a file was cut when nobody knows


@dataclass(frozen=True)
class MigratedFile:
    file_id: str
    usage_bytes: int
    attributes: Any
    chunking_strategy: Any
    created_at: datetime | None


async def upsert(connection: Connection, vector_store_id: str, files: Sequence[MigratedFile]) -> int:
    """Put files into a store, or add to those that it has; how many are new."""
    params = {
        "vector_store_id": vector_store_id,
        "file_ids": [file.file_id for file in files],
        "usage_bytes": [file.usage_bytes for file in files],
        "attributes": [None if file.attributes is None else Jsonb(file.attributes) for file in files],
        "chunking_strategies": [Jsonb(file.chunking_strategy or UNKNOWN_STRATEGY) for file in files],
        "created_at": [file.created_at for file in files],
    }
    row = await (await connection.execute(UPSERT, params)).fetchone()
    assert row is not None  # an aggregate always has one
    return row["count"]


async def list_strategies(connection: Connection, vector_store_id: str, file_ids: Sequence[str]) -> dict[str, Any]:
    """How each of some files was cut into chunks."""
    params = {"vector_store_id": vector_store_id, "file_ids": list(file_ids)}
    rows = await (await connection.execute(LIST_STRATEGIES, params)).fetchall()
    return {row["file_id"]: row["chunking_strategy"] for row in rows}
