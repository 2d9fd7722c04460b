"""An index that the worker keeps behind the writes: in their order, and as far as no open transaction can still insert.

First come the chunks without a `seq`, by their ids, which are those of an adopted table; then all others by `seq`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, LiteralString, TypedDict

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.chunks import id_type, statement_names, typed_id
from api.tables.database import Connection

LIST_BEHIND = """
SELECT {columns}
FROM vector_stores AS store
LEFT JOIN {progress} AS indexed ON indexed.vector_store_id = store.id
WHERE store.status <> 'expired' AND store.embedding_dimension IS NOT NULL
  AND (indexed.vector_store_id IS NULL
       OR NOT indexed.is_adopted
       OR indexed.settling_seq IS NOT NULL
       OR {is_outdated}
       OR EXISTS (SELECT FROM {table}
                  WHERE {table}.{vector_store_id} = store.id AND {table}.seq > indexed.indexed_seq))
ORDER BY store.id
"""

# The transactions are looked up after the highest number is: whoever got a lower one and has not committed is among
# them, since the table is locked before a number is taken.
SETTLE = """
UPDATE {progress} SET settling_seq = newest.seq, settling_after = ARRAY(
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND relation = %(table)s::regclass AND mode = 'RowExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND newest.seq IS NOT NULL)
FROM (SELECT max(seq) AS seq FROM {table} WHERE {vector_store_id} = {store}) AS newest
WHERE {progress}.vector_store_id = {store} AND settling_seq IS NULL AND newest.seq > indexed_seq
"""

IS_SETTLED = """
    settling_seq IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_locks WHERE virtualtransaction = ANY(settling_after)) AS is_settled
"""

CLAIM = "SELECT 1 AS found FROM {progress} WHERE vector_store_id = %(store)s FOR UPDATE SKIP LOCKED"

LIST_STORES = """
SELECT vector_store_id,
       NOT EXISTS (SELECT FROM vector_stores WHERE id = indexed.vector_store_id AND status <> 'expired') AS is_orphaned
FROM {progress} AS indexed
ORDER BY vector_store_id
"""

CLEAR = "DELETE FROM {part} WHERE vector_store_id = %(store)s"

# Of an index's row `placed`, with the chunk's id as text and its `seq`.
IS_GONE: Final = """
NOT EXISTS (SELECT FROM {table}
            WHERE {table}.{vector_store_id} = {store} AND {table}.{id} = placed.chunk_id::{id_type}
              AND {table}.seq IS NOT DISTINCT FROM placed.seq)
"""


class Place(TypedDict):
    """How far an index is; `is_settled`: every chunk up to `settling_seq` can be seen."""

    adopted_id: str | None
    is_adopted: bool
    indexed_seq: int
    settling_seq: int | None
    is_settled: bool


def following(
    table: ChunkTable, names: Mapping[str, sql.Composable], place: Place
) -> tuple[sql.Composed, dict[str, Any]]:
    """The condition for a store's chunks that come next, and its parameters."""
    if place["is_adopted"]:
        condition = sql.SQL("seq > %(after)s AND seq <= %(until)s").format()
        return condition, {"after": place["indexed_seq"], "until": place["settling_seq"]}
    if place["adopted_id"] is None:
        return sql.SQL("seq IS NULL").format(), {}
    condition = sql.SQL("seq IS NULL AND {table}.{id} > %(after)s").format(**names)
    return condition, {"after": typed_id(table.id, place["adopted_id"])}


def advanced(place: Place, *, last_id: str | None, last_seq: int | None, is_last: bool) -> dict[str, Any]:
    """How far the index is behind a batch; `is_last`: there are no more chunks that can be seen."""
    if not place["is_adopted"]:
        return {
            "adopted_id": last_id or place["adopted_id"],
            "is_adopted": is_last,
            "indexed_seq": place["indexed_seq"],
            "settling_seq": place["settling_seq"],
        }
    return {
        "adopted_id": place["adopted_id"],
        "is_adopted": True,
        "indexed_seq": place["settling_seq"] if is_last else last_seq,
        "settling_seq": None if is_last else place["settling_seq"],
    }


@dataclass(frozen=True)
class LaggingIndex:
    """The tables of an index; all have a `vector_store_id`.

    `progress` has a row for each store, with what `Place` says and `settling_after`; `parts` have what is indexed.
    """

    progress: str
    parts: tuple[str, ...]

    async def list_behind(
        self,
        connection: Connection,
        table: ChunkTable,
        params: Mapping[str, Any],
        *,
        columns: LiteralString,
        is_outdated: LiteralString,
    ) -> list[Any]:
        """`columns` of the stores with chunks that are not indexed, or are so in another way: if `is_outdated`."""
        statement = sql.SQL(LIST_BEHIND).format(
            **self._names,
            columns=sql.SQL(columns),
            is_outdated=sql.SQL(is_outdated),
            table=table.identifier,
            vector_store_id=table.names["vector_store_id"],
        )
        return await (await connection.execute(statement, params)).fetchall()

    async def settle(self, connection: Connection, table: ChunkTable, vector_store_id: str) -> None:
        """Note how far the next batches of a store may go.

        Not to be called in a transaction, which would wait for itself.
        """
        statement = sql.SQL(SETTLE).format(**statement_names(table, vector_store_id), **self._names)
        await connection.execute(statement, {"table": table.identifier.as_string(connection).replace("%%", "%")})

    async def claim(self, connection: Connection, vector_store_id: str) -> bool:
        """Hold the index of a store until the transaction ends. False: somebody else does."""
        statement = sql.SQL(CLAIM).format(**self._names)
        return await (await connection.execute(statement, {"store": vector_store_id})).fetchone() is not None

    async def list_stores(self, connection: Connection) -> tuple[list[str], list[str]]:
        """Stores that have an index: those that are there, and those that are gone or have expired."""
        rows = await (await connection.execute(sql.SQL(LIST_STORES).format(**self._names))).fetchall()
        kept = [row["vector_store_id"] for row in rows if not row["is_orphaned"]]
        return kept, [row["vector_store_id"] for row in rows if row["is_orphaned"]]

    async def clear(self, connection: Connection, vector_store_id: str) -> None:
        for name in (self.progress, *self.parts):
            statement = sql.SQL(CLEAR).format(part=sql.Identifier(name))
            await connection.execute(statement, {"store": vector_store_id})

    @property
    def _names(self) -> dict[str, sql.Composable]:
        return {"progress": sql.Identifier(self.progress)}


def forgetting(table: ChunkTable, vector_store_id: str, statement: LiteralString) -> sql.Composed:
    """The statement with its {is_gone}: that of no chunk that is there is the row `placed` of an index."""
    names = {**statement_names(table, vector_store_id), "id_type": id_type(table)}
    return sql.SQL(statement).format(**names, is_gone=sql.SQL(IS_GONE).format(**names))
