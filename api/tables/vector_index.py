"""The indexes of large stores: which there are and ought to be, and the statements that make and drop them.

An index is a partial one over a range of one store's chunks, a *segment*. PostgreSQL decides by the chunk's own values
whether it is in an index, so that an index has all of its range, whenever a chunk of it is committed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypedDict, cast

import psycopg
from psycopg import sql

from api.field_mapping import ChunkTable, identifier
from api.tables.chunks import statement_names
from api.tables.database import Connection

MAX_DIMENSION: Final = 4000  # of an HNSW index on pgvector's `halfvec`
NAME: Final = "quiver_hnsw_"  # and the segment's id
FILTER_NAME: Final = "quiver_filter_"  # likewise, of the segment's attributes

# HNSW's usual parameters: more of either costs twice the build for what a larger `ef_search` gives as well.
NEIGHBOURS: Final = 16
CONSTRUCTION: Final = 64

# Longer vectors take longer to compare: searching 5,000 of 1,536 dimensions exactly costs what 10,000 of 384 do.
LARGE_STORE = "ceil(%(min_chunks)s * least(1, sqrt(384.0 / store.embedding_dimension)))::bigint"

# Of every database, for one build at a time. It ends with the connection that has it, and not before the build does
# whose worker died.
LOCK = "SELECT pg_try_advisory_lock(7166843709123451) AS is_locked"

IS_POSSIBLE = """
SELECT relkind = 'r' AND pg_has_role(relowner, 'USAGE')
       AND (SELECT regexp_match(extversion, '([0-9]+)[.]([0-9]+)')::int[] >= '{0,8}'
            FROM pg_extension WHERE extname = 'vector')
       AS is_possible
FROM pg_class WHERE oid = %(table)s::regclass
"""

TUNE = """
SELECT set_config('statement_timeout', %(timeout)s, false), set_config('lock_timeout', '0', false),
       set_config('max_parallel_maintenance_workers', %(workers)s, false),
       CASE WHEN %(memory)s::text IS NOT NULL THEN set_config('maintenance_work_mem', %(memory)s, false) END
"""

EXISTING = f"""
SELECT substr(relname, length('{NAME}') + 1)::bigint AS id, indisvalid AS is_valid, indexrelid
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE indrelid = %(table)s::regclass AND relname ~ '^{NAME}[0-9]+$'
"""  # noqa: S608  # only constants of this file are put together

LIST = f"""
SELECT known.vector_store_id, known.id, after_seq, until_seq, known.dimension, chunk_count, living_count, is_ready,
       tried_at + %(pause)s * least(2 ^ (attempts - 1), 60) * interval '1 second' > now() AND error IS NOT NULL
       AS is_paused,
       coalesce(existing.is_valid, false) AS is_built,
       store.id IS NOT NULL AS is_wanted,
       coalesce({LARGE_STORE}, 0) AS large
FROM vector_indexes AS known
LEFT JOIN ({EXISTING}) AS existing ON existing.id = known.id
LEFT JOIN vector_stores AS store ON store.id = known.vector_store_id AND store.status <> 'expired'
                                AND store.embedding_dimension = known.dimension
ORDER BY known.vector_store_id, until_seq, known.id
"""  # noqa: S608  # only constants of this file are put together

LIST_STRAY = f"""
SELECT DISTINCT stray.id FROM pg_index
JOIN pg_class ON pg_class.oid = indexrelid
CROSS JOIN LATERAL (SELECT substring(relname FROM '^(?:{NAME}|{FILTER_NAME})([0-9]+)$')::bigint AS id) AS stray
WHERE indrelid = %(table)s::regclass AND stray.id IS NOT NULL AND stray.id NOT IN (SELECT id FROM vector_indexes)
"""  # noqa: S608  # only constants of this file are put together

# What lies behind a store's youngest segment, and what has no `seq`, where either is enough for another segment. The
# chunks are counted only where the numbers leave room for so many.
LIST_DUE = f"""
SELECT store.id AS vector_store_id, store.embedding_dimension AS dimension, part.*
FROM vector_stores AS store
CROSS JOIN LATERAL (
    SELECT max(until_seq) AS until, coalesce(bool_or(until_seq IS NULL), false) AS has_unnumbered,
           CASE WHEN count(*) = 0 THEN {LARGE_STORE} ELSE {LARGE_STORE} / 2 END AS large
    FROM vector_indexes WHERE vector_store_id = store.id
) AS known
CROSS JOIN LATERAL (
    SELECT max(seq) - min(seq) + 1 AS places FROM {{table}}
    WHERE {{table}}.{{vector_store_id}} = store.id AND (known.until IS NULL OR seq > known.until)
) AS young
CROSS JOIN LATERAL (
    SELECT known.until AS after_seq, max(seq) AS until_seq, count(*) AS chunk_count FROM (
        SELECT seq FROM {{table}}
        WHERE {{table}}.{{vector_store_id}} = store.id AND seq > coalesce(known.until, -9223372036854775808)
        ORDER BY seq
        LIMIT CASE WHEN young.places >= known.large THEN %(max_chunks)s ELSE 0 END
    ) AS numbered
    UNION ALL
    SELECT NULL, NULL, count(*) FROM {{table}}
    WHERE {{table}}.{{vector_store_id}} = store.id AND seq IS NULL AND NOT known.has_unnumbered
) AS part
WHERE store.status <> 'expired' AND store.embedding_dimension <= %(max_dimension)s
  AND part.chunk_count >= known.large
  AND NOT EXISTS (SELECT FROM vector_indexes WHERE vector_store_id = store.id AND NOT is_ready)
