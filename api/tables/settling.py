"""How an index is kept behind the writes: in their order, and as far as no open transaction can still insert.

First come the chunks without a `seq`, by their ids, which are those of an adopted table; then all others by `seq`.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.chunks import statement_names, typed_id
from api.tables.database import Connection

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


async def settle(connection: Connection, table: ChunkTable, vector_store_id: str, *, progress: sql.Identifier) -> None:
    """Note how far the next batches of a store may go. Not to be called in a transaction, which would wait for itself.

    `progress` is the table of it, with `indexed_seq`, `settling_seq` and `settling_after`.
    """
    statement = sql.SQL(SETTLE).format(**statement_names(table, vector_store_id), progress=progress)
    await connection.execute(statement, {"table": table.identifier.as_string(connection).replace("%%", "%")})
