"""How far an index that is kept behind the writes may follow them: as far as no open transaction can still insert."""

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.chunks import statement_names
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


async def settle(connection: Connection, table: ChunkTable, vector_store_id: str, *, progress: sql.Identifier) -> None:
    """Note how far the next batches of a store may go. Not to be called in a transaction, which would wait for itself.

    `progress` is the table of it, with `indexed_seq`, `settling_seq` and `settling_after`.
    """
    statement = sql.SQL(SETTLE).format(**statement_names(table, vector_store_id), progress=progress)
    await connection.execute(statement, {"table": table.identifier.as_string(connection).replace("%%", "%")})
