"""The table of chunks, through the field mapping: Quiver's own `embeddings` or a table somebody else made."""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypedDict, cast
from uuid import UUID

import pgvector
from pgvector import HalfVector
from psycopg import sql

from api.errors import InvalidRequest
from api.field_mapping import ChunkTable, Column
from api.schemas.embeddings import Embedding
from api.tables.database import Connection, Packed
from api.vectors import Vector, from_stored, pack

_INTEGER_LIMITS: Final = {"int4": 2**31, "int8": 2**63}

EMBEDDING = """
    {id}::text AS id,
    'embedding' AS object,
    {vector_store_id}::text AS vector_store_id,
    coalesce({content}, '') AS content,
    {metadata} AS metadata,
    floor(extract(epoch FROM {created_at}))::bigint AS created_at
"""

GET = f"SELECT {EMBEDDING} FROM {{table}} WHERE {{vector_store_id}} = {{store}} AND {{id}} = %(id)s"  # noqa: S608

# Ordered by id and not by time: the primary key answers it, however large the store.
LIST = f"""
SELECT {EMBEDDING} FROM {{table}}
WHERE {{vector_store_id}} = {{store}} AND {{condition}}
ORDER BY {{table}}.{{id}} {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

FIND_SAME_IDS = f"""
SELECT {EMBEDDING}, {{embedding}} AS embedding FROM {{table}}
WHERE {{vector_store_id}} = {{store}} AND {{id}} = ANY(%(ids)s)
"""  # noqa: S608

DELETE = """
DELETE FROM {table} WHERE {vector_store_id} = {store} AND {id} = %(id)s
RETURNING coalesce(octet_length({content}), 0) AS usage_bytes, {file_id} AS file_id
"""

DELETE_OF_STORE = "DELETE FROM {table} WHERE {vector_store_id} = {store}"

# litellm-pgvector kept no counters and no dimensions, and a table of somebody else's knows no stores at all. A store
# that Quiver filled has its dimension, which is how the two are told apart.
ADOPT_STORES = """
INSERT INTO vector_stores AS known (id, created_at, embedding_dimension, usage_bytes, file_counts)
SELECT {vector_store_id}::text,
       coalesce(min({created_at}){in_utc}, now()),
       mode() WITHIN GROUP (ORDER BY vector_dims({embedding})),
       sum(octet_length({content})),
       jsonb_build_object('in_progress', 0, 'completed', count(*), 'failed', 0, 'cancelled', 0, 'total', count(*))
FROM {table}
WHERE {embedding} IS NOT NULL
  AND {vector_store_id}::text <> ''
  AND NOT EXISTS (
      SELECT FROM vector_stores AS own
      WHERE own.id = {table}.{vector_store_id}::text AND own.embedding_dimension IS NOT NULL)
GROUP BY {vector_store_id}
ON CONFLICT (id) DO UPDATE SET
    embedding_dimension = excluded.embedding_dimension,
    usage_bytes = excluded.usage_bytes,
    file_counts = excluded.file_counts
