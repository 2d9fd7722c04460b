"""The tables `table_syncs`, `table_sync_changes` and `table_sync_rows`: what is declared, recorded and waited for.

Locks are taken in one order: the store, the sync, its rows by key, the chunks, and the store's counters last.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypedDict, cast

from psycopg import errors as pg
from psycopg import sql
from psycopg.types.json import Jsonb

from api.errors import Conflict
from api.field_mapping import ChunkTable
from api.schemas.chunking_strategies import Chunking
from api.tables import keyset, source_tables
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.keyset import Position
from api.tables.source_tables import Source

SHOWN_ERRORS = 10  # rows that an answer names
COUNTED = 100_000  # changes that nobody has taken over yet are counted up to here

DECLARATION: Final = """
    id, vector_store_id, table_schema, table_name, key_columns, key_types, template, attribute_columns,
    chunking_strategy, scan, scan_after, error, created_at, floor(extract(epoch FROM created_at))::bigint AS created
"""

INSERT = """
INSERT INTO table_syncs (id, vector_store_id, table_schema, table_name, key_columns, key_types, template,
                         attribute_columns, chunking_strategy, created_at, scan, error, retry_at)
VALUES (%(id)s, %(vector_store_id)s, %(table_schema)s, %(table_name)s, %(key_columns)s, %(key_types)s, %(template)s,
        %(attribute_columns)s, %(chunking_strategy)s, %(created_at)s, %(scan)s, %(error)s,
        CASE WHEN %(error)s::text IS NULL THEN now() ELSE 'infinity' END)
"""

GET = f"SELECT {DECLARATION} FROM table_syncs WHERE id = %(id)s"  # noqa: S608  # only constants of this file

GET_CREATED_AT = "SELECT created_at FROM table_syncs WHERE id = %(id)s"

LIST = f"""
SELECT {DECLARATION} FROM table_syncs
WHERE {{condition}}
ORDER BY table_syncs.created_at {{direction}}, id {{direction}}
LIMIT %(limit)s
"""  # noqa: S608

LIST_DUE = f"SELECT {DECLARATION} FROM table_syncs WHERE retry_at <= now() ORDER BY id"  # noqa: S608

LIST_ORPHANED = """
SELECT id FROM table_syncs AS sync
WHERE NOT EXISTS (SELECT FROM vector_stores WHERE vector_stores.id = sync.vector_store_id)
"""

COUNT = """
SELECT (SELECT count(*) FROM (SELECT FROM table_sync_changes WHERE table_sync_id = %(id)s LIMIT %(counted)s) AS changes)
           AS changes,
       count(*) FILTER (WHERE error IS NULL) AS waiting,
       count(*) FILTER (WHERE error IS NOT NULL) AS failed
FROM table_sync_rows WHERE table_sync_id = %(id)s
"""

LIST_ERRORS = """
SELECT key, attempts, error AS message FROM table_sync_rows
WHERE table_sync_id = %(id)s AND error IS NOT NULL
ORDER BY key
LIMIT %(limit)s
"""

PAUSE = """
UPDATE table_syncs SET error = %(error)s, retry_at = now() + make_interval(secs => %(seconds)s) WHERE id = %(id)s
"""

START = "UPDATE table_syncs SET error = NULL, retry_at = now() WHERE id = %(id)s"

RESUME = "UPDATE table_syncs SET error = NULL WHERE id = %(id)s AND error IS NOT NULL"

# One worker at a time takes changes over; the others go on with the rows there are.
LEAD = "SELECT scan, scan_after FROM table_syncs WHERE id = %(id)s FOR NO KEY UPDATE SKIP LOCKED"

HOLD = "SELECT id FROM table_syncs WHERE id = %(id)s FOR KEY SHARE"

# An index takes no key of any length.
ADD: Final = """
INSERT INTO table_sync_rows (table_sync_id, key, is_scanned, error, retry_at)
SELECT %(id)s, CASE WHEN is_long THEN left(key, 200) || '...' || md5(key) ELSE key END, {is_scanned},
       CASE WHEN is_long THEN 'The key is longer than 1000 bytes.' END,
       CASE WHEN is_long THEN 'infinity'::timestamptz ELSE now() END
