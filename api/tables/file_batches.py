"""The table `file_batches`. Which files a batch has, and so its counts, the rows of `vector_store_files` say."""

from datetime import datetime
from typing import cast

from api.schemas.file_batches import FileBatch
from api.tables import scope
from api.tables.columns import VectorStores
from api.tables.database import Connection

INSERT = """
INSERT INTO file_batches (id, vector_store_id, created_at) VALUES (%(id)s, %(vector_store_id)s, %(created_at)s)
"""

# A file that a later batch names as well is counted there.
GET = """
SELECT batch.id,
       'vector_store.files_batch' AS object,
       floor(extract(epoch FROM batch.created_at))::bigint AS created_at,
       batch.vector_store_id,
       CASE WHEN batch.is_cancelled THEN 'cancelled'
            WHEN files.in_progress > 0 THEN 'in_progress'
            WHEN files.total > 0 AND files.failed = files.total THEN 'failed'
            ELSE 'completed' END AS status,
       to_jsonb(files) AS file_counts
FROM file_batches AS batch
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
           count(*) FILTER (WHERE status = 'completed') AS completed,
           count(*) FILTER (WHERE status = 'failed') AS failed,
           count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
           count(*) AS total
    FROM vector_store_files WHERE batch_id = batch.id
) AS files
WHERE batch.id = %(id)s AND batch.vector_store_id = %(vector_store_id)s
  AND EXISTS (SELECT FROM vector_stores WHERE vector_stores.id = %(vector_store_id)s AND {visible})
"""

SET_CANCELLED = "UPDATE file_batches SET is_cancelled = true WHERE id = %(id)s"


async def insert(connection: Connection, *, id: str, vector_store_id: str, created_at: datetime) -> None:
    params = {"id": id, "vector_store_id": vector_store_id, "created_at": created_at}
    await connection.execute(INSERT, params)


async def find(connection: Connection, vector_store_id: str, id: str) -> FileBatch | None:
    params = {"id": id, "vector_store_id": vector_store_id}
    row = await (await scope.execute(connection, VectorStores.TABLE, GET, params)).fetchone()
    return cast("FileBatch | None", row)


async def set_cancelled(connection: Connection, id: str) -> None:
    await connection.execute(SET_CANCELLED, {"id": id})