RETURNING id, file_counts ->> 'completed' AS chunks, embedding_dimension AS dimension
"""


class Deleted(TypedDict):
    usage_bytes: int
    file_id: str | None


async def find(connection: Connection, table: ChunkTable, vector_store_id: str, id: str) -> Embedding | None:
    key = typed_id(table.id, id)
    if key is None:
        return None
    statement = sql.SQL(GET).format(**statement_names(table, vector_store_id))
    return cast("Embedding | None", await (await connection.execute(statement, {"id": key})).fetchone())


async def list_between(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    *,
    above: str | None,
    below: str | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[Embedding]:
    """Chunks whose ids are strictly between two, in the order of their ids.

    Raises:
        InvalidRequest: a bound is not of the type of the table's ids.
    """
    names = statement_names(table, vector_store_id)
    conditions: list[sql.Composable] = [sql.SQL("TRUE")]
    params: dict[str, object] = {"limit": limit}
    for name, operator, bound in (("above", sql.SQL(">"), above), ("below", sql.SQL("<"), below)):
        if bound is not None:
            column = sql.SQL("{}.{}").format(names["table"], names["id"])
            conditions.append(sql.SQL("{} {} {}").format(column, operator, sql.Placeholder(name)))
            params[name] = require_typed_id(table.id, bound, param="after or before")
    statement = sql.SQL(LIST).format(
        **names,
        condition=sql.SQL(" AND ").join(conditions),
        direction=sql.SQL("ASC" if direction == "asc" else "DESC"),
    )
    return cast("list[Embedding]", await (await connection.execute(statement, params)).fetchall())


async def find_same_ids(
    connection: Connection, table: ChunkTable, vector_store_id: str, new: Sequence[str]
) -> dict[str, tuple[Embedding, Vector | None]]:
    """Which of some ids the store has already: their chunks with their vectors, by id.

    Raises:
        InvalidRequest: an id is not of the type of the table's ids.
    """
    statement = sql.SQL(FIND_SAME_IDS).format(**statement_names(table, vector_store_id))
    typed_ids = [require_typed_id(table.id, id, param="id") for id in new]
    rows = await (await connection.execute(statement, {"ids": typed_ids})).fetchall()
    return {row["id"]: (cast("Embedding", row), _as_vector(row.pop("embedding"))) for row in rows}


async def delete(connection: Connection, table: ChunkTable, vector_store_id: str, id: str) -> Deleted | None:
    key = typed_id(table.id, id)
    if key is None:
        return None
    statement = sql.SQL(DELETE).format(**statement_names(table, vector_store_id))
    row = await (await connection.execute(statement, {"id": key})).fetchone()
    return cast("Deleted | None", row)


async def delete_of_store(connection: Connection, table: ChunkTable, vector_store_id: str) -> None:
    await connection.execute(sql.SQL(DELETE_OF_STORE).format(**statement_names(table, vector_store_id)), {})


async def adopt_stores(connection: Connection, table: ChunkTable) -> list[dict[str, Any]]:
    """Make stores of what lies in the table unknown or uncounted: `id`, `chunks` and `dimension` of each."""
    # A timestamp without time zone is taken for UTC, as Prisma writes it.
    in_utc = sql.SQL(" AT TIME ZONE 'UTC'" if table.created_at.type == "timestamp" else "")
    statement = sql.SQL(ADOPT_STORES).format(**table.names, table=table.identifier, in_utc=in_utc)
    return await (await connection.execute(statement, {})).fetchall()


def statement_names(table: ChunkTable, vector_store_id: str) -> dict[str, sql.Composable]:
    """What a statement's braces stand for.

    The store is a literal and not a parameter: only so can the planner prove the predicate of a partial index.
    """
    of_file = (
        {"file_id": sql.Identifier("file_id"), "filename": sql.Identifier("filename")}
        if table.has_file_columns
        else {"file_id": sql.SQL("NULL::text"), "filename": sql.SQL("NULL::text")}
    )
    return {
        **table.names,
        **of_file,
        "table": table.identifier,
        "vector_type": table.vector_type,
        "store": sql.Literal(vector_store_id.replace("%", "%%")),
    }


def is_half(table: ChunkTable) -> bool:
    """Whether the column's numbers are of half precision."""
    return table.embedding.type == "halfvec"


def storable(table: ChunkTable, vector: Vector) -> Packed:
    """The vector in the column's type."""
    return Packed(pack(vector, is_half=is_half(table)))


def _as_vector(stored: HalfVector | pgvector.Vector | None) -> Vector | None:
    return None if stored is None else from_stored(stored)


def typed_id(column: Column, id: str) -> str | int | UUID | None:
    """An id as its column has it; None when it cannot be one."""
    try:
        match column.type:
            case "uuid":
                return UUID(id)
            case "int4" | "int8":
                number = int(id) if id.isascii() else 0
                return number if abs(number) < _INTEGER_LIMITS[column.type] else None
            case _:
                return id
    except ValueError:
        return None


def canonical_id(table: ChunkTable, id: str, *, param: str) -> str:
    """An id as it will come back: a number without leading zeros, a UUID in lower case.

    Raises:
        InvalidRequest: the table's ids are of another type.
    """
    return str(require_typed_id(table.id, id, param=param))


def require_typed_id(column: Column, id: str, *, param: str) -> str | int | UUID:
    key = typed_id(column, id)
    if key is None:
        raise InvalidRequest(f"{id!r} is not an id of this table, whose ids are {column.type}.", param=param)
    return key


def id_type(table: ChunkTable) -> sql.SQL:
    """What the text of an id is cast to, to be compared with the table's own."""
    match table.id.type:
        case "uuid":
            return sql.SQL("uuid")
        case "int4":
            return sql.SQL("int4")
        case "int8":
            return sql.SQL("int8")
        case _:
            return sql.SQL("text")
