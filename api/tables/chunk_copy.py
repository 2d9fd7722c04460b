"""Chunks into their table by COPY, a whole batch packed at once: row by row takes the client four times as long."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from struct import Struct, pack
from typing import Any, Final, NamedTuple, TypeVar, cast
from uuid import UUID, uuid4

from psycopg import errors as pg
from psycopg import sql
from psycopg.pq import Format

from api import ids
from api.errors import Conflict, InvalidRequest
from api.field_mapping import ChunkTable
from api.schemas.embeddings import Embedding
from api.tables.chunks import is_half, require_typed_id, typed_id
from api.tables.database import Connection
from api.vectors import Vectors, packed

T = TypeVar("T")

COPY = "COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"

NEXT_SERIAL_IDS = """
SELECT nextval(pg_get_serial_sequence(%(table)s, %(column)s)) AS id FROM generate_series(1, %(count)s)
"""

# PostgreSQL's format: all integers big-endian, a field's length before it, and -1 for the length of a null.
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # without flags and extensions
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = Struct(">i").pack


class NewChunks(NamedTuple):
    """Chunks to insert, but for their vectors: of each column, what one after the other has."""

    ids: Sequence[str | None]
    contents: Sequence[str]
    metadata: Sequence[Mapping[str, Any] | None]

    def at(self, positions: Sequence[int]) -> "NewChunks":
        return NewChunks(_at(self.ids, positions), _at(self.contents, positions), _at(self.metadata, positions))


class Place(NamedTuple):
    """A column to fill, and PostgreSQL's name of its type."""

    name: str
    type: str


@dataclass(frozen=True)
class Rows:
    """Chunks as the table's columns have them, one of each in a row."""

    ids: Sequence[str | int | UUID]
    contents: Sequence[str]
    metadata: Sequence[Mapping[str, Any] | None]
    vectors: Vectors
    created_at: datetime


async def insert(
    connection: Connection, table: ChunkTable, vector_store_id: str, new: NewChunks, vectors: Vectors
) -> list[Embedding]:
    """Copy chunks in and answer with them, in their order. Those without an id get one.

    There is a row of `vectors` for each, finite and not zero.

    Raises:
        Conflict: the table has one of the ids already.
        InvalidRequest: the table refuses a row for a rule of its own.
    """
    chunk_ids = await _ids_for(connection, table, new.ids)
    now = datetime.now(UTC)
    rows = Rows(chunk_ids, new.contents, new.metadata, vectors, created_at=now)
    try:
        await copy(connection, table, vector_store_id, rows)
    except pg.UniqueViolation as error:
        if not _are_none(new.ids):
            raise Conflict("One of these ids is taken by a chunk of another vector store.", param="id") from error
        raise Conflict(
            f"The sequence of table {table.name!r} gives ids that are taken; set it behind the highest of them."
        ) from error
    except (pg.IntegrityError, pg.RaiseException) as error:
        rule = error.diag.column_name or error.diag.constraint_name or "a trigger"
        raise InvalidRequest(f"Table {table.name!r} refuses the row: {rule!r} is violated.") from error
    seconds = int(now.timestamp())
    return [
        {
            "id": str(id),
            "object": "embedding",
            "vector_store_id": vector_store_id,
            "content": content,
            "metadata": cast("dict[str, Any] | None", metadata),
            "created_at": seconds,
        }
        for id, content, metadata in zip(chunk_ids, new.contents, new.metadata, strict=True)
    ]


