"""The sparse vectors of each store's chunks, and how far they are.

They are written by the worker alone, behind the writes to the table of chunks.
"""

from collections.abc import Sequence
from typing import Final, TypedDict, cast

from pgvector import SparseVector
from psycopg import sql

from api.field_mapping import ChunkTable
from api.sparse import DIMENSION, Weights
from api.tables.chunks import id_type, statement_names
from api.tables.database import Connection
from api.tables.settling import IS_SETTLED, Place, advanced, following, settle

MAX_CHARACTERS: Final = 50_000  # of a chunk; no model reads so far

LIST_BEHIND = """
SELECT store.id AS vector_store_id
FROM vector_stores AS store
LEFT JOIN sparse_stores AS indexed ON indexed.vector_store_id = store.id
WHERE store.status <> 'expired' AND store.embedding_dimension IS NOT NULL
  AND (indexed.vector_store_id IS NULL
       OR NOT indexed.is_adopted
       OR indexed.settling_seq IS NOT NULL
       OR indexed.model <> %(model)s
       OR EXISTS (SELECT FROM {table}
                  WHERE {table}.{vector_store_id} = store.id AND {table}.seq > indexed.indexed_seq))
ORDER BY store.id
"""

START = "INSERT INTO sparse_stores (vector_store_id, model) VALUES (%(store)s, %(model)s) ON CONFLICT DO NOTHING"

FIND = f"""
SELECT model, adopted_id, is_adopted, indexed_seq, settling_seq, {IS_SETTLED}
FROM sparse_stores WHERE vector_store_id = %(store)s
"""  # noqa: S608  # only constants of this code are put together

# Those without a `seq` first.
LIST_NEXT = """
SELECT {id}::text AS id, seq, left({content}, %(characters)s) AS text FROM {table}
WHERE {vector_store_id} = {store} AND {condition}
ORDER BY {order}
LIMIT %(limit)s
"""

# Nothing is advanced where somebody else has been since the progress was read.
ADVANCE = """
UPDATE sparse_stores SET
    adopted_id = %(adopted_id)s, is_adopted = %(is_adopted)s,
    indexed_seq = %(indexed_seq)s, settling_seq = %(settling_seq)s, chunk_count = chunk_count + %(chunks)s
WHERE vector_store_id = %(store)s AND model = %(model)s AND indexed_seq = %(before_seq)s
  AND adopted_id IS NOT DISTINCT FROM %(before_id)s AND is_adopted = %(was_adopted)s
RETURNING vector_store_id
"""

PUT = """
INSERT INTO sparse_chunks (vector_store_id, chunk_id, seq, weights)
VALUES (%(store)s, %(id)s, %(seq)s, %(weights)s)
ON CONFLICT (vector_store_id, chunk_id) DO UPDATE SET seq = excluded.seq, weights = excluded.weights
"""

FORGET_DELETED = """
WITH deleted AS (
    DELETE FROM sparse_chunks AS placed
    WHERE placed.vector_store_id = {store}
      AND NOT EXISTS (SELECT FROM {table}
                      WHERE {table}.{vector_store_id} = {store} AND {table}.{id} = placed.chunk_id::{id_type}
                        AND {table}.seq IS NOT DISTINCT FROM placed.seq)
    RETURNING 1
)
UPDATE sparse_stores SET chunk_count = (SELECT count(*) FROM sparse_chunks WHERE vector_store_id = {store})
                                     - (SELECT count(*) FROM deleted)
WHERE vector_store_id = {store}
"""

CLAIM = "SELECT 1 AS found FROM sparse_stores WHERE vector_store_id = %(store)s FOR UPDATE SKIP LOCKED"

LIST_STORES = "SELECT vector_store_id FROM sparse_stores ORDER BY vector_store_id"

LIST_ORPHANED = """
SELECT vector_store_id FROM sparse_stores AS indexed
WHERE NOT EXISTS (SELECT FROM vector_stores WHERE id = indexed.vector_store_id AND status <> 'expired')
"""

CLEAR = (
    "DELETE FROM sparse_stores WHERE vector_store_id = %(store)s",
    "DELETE FROM sparse_chunks WHERE vector_store_id = %(store)s",
)


