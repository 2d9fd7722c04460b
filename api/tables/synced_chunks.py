"""The chunks of a synced table: `file_id` is the key of their row, `filename` the table, `chunk_index` the place."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Json, Jsonb

from api.field_mapping import ChunkTable
from api.tables.chunks import COPIED, new_ids, statement_names, storable, typed_id
from api.tables.database import Connection
from api.tables.file_chunks import FILE_COLUMNS
from api.wire import Vectors

COPY = "COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"

LIST = """
SELECT {file_id} AS key, {content} AS text, {metadata} AS attributes FROM {table}
WHERE {vector_store_id} = {store} AND {file_id} = ANY(%(keys)s) AND {filename} = %(filename)s
ORDER BY {file_id}, chunk_index
"""

DELETE = """
WITH gone AS (
    DELETE FROM {table}
    WHERE {vector_store_id} = {store} AND {file_id} = ANY(%(keys)s) AND {filename} = %(filename)s
    RETURNING {file_id} AS key, octet_length({content}) AS bytes
)
SELECT count(DISTINCT key) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
"""

# A file that somebody uploaded may be called like the table.
DELETE_ALL = """
WITH gone AS (
    DELETE FROM {table}
    WHERE {vector_store_id} = {store} AND {filename} = %(filename)s
      AND NOT EXISTS (SELECT FROM vector_store_files AS uploaded
                      WHERE uploaded.vector_store_id = {store} AND uploaded.file_id = {table}.{file_id})
    RETURNING {file_id} AS key, octet_length({content}) AS bytes
)
SELECT count(DISTINCT key) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM gone
"""

SET_ATTRIBUTES = """
UPDATE {table} SET {metadata} = %(attributes)s
WHERE {vector_store_id} = {store} AND {file_id} = %(key)s AND {filename} = %(filename)s
"""


@dataclass(frozen=True)
class StoredRow:
    """What a store has of a row."""

    texts: list[str]
    attributes: dict[str, Any] | None


@dataclass(frozen=True)
class NewRow:
    """What it is to have; shape of vectors (texts, dimension)."""

    key: str
    texts: Sequence[str]
    vectors: Vectors
    attributes: dict[str, Any] | None


@dataclass(frozen=True)
class Size:
    rows: int = 0
    bytes: int = 0


async def list_stored(
    connection: Connection, table: ChunkTable, vector_store_id: str, filename: str, keys: Sequence[str]
) -> dict[str, StoredRow]:
    statement = sql.SQL(LIST).format(**statement_names(table, vector_store_id))
    stored: dict[str, StoredRow] = {}
    for chunk in await (await connection.execute(statement, {"keys": list(keys), "filename": filename})).fetchall():
        row = stored.setdefault(chunk["key"], StoredRow([], chunk["attributes"]))
        row.texts.append(chunk["text"])
    return stored


async def copy(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    filename: str,
    sync_id: str,
    rows: Sequence[NewRow],
) -> Size:
    """Copy the chunks of rows in, which have none."""
    ids = iter(await _ids(connection, table, sync_id, rows))
    store_id = typed_id(table.vector_store_id, vector_store_id)
    now = datetime.now(UTC)
    created_at = now if table.created_at.type == "timestamptz" else now.replace(tzinfo=None)
    mapped = [getattr(table, role) for role in COPIED]
    statement = sql.SQL(COPY).format(
        table=sql.Identifier(table.schema, table.name),
        columns=sql.SQL(", ").join(map(sql.Identifier, [*(column.name for column in mapped), *FILE_COLUMNS])),
    )
    size = 0
    async with connection.cursor() as cursor, cursor.copy(statement) as copied:
        copied.set_types([*(column.type for column in mapped), *FILE_COLUMNS.values()])
        for row in rows:
            for index, (text, vector) in enumerate(zip(row.texts, row.vectors, strict=True)):
                chunk = (next(ids), store_id, text, storable(table, vector), row.attributes, created_at)
                await copied.write_row((*chunk, row.key, filename, index))
                size += len(text.encode())
    return Size(len(rows), size)


async def delete(
    connection: Connection, table: ChunkTable, vector_store_id: str, filename: str, keys: Sequence[str]
) -> Size:
    statement = sql.SQL(DELETE).format(**statement_names(table, vector_store_id))
    row = await (await connection.execute(statement, {"keys": list(keys), "filename": filename})).fetchone()
    assert row is not None  # an aggregate always has one
    return Size(row["rows"], row["bytes"])


async def delete_all(connection: Connection, table: ChunkTable, vector_store_id: str, filename: str) -> Size:
    statement = sql.SQL(DELETE_ALL).format(**statement_names(table, vector_store_id))
    row = await (await connection.execute(statement, {"filename": filename})).fetchone()
    assert row is not None  # an aggregate always has one
    return Size(row["rows"], row["bytes"])


async def set_attributes(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    filename: str,
    key: str,
    attributes: dict[str, Any] | None,
) -> None:
    statement = sql.SQL(SET_ATTRIBUTES).format(**statement_names(table, vector_store_id))
    as_json = Jsonb if table.metadata.type == "jsonb" else Json
    value = None if attributes is None else as_json(attributes)
    await connection.execute(statement, {"attributes": value, "key": key, "filename": filename})


async def _ids(
    connection: Connection, table: ChunkTable, sync_id: str, rows: Sequence[NewRow]
) -> Sequence[str | int | UUID]:
    """Ids that follow from the sync, the key and the place, where ids are texts; a key may be long."""
    if table.id.type in ("uuid", "int4", "int8"):
        return await new_ids(connection, table, sum(len(row.texts) for row in rows))
    digests = [sha256(row.key.encode()).hexdigest()[:24] for row in rows]
    return [
        f"{sync_id}_{digest}_{index:06}"
        for row, digest in zip(rows, digests, strict=True)
        for index in range(len(row.texts))
    ]
