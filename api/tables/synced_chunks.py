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
from api.tables import chunk_copy
from api.tables.chunk_copy import Place, Rows
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.file_chunks import CHUNK_INDEX, FILE_ID, FILENAME
from api.vectors import Vectors, as_rows

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
    indexes = [index for row in rows for index in range(len(row.texts))]
    contents = [text for row in rows for text in row.texts]
    copied = Rows(
        ids=await _ids(connection, table, sync_id, rows),
        contents=contents,
        metadata=[row.attributes for row in rows for _ in row.texts],
        vectors=as_rows([vector for row in rows for vector in row.vectors]),
        created_at=datetime.now(UTC),
    )
    each: dict[Place, Sequence[object]] = {
        FILE_ID: [row.key for row in rows for _ in row.texts],
        CHUNK_INDEX: indexes,
    }
    await chunk_copy.copy(connection, table, vector_store_id, copied, same={FILENAME: filename}, each=each)
    return Size(len(rows), sum(len(text.encode()) for text in contents))


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
        return await chunk_copy.new_ids(connection, table, sum(len(row.texts) for row in rows))
    digests = [sha256(row.key.encode()).hexdigest()[:24] for row in rows]
    return [
        f"{sync_id}_{digest}_{index:06}"
        for row, digest in zip(rows, digests, strict=True)
        for index in range(len(row.texts))
    ]
