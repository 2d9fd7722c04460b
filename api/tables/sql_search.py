"""`quiver_semantic_search`, the search of a store from SQL; the migration makes the one for Quiver's own table."""

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.columns import Embeddings
from api.tables.database import Connection

SCHEMAS = """
SELECT current_schema() AS own, nspname AS vector
FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector'
"""

CREATE = """
CREATE OR REPLACE FUNCTION {function}(
    vector_store_id text, query {vector}, max_results integer DEFAULT 10, filter jsonb DEFAULT '{{}}')
RETURNS TABLE (id text, file_id text, filename text, score double precision, attributes jsonb, content text)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = {path} AS {body}
"""

BODY = """
    SELECT chunk.{id}::text, {file_id}, {filename}, 1 - (chunk.{embedding} <=> $2::{vector_type}) / 2,
           chunk.{metadata}::jsonb, chunk.{content}
    FROM {table} AS chunk
    WHERE chunk.{vector_store_id} = $1::{store_type} AND coalesce(chunk.{metadata}::jsonb, '{{}}') @> $4
      AND chunk.{embedding} IS NOT NULL
    ORDER BY (chunk.{embedding} <=> $2::{vector_type}) + 0, chunk.{id}
    LIMIT $3
"""


async def create(connection: Connection, table: ChunkTable) -> None:
    """Make the function search the mapped table."""
    schemas = await (await connection.execute(SCHEMAS)).fetchone()
    assert schemas is not None  # the table has a column of its type
    of_file = [
        sql.SQL("chunk.{}").format(sql.Identifier(name)) if table.has_file_columns else sql.SQL("NULL::text")
        for name in (Embeddings.FILE_ID, Embeddings.FILENAME)
    ]
    mapped = ("id", "vector_store_id", "content", "embedding", "metadata")
    body = sql.SQL(BODY).format(
        **{role: sql.Identifier(getattr(table, role).name) for role in mapped},
        file_id=of_file[0],
        filename=of_file[1],
        table=sql.Identifier(table.schema, table.name),
        vector_type=sql.Identifier(table.embedding.type_schema, table.embedding.type),
        store_type=sql.Identifier("pg_catalog", table.vector_store_id.type),
    )
    path = sql.SQL(", ").join(map(sql.Identifier, (schemas["own"], schemas["vector"], "pg_temp")))
    statement = sql.SQL(CREATE).format(
        function=sql.Identifier(schemas["own"], "quiver_semantic_search"),
        vector=sql.Identifier(schemas["vector"], "vector"),
        path=path,
        body=sql.Literal(body.as_string(connection)),
    )
    await connection.execute(statement)
