"""The catalogue's description of the table that the field mapping names."""

from typing import Any

from psycopg import AsyncConnection

from api.errors import ConfigurationError, DatabaseUnavailable
from api.field_mapping import ChunkTable, Column, resolve, table_name
from api.settings import DbFields

# to_regclass would fold case and split at dots; names are compared as they are.
FIND_TABLE = """
SELECT c.oid, n.nspname AS schema, c.relkind IN ('r', 'p') AS is_table
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = %(table)s
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND CASE WHEN %(schema)s::text IS NULL
           THEN n.nspname = ANY(current_schemas(false))
           ELSE n.nspname = %(schema)s END
ORDER BY array_position(current_schemas(false), n.nspname)
LIMIT 1
"""

LIST_COLUMNS = """
SELECT a.attname AS name, t.typname AS type, tn.nspname AS type_schema, a.atttypmod AS modifier,
       NOT a.attnotnull AS is_nullable,
       a.atthasdef OR a.attidentity <> '' AS has_default,
       a.attgenerated <> '' AS is_generated
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
JOIN pg_namespace AS tn ON tn.oid = t.typnamespace
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
"""


async def get(connection: AsyncConnection[dict[str, Any]], fields: DbFields) -> ChunkTable:
    """Look the mapped table up.

    Raises:
        ConfigurationError: there is no such table, though one is named, or its columns do not fit.
        DatabaseUnavailable: Quiver's own table is not there yet.
    """
    name = table_name(fields)
    cursor = await connection.execute(FIND_TABLE, {"table": name, "schema": fields.schema_name})
    table = await cursor.fetchone()
    if table is None:
        if fields.table is None and fields.schema_name is None:
            raise DatabaseUnavailable(
                "The database lacks Quiver's tables; run `quiver db migrate`.", code="database_not_migrated"
            )
        where = f"schema {fields.schema_name!r}" if fields.schema_name else "the search path of DATABASE_URL"
        raise ConfigurationError(f"There is no table {name!r} in {where}; see DB_FIELDS__TABLE and DB_FIELDS__SCHEMA.")
    if not table["is_table"]:
        raise ConfigurationError(f"{name!r} is a view or a foreign table; DB_FIELDS__TABLE must name a table.")
    cursor = await connection.execute(LIST_COLUMNS, {"oid": table["oid"]})
    return resolve(fields, schema=table["schema"], columns=[Column(**row) for row in await cursor.fetchall()])
