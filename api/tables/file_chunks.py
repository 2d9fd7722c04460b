"""The chunks of files: rows of the table of chunks whose `file_id`, `filename` and `chunk_index` say whose they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Json, Jsonb

from api.field_mapping import ChunkTable
from api.tables import chunk_copy
from api.tables.chunk_copy import Place, Rows
from api.tables.chunks import statement_names
from api.tables.columns import Embeddings
from api.tables.database import Connection
from api.vectors import Vectors

FILE_ID: Final = Place(Embeddings.FILE_ID, "text")
FILENAME: Final = Place(Embeddings.FILENAME, "text")
CHUNK_INDEX: Final = Place(Embeddings.CHUNK_INDEX, "int4")

DELETE = "DELETE FROM {table} WHERE {vector_store_id} = {store} AND file_id = ANY(%(file_ids)s)"

SET_METADATA = """
UPDATE {table} SET {metadata} = %(metadata)s WHERE {vector_store_id} = {store} AND file_id = %(file_id)s
"""

LIST_TEXTS = """
SELECT chunk_index, {content} AS text FROM {table}
WHERE {vector_store_id} = {store} AND file_id = %(file_id)s AND chunk_index >= %(start)s
ORDER BY chunk_index
LIMIT %(limit)s
"""


@dataclass(frozen=True)
class ChunkedFile:
    """What every chunk of a file says of it."""

    file_id: str
    filename: str
    attributes: dict[str, Any] | None


async def copy(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    file: ChunkedFile,
    *,
    start: int,
    texts: Sequence[str],
    vectors: Vectors,
) -> None:
    """Copy chunks of a file in, the first of them the `start`-th of the file; shape of vectors (texts, dimension)."""
    indexes = range(start, start + len(texts))
    chunk_ids = await _ids(connection, table, file.file_id, indexes)
    rows = Rows(chunk_ids, texts, [file.attributes] * len(texts), vectors, created_at=datetime.now(UTC))
    of_file = {FILE_ID: file.file_id, FILENAME: file.filename}
    await chunk_copy.copy(connection, table, vector_store_id, rows, same=of_file, each={CHUNK_INDEX: indexes})


async def delete(connection: Connection, table: ChunkTable, vector_store_id: str, file_ids: Sequence[str]) -> None:
    if file_ids and table.has_file_columns:
        statement = sql.SQL(DELETE).format(**statement_names(table, vector_store_id))
        await connection.execute(statement, {"file_ids": list(file_ids)})


async def set_attributes(
    connection: Connection, table: ChunkTable, vector_store_id: str, file_id: str, attributes: dict[str, Any] | None
) -> None:
    statement = sql.SQL(SET_METADATA).format(**statement_names(table, vector_store_id))
    as_json = Jsonb if table.metadata.type == "jsonb" else Json
    metadata = None if attributes is None else as_json(attributes)
    await connection.execute(statement, {"file_id": file_id, "metadata": metadata})


async def list_texts(
    connection: Connection, table: ChunkTable, vector_store_id: str, file_id: str, *, start: int, limit: int
) -> list[str]:
    """The texts of a file's chunks in their order, from the `start`-th on."""
    statement = sql.SQL(LIST_TEXTS).format(**statement_names(table, vector_store_id))
    params = {"file_id": file_id, "start": start, "limit": limit}
    return [row["text"] for row in await (await connection.execute(statement, params)).fetchall()]


async def _ids(connection: Connection, table: ChunkTable, file_id: str, indexes: range) -> Sequence[str | int | UUID]:
    """Ids that tell the file and the place in it, where ids are texts."""
    if table.id.type in ("uuid", "int4", "int8"):
        return await chunk_copy.new_ids(connection, table, len(indexes))
    return [f"{file_id}_{index:06}" for index in indexes]