class Progress(Place):
    """How far the vectors of a store are."""

    model: str


class Unweighed(TypedDict):
    id: str
    seq: int | None
    text: str | None


async def list_behind(connection: Connection, table: ChunkTable, *, model: str) -> list[str]:
    """Stores with chunks that have no sparse vector of the model."""
    statement = sql.SQL(LIST_BEHIND).format(table=table.identifier, vector_store_id=table.names["vector_store_id"])
    rows = await (await connection.execute(statement, {"model": model})).fetchall()
    return [row["vector_store_id"] for row in rows]


async def start(connection: Connection, table: ChunkTable, vector_store_id: str, *, model: str) -> None:
    """Note how far the next batches may go. Not to be called in a transaction, which would wait for itself."""
    await connection.execute(START, {"store": vector_store_id, "model": model})
    await settle(connection, table, vector_store_id, progress=sql.Identifier("sparse_stores"))


async def find(connection: Connection, vector_store_id: str) -> Progress | None:
    return cast("Progress | None", await (await connection.execute(FIND, {"store": vector_store_id})).fetchone())


async def list_next(
    connection: Connection, table: ChunkTable, vector_store_id: str, progress: Progress, *, limit: int
) -> list[Unweighed]:
    """The next chunks of a store, in their order."""
    names = statement_names(table, vector_store_id)
    condition, places = following(table, names, progress)
    order = sql.SQL("seq" if progress["is_adopted"] else "{table}.{id}").format(**names)
    statement = sql.SQL(LIST_NEXT).format(**names, condition=condition, order=order)
    params = {**places, "characters": MAX_CHARACTERS, "limit": limit}
    return cast("list[Unweighed]", await (await connection.execute(statement, params)).fetchall())


async def advance(
    connection: Connection, vector_store_id: str, progress: Progress, weighed: Sequence[Unweighed], *, is_last: bool
) -> bool:
    """Note that the store is as far as these chunks; False: somebody else has been there.

    `is_last`: there were no more that could be seen.
    """
    last_id, last_seq = (weighed[-1]["id"], weighed[-1]["seq"]) if weighed else (None, None)
    params = {
        **advanced(progress, last_id=last_id, last_seq=last_seq, is_last=is_last),
        "store": vector_store_id,
        "model": progress["model"],
        "before_seq": progress["indexed_seq"],
        "before_id": progress["adopted_id"],
        "was_adopted": progress["is_adopted"],
        "chunks": len(weighed),
    }
    return await (await connection.execute(ADVANCE, params)).fetchone() is not None


async def put(connection: Connection, vector_store_id: str, weighed: Sequence[tuple[Unweighed, Weights]]) -> None:
    """Write the vectors of chunks, over those that chunks of their ids had before."""
    rows = [
        {"store": vector_store_id, "id": chunk["id"], "seq": chunk["seq"], "weights": storable(weights)}
        for chunk, weights in weighed
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(PUT, rows)


async def claim(connection: Connection, vector_store_id: str) -> bool:
    """Hold the vectors of a store until the transaction ends. False: somebody else does."""
    return await (await connection.execute(CLAIM, {"store": vector_store_id})).fetchone() is not None


async def forget_deleted(connection: Connection, table: ChunkTable, vector_store_id: str) -> None:
    statement = sql.SQL(FORGET_DELETED).format(**statement_names(table, vector_store_id), id_type=id_type(table))
    await connection.execute(statement, {})


async def list_stores(connection: Connection) -> list[str]:
    return [row["vector_store_id"] for row in await (await connection.execute(LIST_STORES)).fetchall()]


async def list_orphaned(connection: Connection) -> list[str]:
    """Stores that have vectors and are gone, or have expired."""
    return [row["vector_store_id"] for row in await (await connection.execute(LIST_ORPHANED)).fetchall()]


async def clear(connection: Connection, vector_store_id: str) -> None:
    for statement in CLEAR:
        await connection.execute(statement, {"store": vector_store_id})


def storable(weights: Weights) -> SparseVector:
    """The vector in the column's type."""
    return SparseVector(dict(weights.of_entries), DIMENSION)
