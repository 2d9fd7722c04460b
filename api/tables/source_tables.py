"""The user's own tables that are kept in sync: finding one, watching it by triggers, reading its rows.

A key travels as text: that of its column, or a JSON array of texts where it has several columns.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString, TypedDict, cast

import orjson
from psycopg import errors as pg
from psycopg import sql

from api.errors import ApiError, Conflict
from api.field_mapping import identifier
from api.tables import columns
from api.tables.database import Connection

# Types whose values are written in one way, whatever a session is set to.
KEY_TYPES: Final = ("int2", "int4", "int8", "text", "varchar", "bpchar", "uuid", "numeric")
MAX_ROW_BYTES: Final = 4 * 1024 * 1024  # of its texts; a batch of rows is held in memory
LOCK_MILLISECONDS: Final = 200  # writers queue behind a lock that waits
VACUUM_MILLISECONDS: Final = 1500  # nobody queues behind this lock; an autovacuum gives way after `deadlock_timeout`

FIND = """
SELECT c.oid, n.nspname AS schema, c.relkind IN ('r', 'p') AS is_table, c.relkind = 'p' AS is_partitioned,
       c.relpersistence = 't' AS is_temporary, n.nspname = current_schema() AS is_ours,
       n.nspname ~ '^pg_' OR n.nspname = 'information_schema' AS is_catalog
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
SELECT a.attname AS name, t.typname AS type
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

# The primary key first; an index over expressions, or of some rows only, does not tell all rows apart.
LIST_KEYS = """
SELECT ARRAY(
    SELECT a.attname::text
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS part (number, position)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = part.number
    WHERE part.position <= i.indnkeyatts
    ORDER BY part.position) AS columns
FROM pg_index AS i
WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
      WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) AND NOT a.attnotnull)
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid
"""

# Nothing but appending keys, with the rights of whoever owns Quiver's tables. What goes wrong is not the writer's
# fault: it is noted that any row may have changed, and if even that fails the statement goes on all the same. The
# transition tables are there only in the branch of a statement that has them.
WATCH = """
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {changes} (table_sync_id, key) VALUES ({id}, NULL);
    ELSIF TG_LEVEL = 'ROW' THEN
        IF TG_OP <> 'INSERT' THEN
            INSERT INTO {changes} (table_sync_id, key) VALUES ({id}, {old_key});
        END IF;
        IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND {new_key} <> {old_key} THEN
            INSERT INTO {changes} (table_sync_id, key) VALUES ({id}, {new_key});
        END IF;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO {changes} (table_sync_id, key) SELECT {id}, {row_key} FROM new_rows AS source;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO {changes} (table_sync_id, key) SELECT {id}, {row_key} FROM old_rows AS source;
    ELSE
        INSERT INTO {changes} (table_sync_id, key)
        SELECT {id}, {row_key} FROM new_rows AS source UNION SELECT {id}, {row_key} FROM old_rows AS source;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        RAISE WARNING 'Quiver looks through % anew: %', TG_TABLE_NAME, SQLERRM;
        INSERT INTO {changes} (table_sync_id, key) VALUES ({id}, NULL);
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'Quiver misses a change of %: %', TG_TABLE_NAME, SQLERRM;
    END;
    RETURN NULL;
END
"""

CREATE_FUNCTION = """
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS {body}
"""

REVOKE = "REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"

CREATE_TRIGGER = "CREATE TRIGGER {trigger} AFTER {event} ON {source} {each} EXECUTE FUNCTION {function}()"

FOR_EACH: Final[dict[LiteralString, LiteralString]] = {
    "insert": "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
    "update": "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT",
    "delete": "REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT",
    "truncate": "FOR EACH STATEMENT",
}

# With the triggers, whatever their table is called by now.
DROP_FUNCTION = "DROP FUNCTION IF EXISTS {function}() CASCADE"

MAY_LOCK = """
SELECT coalesce(has_table_privilege(to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)),
                                    'UPDATE, DELETE, TRUNCATE'), false) AS may_lock
"""

# Kept out by this are vacuums and other declarations; writers and readers are not.
KEEP_VACUUM_OUT = "LOCK TABLE {source} IN SHARE UPDATE EXCLUSIVE MODE"

SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %(timeout)s, true)"

CURRENT_SCHEMA = "SELECT current_schema() AS schema"

READ = """
SELECT {key} AS key, sized.bytes <= %(max_bytes)s AS is_readable,
       CASE WHEN sized.bytes <= %(max_bytes)s THEN ARRAY[{texts}]::text[] END AS texts,
       jsonb_build_object({attributes}) AS attributes
FROM unnest({parameters}) AS wanted ({names})
JOIN {source} AS source ON {matches}
CROSS JOIN LATERAL (SELECT {bytes} AS bytes) AS sized
"""