ORDER BY part.chunk_count DESC, part.until_seq NULLS FIRST
"""  # noqa: S608  # only constants of this file are put together

PLAN = """
INSERT INTO vector_indexes (vector_store_id, after_seq, until_seq, dimension, chunk_count, living_count)
VALUES (%(vector_store_id)s, %(after_seq)s, %(until_seq)s, %(dimension)s, %(chunk_count)s, %(chunk_count)s)
RETURNING id
"""

BEGIN = """
UPDATE vector_indexes SET attempts = attempts + 1, tried_at = now(), error = NULL
WHERE vector_store_id = %(store)s AND id = %(id)s
"""

FAIL = "UPDATE vector_indexes SET error = %(error)s WHERE vector_store_id = %(store)s AND id = %(id)s"

# In one statement: no search sees neither the new one nor those that it replaces.
SWITCH = """
WITH built AS (
    UPDATE vector_indexes SET is_ready = true, attempts = 0, error = NULL
    WHERE vector_store_id = %(store)s AND id = %(id)s
    RETURNING vector_store_id, id, after_seq, until_seq
)
DELETE FROM vector_indexes AS old USING built
WHERE old.vector_store_id = built.vector_store_id AND old.id <> built.id
  AND CASE WHEN built.until_seq IS NULL THEN old.until_seq IS NULL
           ELSE old.until_seq <= built.until_seq AND (built.after_seq IS NULL OR old.after_seq >= built.after_seq) END
"""

RESET = "UPDATE vector_indexes SET is_ready = false WHERE vector_store_id = %(store)s AND id = %(id)s"

FORGET = "DELETE FROM vector_indexes WHERE vector_store_id = %(store)s AND id = ANY(%(ids)s)"

CREATE = """
CREATE INDEX CONCURRENTLY {name} ON {table} USING hnsw (({expression}) halfvec_cosine_ops)
WITH (m = {neighbours}, ef_construction = {construction})
WHERE {vector_store_id} = {store} AND {range}
"""

# Of the segment alone, so that a filter is not looked up among the chunks of all stores.
CREATE_FILTER = """
CREATE INDEX CONCURRENTLY {name} ON {table} USING gin ({metadata} jsonb_path_ops)
WHERE {vector_store_id} = {store} AND {range}
"""

DROP = "DROP INDEX CONCURRENTLY IF EXISTS {name}"

# Without figures of the store's size PostgreSQL would take a large store for a small one, and sort it. The vectors
# themselves have none that are of use.
ANALYZE = "ANALYZE {table} ({vector_store_id}, seq, {metadata})"

COUNT = """
UPDATE vector_indexes SET living_count =
    (SELECT count(*) FROM {table} WHERE {table}.{vector_store_id} = {store} AND {range})
WHERE vector_store_id = {store} AND id = %(id)s
"""


COUNT_CHUNKS = "SELECT count(*) AS chunks FROM {table} WHERE {vector_store_id} = {store}"

LIST_MADE = f"""
SELECT known.chunk_count, living_count, is_ready, attempts, error AS last_error, phase,
       least(tuples_done::float8 / greatest(known.chunk_count, 1), 1) AS progress,
       coalesce(pg_relation_size(existing.indexrelid), 0) AS bytes,
       floor(extract(epoch FROM created_at))::bigint AS created_at
