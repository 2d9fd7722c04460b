"""The sparse vectors of each store's chunks, and how far they are.

They are written by the worker alone, behind the writes to the table of chunks.
"""

from collections.abc import Sequence
from typing import Final, TypedDict, cast

from pgvector import SparseVector
from psycopg import sql

from api.field_mapping import ChunkTable
from api.sparse import DIMENSION, Weights
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.lagging_index import IS_SETTLED, LaggingIndex, Place, advanced, following, forgetting

MAX_CHARACTERS: Final = 50_000  # of a chunk; no model reads so far

TABLES: Final = LaggingIndex("sparse_stores", ("sparse_chunks",))

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
    DELETE FROM sparse_chunks AS placed WHERE placed.vector_store_id = {store} AND {is_gone} RETURNING 1
)
UPDATE sparse_stores SET chunk_count = (SELECT count(*) FROM sparse_chunks WHERE vector_store_id = {store})
                                     - (SELECT count(*) FROM deleted)
WHERE vector_store_id = {store}
"""


class Progress(Place):
    """How far the vectors of a store are."""

    model: str


class Unweighed(TypedDict):
    id: str
    seq: int | None
    text: str | None


async def list_behind(connection: Connection, table: ChunkTable, *, model: str) -> list[str]:
    """Stores with chunks that have no sparse vector of the model."""
    rows = await TABLES.list_behind(
        connection,
        table,
        {"model": model},
        columns="store.id AS vector_store_id",
        is_outdated="indexed.model <> %(model)s",
    )
    return [row["vector_store_id"] for row in rows]


async def start(connection: Connection, table: ChunkTable, vector_store_id: str, *, model: str) -> None:
    """Note how far the next batches may go. Not to be called in a transaction, which would wait for itself."""
    await connection.execute(START, {"store": vector_store_id, "model": model})
    await TABLES.settle(connection, table, vector_store_id)


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


async def forget_deleted(connection: Connection, table: ChunkTable, vector_store_id: str) -> None:
    await connection.execute(forgetting(table, vector_store_id, FORGET_DELETED), {})


def storable(weights: Weights) -> SparseVector:
    """The vector in the column's type."""
    return SparseVector(dict(weights.of_entries), DIMENSION)