@dataclass(frozen=True)
class SourceTable:
    """A table as the catalogue describes it; `keys` are the column lists that tell its rows apart, the best first."""

    schema: str
    name: str
    is_partitioned: bool
    columns: dict[str, str]  # types by name
    keys: list[list[str]]


@dataclass(frozen=True)
class Source:
    """What is read of a table."""

    schema: str
    table: str
    key_columns: Sequence[str]
    key_types: Sequence[str]
    text_columns: Sequence[str]
    attribute_columns: Sequence[str]

    @property
    def quoted(self) -> sql.Identifier:
        return identifier(self.schema, self.table)

    @property
    def filename(self) -> str:
        """What search results call the table."""
        return f"{self.schema}.{self.table}"

    def key(self, row: str, *, named: Callable[..., sql.Identifier] = identifier) -> sql.Composable:
        """The text of the key of a row, which is an alias or a record."""
        parts = [sql.SQL("{}::text").format(named(row, column)) for column in self.key_columns]
        return parts[0] if len(parts) == 1 else sql.SQL("json_build_array({})::text").format(sql.SQL(", ").join(parts))

    def split_key(self, key: str) -> list[str]:
        return [key] if len(self.key_columns) == 1 else orjson.loads(key)


class SourceRow(TypedDict):
    key: str
    is_readable: bool  # it is not too long
    texts: list[str | None] | None
    attributes: dict[str, Any]


class SourceUnavailable(ApiError):
    """The source table, or a column of it, is not as it was declared."""

    status = 409
    type = "invalid_request_error"
    default_code = "source_table_unavailable"


async def find(connection: Connection, table: str, *, schema: str | None) -> SourceTable | None:
    """Look a table up that may be a source: no view, no catalogue, none of Quiver's own."""
    row = await (await connection.execute(FIND, {"table": table, "schema": schema})).fetchone()
    if row is None or not row["is_table"] or row["is_temporary"] or row["is_catalog"]:
        return None
    if row["is_ours"] and _is_own(table):
        return None
    found = await (await connection.execute(LIST_COLUMNS, {"oid": row["oid"]})).fetchall()
    keys = await (await connection.execute(LIST_KEYS, {"oid": row["oid"]})).fetchall()
    return SourceTable(
        schema=row["schema"],
        name=table,
        is_partitioned=row["is_partitioned"],
        columns={column["name"]: column["type"] for column in found},
        keys=[key["columns"] for key in keys],
    )


async def watch(connection: Connection, id: str, source: Source, *, is_partitioned: bool) -> None:
    """Have every further change of the table recorded, from the end of this transaction on.

    Raises:
        Conflict: others write to the table and do not come to an end; try again.
    """
    function = await _function(connection, id)
    names = {
        "changes": sql.Identifier(await _schema(connection), columns.TableSyncChanges.TABLE),
        "id": sql.Literal(id),
        "row_key": source.key("source", named=sql.Identifier),
        "old_key": source.key("old", named=sql.Identifier),
        "new_key": source.key("new", named=sql.Identifier),
    }
    body = sql.Literal(sql.SQL(WATCH).format(**names).as_string(connection))
    table = sql.Identifier(source.schema, source.table)
    with locking(source):
        await limit_locks(connection, source)
        await connection.execute(sql.SQL(CREATE_FUNCTION).format(function=function, body=body))
        await connection.execute(sql.SQL(REVOKE).format(function=function))
        for event, of_statement in FOR_EACH.items():
            is_by_row = is_partitioned and event != "truncate"  # else nothing is seen of writes to a partition
            statement = sql.SQL(CREATE_TRIGGER).format(
                trigger=sql.Identifier(f"quiver_{id}_{event}"),
                event=sql.SQL(event),
                source=table,
                each=sql.SQL("FOR EACH ROW" if is_by_row else of_statement),
                function=function,
            )
            await connection.execute(statement)


async def unwatch(connection: Connection, id: str, source: Source) -> None:
    """Take the triggers and their function away; nothing is done where there are none.

    Raises:
        Conflict: others use the table and do not come to an end; try again.
    """
    with locking(source):
        await limit_locks(connection, source)
        await connection.execute(sql.SQL(DROP_FUNCTION).format(function=await _function(connection, id)))


