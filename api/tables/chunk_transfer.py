"""Chunks by the hundred thousand: packed for a binary COPY into the table of chunks, and read out of it as a stream."""

import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypedDict, cast
from uuid import UUID

import numpy as np
import numpy.typing as npt
import orjson
from pgvector import HalfVector
from pgvector import Vector as StoredVector
from psycopg import errors as pg
from psycopg import sql

from api.errors import InvalidRequest
from api.field_mapping import ChunkTable, Column
from api.tables.chunks import statement_names, typed_id
from api.tables.columns import Embeddings
from api.tables.database import Connection
from api.vectors import Vector, Vectors

# The columns of a chunk, and those of one of a file, in the order in which they are packed.
COPIED: Final = ("id", "vector_store_id", "content", "embedding", "metadata", "created_at")
FILE_COLUMNS: Final = (Embeddings.FILE_ID, Embeddings.FILENAME, Embeddings.CHUNK_INDEX)

# https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + struct.pack(">ii", 0, 0)
_TRAILER: Final = struct.pack(">h", -1)
_NULL: Final = struct.pack(">i", -1)
_length = struct.Struct(">i").pack
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's

COPY = "COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"

TRIAL_TABLE = "CREATE TEMPORARY TABLE quiver_trial (LIKE {table} INCLUDING ALL) ON COMMIT DROP"

TRIAL_BYTES = "SELECT pg_total_relation_size('pg_temp.quiver_trial') AS bytes"

ROW = """
    {id}::text AS id, coalesce({content}, '') AS content, {embedding} AS embedding, {metadata} AS metadata,
    {created_at} AS created_at, {file_id} AS file_id, {filename} AS filename, {chunk_index} AS chunk_index
"""

# The order of the ids is that of the primary key.
EXPORT = f"SELECT {ROW} FROM {{table}} WHERE {{vector_store_id}} = {{store}} ORDER BY {{table}}.{{id}}"  # noqa: S608

GET = f"SELECT {ROW} FROM {{table}} WHERE {{vector_store_id}} = {{store}} AND {{id}} = ANY(%(ids)s)"  # noqa: S608

COUNT = "SELECT count(*) AS count FROM {table} WHERE {vector_store_id} = {store}"

# A tablesample would take rows of other stores; a hash takes its pick without sorting the whole store.
SAMPLE = """
SELECT {id}::text AS id FROM {table}
WHERE {vector_store_id} = {store} AND {embedding} IS NOT NULL
  AND abs(hashtext({id}::text)::bigint) %% %(each)s = 0
LIMIT %(limit)s
"""

PRESENT = """
SELECT {id}::text AS id FROM {table} WHERE {vector_store_id} = {store} AND {id} = ANY(%(ids)s)
"""

TAKEN = """
SELECT {id}::text AS id FROM {table} WHERE {id} = ANY(%(ids)s) AND {vector_store_id} <> {store}
"""


class StoredChunk(TypedDict):
    """A chunk as it lies in the table; the vector is float32, whatever the column has."""

    id: str
    content: str
    embedding: Vector | None
    metadata: Any
    created_at: datetime | None
    file_id: str | None
    filename: str | None
    chunk_index: int | None


class CopiedChunk(Protocol):
    """A chunk to copy in, but for its vector; whose `id` and `content` are there."""

    @property
    def id(self) -> str | None: ...
    @property
    def content(self) -> str | None: ...
    @property
    def metadata(self) -> Any: ...
    @property
    def created_at(self) -> datetime | None:
        """None is now."""
        ...

    @property
    def file_id(self) -> str | None: ...
    @property
    def filename(self) -> str | None: ...
    @property
    def chunk_index(self) -> int | None: ...


def pack(table: ChunkTable, vector_store_id: str, chunks: Sequence[CopiedChunk], vectors: Vectors) -> bytes:
    """Chunks, and a row of `vectors` for each, as COPY reads them.

    Raises:
        ValueError: an id is not of the type of the table's ids.
    """
    id_of, metadata_of = _id_packer(table.id), _json_packer(table.metadata)
    has_files = table.has_file_columns
    store = _id_packer(table.vector_store_id)(vector_store_id)
    head = struct.pack(">h", len(COPIED) + (len(FILE_COLUMNS) if has_files else 0))
    embeddings, size = _embeddings(table, vectors)
    now = _time(datetime.now(UTC))
    parts: list[bytes | memoryview] = [_HEADER]
    for number, chunk in enumerate(chunks):
        assert chunk.id is not None and chunk.content is not None  # noqa: PT018  # as the type says
        content = chunk.content.encode()
        parts += (
            head,
            id_of(chunk.id),
            store,
            _length(len(content)),
            content,
            embeddings[number * size : (number + 1) * size],
            metadata_of(chunk.metadata),
            now if chunk.created_at is None else _time(chunk.created_at),
        )
        if has_files:
            parts += (_text(chunk.file_id), _text(chunk.filename), _integer(chunk.chunk_index))
    parts.append(_TRAILER)
    return b"".join(parts)