FROM vector_indexes AS known
LEFT JOIN ({EXISTING}) AS existing ON existing.id = known.id
LEFT JOIN pg_stat_progress_create_index AS progress
    ON progress.datname = current_database() AND progress.relid = %(table)s::regclass
   AND progress.index_relid IN (
       SELECT oid FROM pg_class WHERE relname IN ('{NAME}' || known.id, '{FILTER_NAME}' || known.id))
WHERE known.vector_store_id = %(store)s
ORDER BY until_seq, known.id
"""  # noqa: S608  # only constants of this file are put together


@dataclass(frozen=True)
class Segment:
    """A range of a store's chunks that has an index: those with `after` < `seq` <= `until`.

    Without `after` it begins with the first; without `until` it is the chunks that have no `seq`.
    """

    after: int | None
    until: int | None


class BuildFailed(Exception):
    """PostgreSQL cannot build an index; the message is its own."""


class Due(TypedDict):
    """A segment to be made."""

    vector_store_id: str
    dimension: int
    after_seq: int | None
    until_seq: int | None
    chunk_count: int


class Planned(Due):
    id: int


class Known(Planned):
    """A row of the table, and what the catalogue says of it; `large`: a store of so many chunks is to be indexed."""

    living_count: int
    is_ready: bool
    is_paused: bool
    is_built: bool
    is_wanted: bool
    large: int


class Made(TypedDict):
    """A segment as one may see it; `progress` is 0 to 1."""

    chunk_count: int
    living_count: int
    is_ready: bool
    attempts: int
    last_error: str | None
    phase: str | None
    progress: float | None
    bytes: int
    created_at: int


async def start(
    connection: Connection,
    table: ChunkTable,
    *,
    memory_mb: int | None,
    workers: int,
    timeout_seconds: float | None = None,
) -> bool:
    """Make the connection the one that builds, each index in as much time as it takes unless that is given.

    False: another one is, or there can be no indexes on this table.
    """
    row = await (await connection.execute(IS_POSSIBLE, _of(connection, table))).fetchone()
    if row is None or not row["is_possible"]:
        return False
    row = await (await connection.execute(LOCK)).fetchone()
    assert row is not None  # a function always answers
    if row["is_locked"]:
        memory = None if memory_mb is None else f"{memory_mb}MB"
        timeout = 0 if timeout_seconds is None else max(round(timeout_seconds * 1000), 1)
        await connection.execute(TUNE, {"workers": str(workers), "memory": memory, "timeout": str(timeout)})
    return row["is_locked"]


async def list_known(
    connection: Connection, table: ChunkTable, *, min_chunks: int, pause_seconds: float
) -> list[Known]:
    """All segments, by store from the oldest on; one that failed is paused ever longer, up to an hour or so."""
    params = {**_of(connection, table), "min_chunks": min_chunks, "pause": pause_seconds}
    return cast("list[Known]", await (await connection.execute(LIST, params)).fetchall())


async def list_stray(connection: Connection, table: ChunkTable) -> list[int]:
    """Indexes of ours that nothing is known of."""
    rows = await (await connection.execute(LIST_STRAY, _of(connection, table))).fetchall()
    return [row["id"] for row in rows]


async def list_due(connection: Connection, table: ChunkTable, *, min_chunks: int, max_chunks: int) -> list[Due]:
    """Segments that stores lack, the largest first."""
    statement = sql.SQL(LIST_DUE).format(table=table.identifier, vector_store_id=table.names["vector_store_id"])
    rows = await connection.execute(
        statement, {"min_chunks": min_chunks, "max_chunks": max_chunks, "max_dimension": MAX_DIMENSION}
    )
    return cast("list[Due]", await rows.fetchall())


async def plan(connection: Connection, due: Due) -> Planned:
    row = await (await connection.execute(PLAN, due)).fetchone()
    assert row is not None  # INSERT ... RETURNING always returns a row
    return {**due, "id": row["id"]}


async def begin(connection: Connection, segment: Planned) -> None:
    """Note an attempt to build it, before it is made."""
    await connection.execute(BEGIN, {"store": segment["vector_store_id"], "id": segment["id"]})


async def fail(connection: Connection, segment: Planned, *, error: str) -> None:
    await connection.execute(FAIL, {"store": segment["vector_store_id"], "id": segment["id"], "error": error})


async def switch(connection: Connection, segment: Planned) -> None:
    """Have searches use it instead of those in its range."""
    await connection.execute(SWITCH, {"store": segment["vector_store_id"], "id": segment["id"]})


async def reset(connection: Connection, segment: Planned) -> None:
    """Have searches use it no more until it is built anew."""
    await connection.execute(RESET, {"store": segment["vector_store_id"], "id": segment["id"]})


async def forget(connection: Connection, vector_store_id: str, ids: Sequence[int]) -> None:
    """Have searches use these no more; their indexes are strays then."""
    await connection.execute(FORGET, {"store": vector_store_id, "ids": list(ids)})


async def create(connection: Connection, table: ChunkTable, segment: Planned) -> None:
    """Build the indexes of a segment, as long as it takes; searches and writes go on meanwhile.

    Raises:
        BuildFailed: PostgreSQL cannot, and has left an invalid index.
    """
    names = statement_names(table, segment["vector_store_id"])
    names["range"] = in_segment(segment["after_seq"], segment["until_seq"])
    statements: list[sql.Composed] = []
    # That of the vectors comes last: a segment that has it has all.
    if table.metadata.type == "jsonb":
        name = sql.Identifier(f"{FILTER_NAME}{segment['id']}")
        statements.append(sql.SQL(CREATE_FILTER).format(**names, name=name))
    statements.append(
        sql.SQL(CREATE).format(
            **names,
            name=sql.Identifier(f"{NAME}{segment['id']}"),
            expression=indexed_vector(table, table.names["embedding"], segment["dimension"]),
            neighbours=sql.Literal(NEIGHBOURS),
            construction=sql.Literal(CONSTRUCTION),
        )
    )
    try:
        for statement in statements:
            await connection.execute(statement, {})
    except psycopg.Error as error:
        if connection.broken:
            raise
        raise BuildFailed(error.diag.message_primary or type(error).__name__) from error


async def drop(connection: Connection, table: ChunkTable, id: int) -> None:
    for kind in (NAME, FILTER_NAME):
        statement = sql.SQL(DROP).format(name=identifier(table.schema, f"{kind}{id}"))
        await connection.execute(statement, {})


async def analyze(connection: Connection, table: ChunkTable) -> None:
    await connection.execute(sql.SQL(ANALYZE).format(**table.names, table=table.identifier), {})


async def count(connection: Connection, table: ChunkTable, segment: Known) -> None:
    """Count the chunks of a segment that are still there."""
    statement = sql.SQL(COUNT).format(
        **statement_names(table, segment["vector_store_id"]),
        range=in_segment(segment["after_seq"], segment["until_seq"]),
    )
    await connection.execute(statement, {"id": segment["id"]})


async def count_chunks(connection: Connection, table: ChunkTable, vector_store_id: str) -> int:
    statement = sql.SQL(COUNT_CHUNKS).format(**statement_names(table, vector_store_id))
    row = await (await connection.execute(statement, {})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["chunks"]


async def list_made(connection: Connection, table: ChunkTable, vector_store_id: str) -> list[Made]:
    """A store's segments, the oldest first, and what PostgreSQL is doing about those that are being built."""
    params = {**_of(connection, table), "store": vector_store_id}
    return cast("list[Made]", await (await connection.execute(LIST_MADE, params)).fetchall())


def indexed_vector(table: ChunkTable, vector: sql.Composable, dimension: int) -> sql.Composed:
    """The expression that is indexed; the search must order by the same one.

    Half precision whatever the column's own: half the index, and the same recall. A vector that may be beyond its range
    is brought to unit length first.
    """
    halfvec = identifier(table.embedding.type_schema, "halfvec")
    whole = vector if table.embedding.type == "halfvec" else sql.SQL("l2_normalize({})").format(vector)
    return sql.SQL("({}::{}({}))").format(whole, halfvec, sql.Literal(dimension))


def in_segment(after: int | None, until: int | None) -> sql.Composable:
    """The range as a condition of literals, without which the planner cannot tell that an index has it."""
    if until is None:
        return sql.SQL("seq IS NULL")
    upper = sql.SQL("seq <= {}").format(sql.Literal(until))
    return upper if after is None else sql.SQL("seq > {} AND {}").format(sql.Literal(after), upper)


def _of(connection: Connection, table: ChunkTable) -> dict[str, object]:
    return {"table": sql.Identifier(table.schema, table.name).as_string(connection)}