async def read(connection: Connection, source: Source, keys: Sequence[str]) -> list[SourceRow]:
    """The rows of these keys that are there.

    Raises:
        SourceUnavailable: the table or a column is gone.
    """
    places = range(len(source.key_columns))
    texts = [sql.SQL("{}::text").format(identifier("source", column)) for column in source.text_columns]
    statement = sql.SQL(READ).format(
        key=source.key("source"),
        texts=sql.SQL(", ").join(texts),
        bytes=sql.SQL(" + ").join(sql.SQL("coalesce(octet_length({}), 0)").format(text) for text in texts),
        attributes=sql.SQL(", ").join(
            sql.SQL("{}, {}").format(sql.Literal(column.replace("%", "%%")), identifier("source", column))
            for column in source.attribute_columns
        ),
        parameters=sql.SQL(", ").join(sql.SQL("{}::text[]").format(sql.Placeholder(f"key_{n}")) for n in places),
        names=sql.SQL(", ").join(sql.Identifier(f"key_{n}") for n in places),
        source=source.quoted,
        matches=sql.SQL(" AND ").join(
            sql.SQL("{} = {}::{}").format(
                identifier("source", column), sql.Identifier("wanted", f"key_{n}"), sql.Identifier(key_type)
            )
            for n, (column, key_type) in enumerate(zip(source.key_columns, source.key_types, strict=True))
        ),
    )
    split = [source.split_key(key) for key in keys]
    params: dict[str, object] = {f"key_{n}": [parts[n] for parts in split] for n in places}
    with reading(source):
        rows = await (await connection.execute(statement, {**params, "max_bytes": MAX_ROW_BYTES})).fetchall()
    return cast("list[SourceRow]", rows)


def after(source: Source, key: str | None) -> tuple[sql.Composable, dict[str, Any]]:
    """The condition for the rows behind a key in the order of the keys, and its parameters."""
    if key is None:
        return sql.SQL("TRUE"), {}
    parts = source.split_key(key)
    names = [f"after_{n}" for n in range(len(parts))]
    condition = sql.SQL("({}) > ({})").format(
        order(source),
        sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Placeholder(name), sql.Identifier(key_type))
            for name, key_type in zip(names, source.key_types, strict=True)
        ),
    )
    return condition, dict(zip(names, parts, strict=True))


def order(source: Source) -> sql.Composed:
    return sql.SQL(", ").join(identifier("source", column) for column in source.key_columns)


@contextmanager
def reading(source: Source) -> Generator[None]:
    try:
        yield
    except (pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName, pg.UndefinedFunction) as error:
        raise SourceUnavailable(
            f"Table {source.schema}.{source.table} or one of its declared columns is gone "
            f"({error.diag.message_primary}); put it back, or drop the sync and create it anew."
        ) from error
    except pg.InsufficientPrivilege as error:
        raise SourceUnavailable(
            f"The user of DATABASE_URL may not read table {source.schema}.{source.table}; grant SELECT on it."
        ) from error


@contextmanager
def locking(source: Source) -> Generator[None]:
    try:
        yield
    except (pg.LockNotAvailable, pg.DeadlockDetected) as error:
        raise Conflict(
            f"Table {source.schema}.{source.table} is in use by a long transaction; try again when that has ended.",
            param="table",
            code="source_table_in_use",
        ) from error


async def limit_locks(connection: Connection, source: Source) -> None:
    """Wait for locks on the table for a moment only, as writers do behind them.

    An autovacuum, which may take hours, gives way only to what waits for longer: it is waited for first, by a lock that
    no writer waits behind. Who may not take that one goes without.
    """
    names = {"schema": source.schema, "table": source.table}
    row = await (await connection.execute(MAY_LOCK, names)).fetchone()
    if row is not None and row["may_lock"]:
        await connection.execute(SET_LOCK_TIMEOUT, {"timeout": f"{VACUUM_MILLISECONDS}ms"})
        table = sql.Identifier(source.schema, source.table)
        await connection.execute(sql.SQL(KEEP_VACUUM_OUT).format(source=table))
    await connection.execute(SET_LOCK_TIMEOUT, {"timeout": f"{LOCK_MILLISECONDS}ms"})


async def _function(connection: Connection, id: str) -> sql.Identifier:
    return sql.Identifier(await _schema(connection), f"quiver_{id}")


async def _schema(connection: Connection) -> str:
    row = await (await connection.execute(CURRENT_SCHEMA)).fetchone()
    assert row is not None  # a SELECT without FROM returns one row
    return row["schema"]


def _is_own(table: str) -> bool:
    """Whether a table of Quiver's own schema is one of Quiver's."""
    own = {getattr(model, "TABLE", None) for model in vars(columns).values()}
    return table in own or table == "_prisma_migrations" or table.startswith("procrastinate_")
