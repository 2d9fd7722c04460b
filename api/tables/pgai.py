"""What pgai left in the database: its vectorizers, their vectors, and the rows that they still have to do."""

from typing import Any, Final, TypedDict, cast

from psycopg import errors as pg
from psycopg import sql

from api.errors import InvalidRequest
from api.field_mapping import ChunkTable, identifier
from api.tables import source_tables
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.source_tables import Source
from api.tables.synced_chunks import Size

IS_INSTALLED = "SELECT to_regclass('ai.vectorizer') IS NOT NULL AS is_installed"

LIST = """
SELECT id, name::text AS name, source_schema::text AS table_schema, source_table::text AS table_name,
       ARRAY(SELECT part ->> 'attname' FROM jsonb_array_elements(source_pk) AS part
             ORDER BY (part ->> 'pknum')::int) AS key_columns,
       queue_schema::text AS queue_schema, queue_table::text AS queue_table, config
FROM ai.vectorizer
ORDER BY id
"""

DROP = "SELECT ai.drop_vectorizer(%(id)s::int)"

# One snapshot: a row is either in pgai's queue or has its vectors.
FREEZE = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"

# A zero vector has no direction; its row is embedded anew, as is one that lacks a chunk.
COPY = """
WITH taken AS (
    SELECT {key} AS key, {index} AS index, {chunk} AS text, {vector} AS vector,
           nullif(jsonb_strip_nulls(jsonb_build_object({attributes})), '{{}}') AS attributes
    FROM {source} AS source
    {vectors}
    WHERE {vector} IS NOT NULL AND {chunk} IS NOT NULL AND vector_norm({vector}) > 0
),
copied AS (
    INSERT INTO {table} ({vector_store_id}, {id}, {content}, {embedding}, {metadata}, {created_at},
                         file_id, filename, chunk_index)
    SELECT {store}, %(sync_id)s || '_' || left(encode(sha256(convert_to(key, 'UTF8')), 'hex'), 24)
                     || '_' || lpad(index::text, 6, '0'),
           text, {stored}, attributes, now(), key, %(filename)s, index
    FROM taken
    RETURNING file_id, octet_length({content}) AS bytes
)
SELECT count(DISTINCT file_id) AS rows, coalesce(sum(bytes), 0)::bigint AS bytes FROM copied
"""

# What pgai had not done, and what it had no vectors for.
QUEUE = """
INSERT INTO table_sync_changes (table_sync_id, key)
SELECT %(sync_id)s, {key} FROM {queue} AS source
UNION
SELECT %(sync_id)s, key FROM (SELECT {key} AS key FROM {source} AS source) AS present
WHERE NOT EXISTS (
    SELECT FROM {table}
    WHERE {vector_store_id} = {store} AND {file_id} = present.key AND {filename} = %(filename)s)
"""


class Vectorizer(TypedDict):
    id: int
    name: str
    table_schema: str
    table_name: str
    key_columns: list[str]
    queue_schema: str | None
    queue_table: str | None
    config: dict[str, Any]


async def list_vectorizers(connection: Connection) -> list[Vectorizer]:
    """All of them; none where pgai is not installed, or is older than its vectorizers' names."""
    row = await (await connection.execute(IS_INSTALLED)).fetchone()
    if row is None or not row["is_installed"]:
        return []
    try:
        return cast("list[Vectorizer]", await (await connection.execute(LIST)).fetchall())
    except pg.UndefinedColumn as error:
        raise InvalidRequest(
            "This pgai is older than 0.10, whose catalogue is another; run `pgai install` of the last version first."
        ) from error


async def freeze(connection: Connection) -> None:
    """Have the rest of the transaction, whose first statement this is, see one moment of the database."""
    await connection.execute(FREEZE)


async def copy_vectors(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    sync_id: str,
    source: Source,
    vectorizer: Vectorizer,
) -> Size:
    """Copy the vectors of a vectorizer's rows into a store that has none of them; ids are those of synced_chunks."""
    names = statement_names(table, vector_store_id)
    attributes = [
        sql.SQL("{}, {}").format(sql.Literal(column.replace("%", "%%")), identifier("source", column))
        for column in source.attribute_columns
    ]
    wide: Final = sql.SQL("l2_normalize(vector)::{}" if table.embedding.type == "halfvec" else "vector::{}")
    statement = sql.SQL(COPY).format(
        **names,
        **_place(source, vectorizer),
        key=source.key("source"),
        attributes=sql.SQL(", ").join(attributes),
        source=source.quoted,
        stored=wide.format(table.vector_type),
    )
    params = {"sync_id": sync_id, "filename": source.filename}
    with source_tables.reading(source):
        row = await (await connection.execute(statement, params)).fetchone()
    assert row is not None  # an aggregate always has one
    return Size(row["rows"], row["bytes"])


async def queue_rest(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    sync_id: str,
    source: Source,
    vectorizer: Vectorizer,
) -> None:
    """Have the rows wait whose vectors pgai lacks, or has of an earlier text."""
    queue = (
        identifier(vectorizer["queue_schema"] or "ai", vectorizer["queue_table"])
        if vectorizer["queue_table"]
        else sql.SQL("(SELECT * FROM {} LIMIT 0)").format(source.quoted)
    )
    statement = sql.SQL(QUEUE).format(
        **statement_names(table, vector_store_id), key=source.key("source"), queue=queue, source=source.quoted
    )
    await connection.execute(statement, {"sync_id": sync_id, "filename": source.filename})


async def drop_vectorizer(connection: Connection, vectorizer: Vectorizer, source: Source) -> None:
    """Let pgai drop its trigger, its queue and the vectorizer; the table of vectors stays.

    Raises:
        Conflict: others use the table and do not come to an end; try again.
    """
    with source_tables.locking(source):
        await source_tables.limit_locks(connection, source)
        await connection.execute(DROP, {"id": vectorizer["id"]})


def _place(source: Source, vectorizer: Vectorizer) -> dict[str, sql.Composable]:
    """Where the vectors are: in a table of their own, or in a column of the source."""
    destination = vectorizer["config"]["destination"]
    if destination["implementation"] == "column":
        return {
            "vectors": sql.SQL(""),
            "index": sql.SQL("0"),
            "chunk": sql.SQL("{}::text").format(identifier("source", vectorizer["config"]["loading"]["column_name"])),
            "vector": identifier("source", destination["embedding_column"]),
        }
    target = identifier(destination["target_schema"], destination["target_table"])
    matches = [
        sql.SQL("{} = {}").format(identifier("target", column), identifier("source", column))
        for column in source.key_columns
    ]
    return {
        "vectors": sql.SQL("JOIN {} AS target ON {}").format(target, sql.SQL(" AND ").join(matches)),
        "index": sql.SQL("target.chunk_seq"),
        "chunk": sql.SQL("target.chunk"),
        "vector": sql.SQL("target.embedding"),
    }