async def copy(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    rows: Rows,
    *,
    same: Mapping[Place, object] | None = None,
    each: Mapping[Place, Sequence[object]] | None = None,
) -> None:
    """Copy chunks in; `same` and `each` fill further columns: with a value for all rows, or with one for each."""
    created_at = rows.created_at if table.created_at.type == "timestamptz" else rows.created_at.replace(tzinfo=None)
    same = {
        Place(table.vector_store_id.name, table.vector_store_id.type): typed_id(table.vector_store_id, vector_store_id),
        Place(table.created_at.name, table.created_at.type): created_at,
        **(same or {}),
    }
    each = {
        Place(table.id.name, table.id.type): rows.ids,
        Place(table.content.name, table.content.type): rows.contents,
        Place(table.metadata.name, table.metadata.type): rows.metadata,
        **(each or {}),
    }
    # A COPY takes no parameters, so that its names are written as they are.
    names = [*(place.name for place in (*same, *each)), table.embedding.name]
    statement = sql.SQL(COPY).format(
        table=sql.Identifier(table.schema, table.name), columns=sql.SQL(", ").join(map(sql.Identifier, names))
    )
    data = _pack(connection, same, each, packed(rows.vectors, is_half=is_half(table)))
    async with connection.cursor() as cursor, cursor.copy(statement) as into:
        await into.write(data)


def _pack(
    connection: Connection,
    same: Mapping[Place, object],
    each: Mapping[Place, Sequence[object]],
    vectors: Sequence[bytes],
) -> bytes:
    start = pack(">h", len(same) + len(each) + 1)
    start += b"".join(_packer(connection, place.type)(value) for place, value in same.items())
    pieces = [repeat(start, len(vectors))]
    for place, values in each.items():
        pieces += _pieces(connection, place, values)
    pieces += [repeat(_LENGTH(len(vectors[0]) if vectors else 0), len(vectors)), vectors]
    # No line of Python for a row: of many rows, that would be most of the time.
    return b"".join((_SIGNATURE, *chain.from_iterable(zip(*pieces, strict=True)), _TRAILER))


def _pieces(connection: Connection, place: Place, values: Sequence[object]) -> list[Iterable[bytes]]:
    """What the values' fields are put together from. Most columns are of texts or of nothing, and need no dumper."""
    if _are_none(values):
        return [repeat(_NULL, len(values))]
    if place.type == "text" and connection.info.encoding == "utf-8" and None not in values:
        texts = list(map(str.encode, cast("Sequence[str]", values)))
        return [map(_LENGTH, map(len, texts)), texts]
    return [map(_packer(connection, place.type), values)]


def _at(column: Sequence[T], positions: Sequence[int]) -> list[T]:
    return [column[position] for position in positions]


def _are_none(values: Sequence[object]) -> bool:
    return values.count(None) == len(values)


def _packer(connection: Connection, type_name: str) -> Callable[[object], bytes]:
    """What makes a field of a value, as psycopg writes values of the type."""
    adapters = connection.adapters
    dumper = adapters.get_dumper_by_oid(adapters.types[type_name].oid, Format.BINARY)(object, connection)

    def pack_field(value: object) -> bytes:
        if value is None:
            return _NULL
        data = dumper.dump(value) or b""
        return _LENGTH(len(data)) + data

    return pack_field


async def _ids_for(
    connection: Connection, table: ChunkTable, wanted: Sequence[str | None]
) -> Sequence[str | int | UUID]:
    generated = await new_ids(connection, table, wanted.count(None))
    if len(generated) == len(wanted):
        return generated
    rest = iter(generated)
    return [next(rest) if id is None else require_typed_id(table.id, id, param="id") for id in wanted]


async def new_ids(connection: Connection, table: ChunkTable, count: int) -> Sequence[str | int | UUID]:
    if table.id.type == "uuid":
        return [uuid4() for _ in range(count)]
    if table.id.type not in ("int4", "int8"):
        return ids.new_ids("emb", count)
    params = {
        "table": sql.Identifier(table.schema, table.name).as_string(connection),
        "column": table.id.name,
        "count": count,
    }
    rows = await (await connection.execute(NEXT_SERIAL_IDS, params)).fetchall()
    if any(row["id"] is None for row in rows):
        raise InvalidRequest(
            f"Column {table.id.name!r} of table {table.name!r} has no sequence; send an id of your own.",
            param="id",
        )
    return [row["id"] for row in rows]