async def copy(connection: Connection, table: ChunkTable, packed: bytes) -> bool:
    """Copy packed chunks in, all or none. False: the table has one of the ids already.

    Raises:
        InvalidRequest: the table refuses a row for a rule of its own.
    """
    try:
        async with connection.transaction():
            await _copy(connection, table, sql.Identifier(table.schema, table.name), packed)
    except pg.UniqueViolation:
        return False
    except (pg.IntegrityError, pg.RaiseException) as error:
        rule = error.diag.column_name or error.diag.constraint_name or "a trigger"
        raise InvalidRequest(f"Table {table.name!r} refuses the row: {rule!r} is violated.") from error
    return True


async def trial(connection: Connection, table: ChunkTable, packed: bytes) -> int:
    """Copy packed chunks into a table like that of the chunks, which goes with the transaction; the bytes it takes."""
    await connection.execute(sql.SQL(TRIAL_TABLE).format(table=table.identifier))
    await _copy(connection, table, sql.Identifier("pg_temp", "quiver_trial"), packed)
    row = await (await connection.execute(TRIAL_BYTES)).fetchone()
    assert row is not None  # a SELECT without FROM returns one row
    return row["bytes"]


async def export(
    connection: Connection, table: ChunkTable, vector_store_id: str, *, batch_rows: int
) -> AsyncGenerator[list[StoredChunk]]:
    """All chunks of a store in the order of their ids, on a connection whose transaction the caller has opened."""
    statement = sql.SQL(EXPORT).format(**_names(table, vector_store_id))
    async with connection.cursor(name="quiver_export") as cursor:
        await cursor.execute(statement, binary=True)
        while rows := await cursor.fetchmany(batch_rows):
            yield [_stored(row) for row in rows]


async def get(
    connection: Connection, table: ChunkTable, vector_store_id: str, ids: Sequence[str]
) -> dict[str, StoredChunk]:
    """Those of some chunks that the store has, by id."""
    typed = [key for id in ids if (key := typed_id(table.id, id)) is not None]
    statement = sql.SQL(GET).format(**_names(table, vector_store_id))
    rows = await (await connection.execute(statement, {"ids": typed})).fetchall()
    return {row["id"]: _stored(row) for row in rows}


async def list_present(connection: Connection, table: ChunkTable, vector_store_id: str, ids: Sequence[str]) -> set[str]:
    """Those of some ids that the store has."""
    typed = [typed_id(table.id, id) for id in ids]
    statement = sql.SQL(PRESENT).format(**_names(table, vector_store_id))
    return {row["id"] for row in await (await connection.execute(statement, {"ids": typed})).fetchall()}


async def list_taken(connection: Connection, table: ChunkTable, vector_store_id: str, ids: Sequence[str]) -> set[str]:
    """Those of some ids that a chunk of another store has."""
    typed = [typed_id(table.id, id) for id in ids]
    statement = sql.SQL(TAKEN).format(**_names(table, vector_store_id))
    return {row["id"] for row in await (await connection.execute(statement, {"ids": typed})).fetchall()}


async def count(connection: Connection, table: ChunkTable, vector_store_id: str) -> int:
    statement = sql.SQL(COUNT).format(**_names(table, vector_store_id))
    row = await (await connection.execute(statement)).fetchone()
    assert row is not None  # an aggregate always has one
    return row["count"]


async def sample_ids(
    connection: Connection, table: ChunkTable, vector_store_id: str, *, each: int, limit: int
) -> list[str]:
    """The ids of about one chunk in `each`, the same ones at every call."""
    statement = sql.SQL(SAMPLE).format(**_names(table, vector_store_id))
    rows = await (await connection.execute(statement, {"each": each, "limit": limit})).fetchall()
    return [row["id"] for row in rows]


def storable(table: ChunkTable, vectors: Vectors) -> Vectors:
    """What the column keeps of vectors, as float32."""
    return _kept(table, vectors).astype(np.float32)