FROM (SELECT DISTINCT key, octet_length(key) > 1000 AS is_long FROM {keys} WHERE key IS NOT NULL) AS added
ORDER BY key
ON CONFLICT (table_sync_id, key) DO UPDATE SET version = table_sync_rows.version + 1
"""

# A row that changes all the time keeps its place; one that failed gets a new one.
TAKE_OVER = f"""
WITH taken AS (
    DELETE FROM table_sync_changes
    WHERE table_sync_id = %(id)s
      AND seq IN (SELECT seq FROM table_sync_changes WHERE table_sync_id = %(id)s ORDER BY seq LIMIT %(limit)s)
    RETURNING key
),
added AS (
    {ADD.format(is_scanned="false", keys="taken")},
        is_scanned = false, attempts = 0, error = excluded.error,
        retry_at = CASE WHEN excluded.error IS NULL THEN least(table_sync_rows.retry_at, now()) ELSE 'infinity' END
)
SELECT count(*) AS changes, count(*) > count(key) AS is_any FROM taken
"""  # noqa: S608

SCAN_ROWS = f"""
WITH page AS MATERIALIZED (
    SELECT {{key}} AS key, row_number() OVER (ORDER BY {{order}}) AS position
    FROM (SELECT {{order}} FROM {{source}} AS source WHERE {{after}} ORDER BY {{order}} LIMIT %(limit)s) AS source
),
added AS ({ADD.format(is_scanned="true", keys="page")})
SELECT count(*) AS rows, (array_agg(key ORDER BY position DESC))[1] AS last FROM page
"""  # noqa: S608

SCAN_CHUNKS = f"""
WITH page AS MATERIALIZED (
    SELECT DISTINCT {{file_id}} AS key FROM {{table}}
    WHERE {{vector_store_id}} = {{store}} AND {{filename}} = %(filename)s AND {{file_id}} > %(after)s
    ORDER BY key LIMIT %(limit)s
),
added AS ({ADD.format(is_scanned="true", keys="page")})
SELECT count(*) AS rows, max(key) AS last FROM page
"""  # noqa: S608

SET_SCAN = "UPDATE table_syncs SET scan = %(scan)s, scan_after = %(after)s WHERE id = %(id)s"

COUNT_SCANNED = """
SELECT count(*) AS rows FROM (
    SELECT FROM table_sync_rows
    WHERE table_sync_id = %(id)s AND is_scanned AND retry_at <= now()
    LIMIT %(limit)s) AS due
"""

CLAIM = """
UPDATE table_sync_rows AS claimed SET
    claim = %(claim)s, claimed_until = now() + make_interval(secs => %(lease_seconds)s)
FROM (SELECT key FROM table_sync_rows
      WHERE table_sync_id = %(id)s AND retry_at <= now() AND (claimed_until IS NULL OR claimed_until < now())
      ORDER BY is_scanned, retry_at
      LIMIT %(limit)s
      FOR UPDATE SKIP LOCKED) AS due
WHERE claimed.table_sync_id = %(id)s AND claimed.key = due.key
RETURNING claimed.key, claimed.version, claimed.attempts
"""

RENEW = """
UPDATE table_sync_rows SET claimed_until = now() + make_interval(secs => %(lease_seconds)s)
WHERE table_sync_id = %(id)s AND claim = %(claim)s AND key = ANY(%(keys)s)
"""

LOCK_CLAIMED = """
SELECT key FROM table_sync_rows
WHERE table_sync_id = %(id)s AND claim = %(claim)s AND key = ANY(%(keys)s)
ORDER BY key
FOR UPDATE
"""

FINISH = """
DELETE FROM table_sync_rows USING unnest(%(keys)s::text[], %(versions)s::bigint[]) AS done (key, version)
WHERE table_sync_id = %(id)s AND claim = %(claim)s
  AND table_sync_rows.key = done.key AND table_sync_rows.version = done.version
"""

RELEASE = """
UPDATE table_sync_rows SET claim = NULL, claimed_until = NULL
WHERE table_sync_id = %(id)s AND claim = %(claim)s AND key = ANY(%(keys)s)
"""

FAIL = """
UPDATE table_sync_rows SET
    attempts = attempts + 1, error = %(error)s, claim = NULL, claimed_until = NULL,
    retry_at = now() + make_interval(secs => (%(pauses)s::int[])[least(attempts + 1, cardinality(%(pauses)s::int[]))])
FROM unnest(%(keys)s::text[], %(versions)s::bigint[]) AS failed (key, version)
WHERE table_sync_id = %(id)s AND claim = %(claim)s
  AND table_sync_rows.key = failed.key AND table_sync_rows.version = failed.version
"""

DELETE = (
    "DELETE FROM table_syncs WHERE id = %(id)s",
    "DELETE FROM table_sync_rows WHERE table_sync_id = %(id)s",
    "DELETE FROM table_sync_changes WHERE table_sync_id = %(id)s",
)


class Declaration(TypedDict):
    """A sync as it was declared, and how far its scan is."""

    id: str
    vector_store_id: str
    table_schema: str
    table_name: str
    key_columns: list[str]
    key_types: list[str]
    template: str
    attribute_columns: list[str]
    chunking_strategy: Chunking
    scan: Literal["rows", "chunks", "done"]
    scan_after: str | None
    error: str | None
    created_at: datetime
    created: int


class ClaimedRow(TypedDict):
    key: str
    version: int
    attempts: int


class Counts(TypedDict):
    changes: int
    waiting: int
    failed: int


class RowError(TypedDict):
    key: str
    attempts: int
    message: str


async def insert(connection: Connection, values: Mapping[str, Any]) -> None:
    """Insert a sync: `values` are the columns of INSERT. With an `error` no worker begins before `start`.

    Raises:
        Conflict: the table is in the store already.
    """
    try:
        await connection.execute(INSERT, {**values, "chunking_strategy": Jsonb(values["chunking_strategy"])})
    except pg.UniqueViolation as error:
        raise Conflict(
            f"Table {values['table_schema']}.{values['table_name']} is in vector store "
            f"{values['vector_store_id']!r} already; drop that sync first, or choose another store.",
            param="table",
        ) from error


async def find(connection: Connection, id: str) -> Declaration | None:
    return cast("Declaration | None", await (await connection.execute(GET, {"id": id})).fetchone())


async def find_created_at(connection: Connection, id: str) -> datetime | None:
    row = await (await connection.execute(GET_CREATED_AT, {"id": id})).fetchone()
    return None if row is None else row["created_at"]


async def list_between(
    connection: Connection,
    *,
    above: Position | None,
    below: Position | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[Declaration]:
    condition, params = keyset.between("table_syncs", above=above, below=below)
    statement = sql.SQL(LIST).format(condition=condition, direction=sql.SQL("ASC" if direction == "asc" else "DESC"))
    rows = await (await connection.execute(statement, {**params, "limit": limit})).fetchall()
    return cast("list[Declaration]", rows)


async def list_due(connection: Connection) -> list[Declaration]:
    """All syncs but those that are paused."""
    return cast("list[Declaration]", await (await connection.execute(LIST_DUE)).fetchall())


async def list_orphaned(connection: Connection) -> list[str]:
    """Syncs whose store is gone."""
    return [row["id"] for row in await (await connection.execute(LIST_ORPHANED)).fetchall()]


async def count(connection: Connection, id: str) -> Counts:
    row = await (await connection.execute(COUNT, {"id": id, "counted": COUNTED})).fetchone()
    return cast("Counts", row)


async def list_errors(connection: Connection, id: str) -> list[RowError]:
    rows = await (await connection.execute(LIST_ERRORS, {"id": id, "limit": SHOWN_ERRORS})).fetchall()
    return cast("list[RowError]", rows)


async def pause(connection: Connection, id: str, *, error: str, seconds: float) -> None:
    await connection.execute(PAUSE, {"id": id, "error": error, "seconds": seconds})


async def start(connection: Connection, id: str) -> None:
    await connection.execute(START, {"id": id})


async def resume(connection: Connection, id: str) -> None:
    await connection.execute(RESUME, {"id": id})


async def lead(connection: Connection, id: str) -> Mapping[str, Any] | None:
    """Be the one who takes changes over until the transaction ends: `scan` and `scan_after`. None: another is."""
    return await (await connection.execute(LEAD, {"id": id})).fetchone()


async def hold(connection: Connection, id: str) -> bool:
    """Keep the sync from being dropped until the transaction ends. False: there is none."""
    return await (await connection.execute(HOLD, {"id": id})).fetchone() is not None


async def take_over(connection: Connection, id: str, *, limit: int) -> tuple[int, bool]:
    """Have the oldest changes wait as rows, each row once: how many changes, and whether any row may have changed."""
    row = await (await connection.execute(TAKE_OVER, {"id": id, "limit": limit})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["changes"], row["is_any"]


async def scan_rows(
    connection: Connection, id: str, source: Source, *, after: str | None, limit: int
) -> tuple[int, str | None]:
    """Have the next rows of the table wait: how many, and the key of the last.

    Raises:
        SourceUnavailable: the table or a column is gone.
    """
    condition, params = source_tables.after(source, after)
    statement = sql.SQL(SCAN_ROWS).format(
        key=source.key("source"), order=source_tables.order(source), source=source.quoted, after=condition
    )
    with source_tables.reading(source):
        row = await (await connection.execute(statement, {**params, "id": id, "limit": limit})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["rows"], row["last"]


async def scan_chunks(
    connection: Connection, table: ChunkTable, vector_store_id: str, id: str, source: Source, *, after: str, limit: int
) -> tuple[int, str | None]:
    """Have the next rows that have chunks wait, be they in the table or not: how many, and the key of the last."""
    statement = sql.SQL(SCAN_CHUNKS).format(**statement_names(table, vector_store_id))
    params = {"id": id, "filename": source.filename, "after": after, "limit": limit}
    row = await (await connection.execute(statement, params)).fetchone()
    assert row is not None  # an aggregate always has one
    return row["rows"], row["last"]


async def set_scan(connection: Connection, id: str, scan: Literal["rows", "chunks", "done"], after: str | None) -> None:
    await connection.execute(SET_SCAN, {"id": id, "scan": scan, "after": after})


async def count_scanned(connection: Connection, id: str, *, limit: int) -> int:
    """How many rows that the scan found are due; counted up to the limit."""
    row = await (await connection.execute(COUNT_SCANNED, {"id": id, "limit": limit})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["rows"]


async def claim(connection: Connection, id: str, *, claim: str, limit: int, lease_seconds: float) -> list[ClaimedRow]:
    """Take rows that are due, for a while."""
    params = {"id": id, "claim": claim, "limit": limit, "lease_seconds": lease_seconds}
    return cast("list[ClaimedRow]", await (await connection.execute(CLAIM, params)).fetchall())


async def renew(connection: Connection, id: str, *, claim: str, keys: Sequence[str], lease_seconds: float) -> None:
    params = {"id": id, "claim": claim, "keys": list(keys), "lease_seconds": lease_seconds}
    await connection.execute(RENEW, params)


async def lock_claimed(connection: Connection, id: str, *, claim: str, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the claim still has, held until the transaction ends."""
    params = {"id": id, "claim": claim, "keys": list(keys)}
    return {row["key"] for row in await (await connection.execute(LOCK_CLAIMED, params)).fetchall()}


async def finish(connection: Connection, id: str, *, claim: str, versions: Mapping[str, int]) -> None:
    """Wait for these rows no longer, but for those that have changed since they were claimed."""
    params = {"id": id, "claim": claim, "keys": list(versions), "versions": list(versions.values())}
    await connection.execute(FINISH, params)
    await connection.execute(RELEASE, params)


async def release(connection: Connection, id: str, *, claim: str, keys: Sequence[str]) -> None:
    await connection.execute(RELEASE, {"id": id, "claim": claim, "keys": list(keys)})


async def fail(
    connection: Connection,
    id: str,
    *,
    claim: str,
    versions: Mapping[str, int],
    error: str,
    pauses_seconds: Sequence[int],
) -> None:
    """Note why rows cannot be embedded, and try them again after a pause that grows with each attempt."""
    params = {"id": id, "claim": claim, "keys": list(versions), "versions": list(versions.values())}
    await connection.execute(FAIL, {**params, "error": error, "pauses": list(pauses_seconds)})
    await connection.execute(RELEASE, params)  # those that have changed meanwhile


async def delete(connection: Connection, id: str) -> None:
    for statement in DELETE:
        await connection.execute(statement, {"id": id})