def squared_lengths(vectors: Vectors) -> npt.NDArray[np.float64]:
    """Of each vector; single precision is wide enough for nearly all, and a fifth of the work."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)
        extreme = ~((squares > 1e-30) & (squares < 1e30))
        if extreme.any():
            wide = vectors[extreme].astype(np.float64)
            squares[extreme] = np.einsum("ij,ij->i", wide, wide)
    return squares


def _kept(table: ChunkTable, vectors: Vectors) -> npt.NDArray[np.float16] | Vectors:
    """Vectors in the precision of the column, at unit length where `chunks.scales` says why.

    One of unit length and half precision, as an export has them, is kept bit for bit: to scale it once more would round
    it once more.
    """
    lengths = np.sqrt(squared_lengths(vectors))
    if table.embedding.type != "halfvec":
        in_range = (lengths > 1e-6) & (lengths < 1e6)
        return (vectors / np.where(in_range, 1.0, lengths)[:, np.newaxis]).astype(np.float32)
    divisors = np.where(_is_kept(vectors, lengths), 1.0, lengths)
    if divisors.min() > 1e-30 and divisors.max() < 1e30:  # within single precision
        divisors = divisors.astype(np.float32)
    return (vectors / divisors[:, np.newaxis]).astype(np.float16)


def _is_kept(vectors: Vectors, lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    kept = np.abs(lengths - 1) < 0.01
    for some in (vectors[:, :8], vectors):  # a few numbers show of most that they are not
        if kept.any():
            with np.errstate(over="ignore"):
                kept &= (some.astype(np.float16).astype(np.float32) == some).all(axis=1)
    return kept


async def _copy(connection: Connection, table: ChunkTable, into: sql.Identifier, packed: bytes) -> None:
    columns = [getattr(table, role).name for role in COPIED] + (list(FILE_COLUMNS) if table.has_file_columns else [])
    # A COPY takes no parameters, so that its names are written as they are.
    statement = sql.SQL(COPY).format(table=into, columns=sql.SQL(", ").join(map(sql.Identifier, columns)))
    async with connection.cursor() as cursor, cursor.copy(statement) as rows:
        await rows.write(packed)


def _names(table: ChunkTable, vector_store_id: str) -> dict[str, sql.Composable]:
    index = sql.Identifier("chunk_index") if table.has_file_columns else sql.SQL("NULL::integer")
    return {**statement_names(table, vector_store_id), "chunk_index": index}


def _stored(row: dict[str, Any]) -> StoredChunk:
    embedding = cast("HalfVector | StoredVector | None", row["embedding"])
    row["embedding"] = None if embedding is None else embedding.to_numpy().astype(np.float32)
    created_at = row["created_at"]
    if created_at is not None and created_at.tzinfo is None:  # Prisma writes UTC into columns without a time zone
        row["created_at"] = created_at.replace(tzinfo=UTC)
    return cast("StoredChunk", row)


def _embeddings(table: ChunkTable, vectors: Vectors) -> tuple[memoryview, int]:
    """The fields of all vectors, one behind the other, and the bytes of one: length, dimension, 0, numbers."""
    number, width = (">f2", 2) if table.embedding.type == "halfvec" else (">f4", 4)
    count, dimension = vectors.shape
    fields = np.zeros(
        count, dtype=[("length", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("numbers", number, (dimension,))]
    )
    fields["length"] = 4 + width * dimension
    fields["dimension"] = dimension
    fields["numbers"] = _kept(table, vectors)
    return memoryview(fields.tobytes()), fields.dtype.itemsize


def _id_packer(column: Column) -> Callable[[str], bytes]:
    def pack_text(id: str) -> bytes:
        data = id.encode()
        return _length(len(data)) + data

    def pack_key(id: str) -> bytes:
        match typed_id(column, id):
            case UUID() as uuid:
                return _length(16) + uuid.bytes
            case int(number):
                return struct.pack(">ii", 4, number) if column.type == "int4" else struct.pack(">iq", 8, number)
            case _:
                raise ValueError(f"{id!r} is no {column.type}, as the table's ids are")

    return pack_text if column.type in ("text", "varchar", "bpchar") else pack_key


def _json_packer(column: Column) -> Callable[[Any], bytes]:
    version = b"\x01" if column.type == "jsonb" else b""

    def pack_json(value: Any) -> bytes:
        if value is None:
            return _NULL
        data = version + orjson.dumps(value)
        return _length(len(data)) + data

    return pack_json


def _time(time: datetime) -> bytes:
    """Microseconds since 2000: `timestamptz` and `timestamp` count the same, and ours are UTC."""
    since = time - _EPOCH
    return struct.pack(">iq", 8, (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds)


def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    data = value.encode()
    return _length(len(data)) + data


def _integer(value: int | None) -> bytes:
    return _NULL if value is None else struct.pack(">ii", 4, value)
