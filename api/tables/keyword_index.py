"""The keyword index of each store: which chunks are in it, where each word is, and the merging of what accumulates.

It is written by the worker alone, behind the writes to the table of chunks. One transaction at a time works on a store.
"""

from collections.abc import Sequence
from typing import Final, TypedDict, cast

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.lagging_index import IS_SETTLED, LaggingIndex, Place, advanced, following, forgetting

# PostgreSQL makes no tsvector of more than 1 MiB; a text in which every character has four bytes stays below that.
MAX_CHARACTERS: Final = 250_000

TABLES: Final = LaggingIndex("keyword_stores", ("keyword_chunks", "keyword_segments", "keyword_postings"))

# A store may name a text search configuration of PostgreSQL in its metadata.
LANGUAGE = """
coalesce((SELECT cfgname::text FROM pg_ts_config
          WHERE pg_ts_config_is_visible(oid) AND cfgname = lower(store.metadata ->> 'language')), %(language)s)
"""

START = """
INSERT INTO keyword_stores (vector_store_id, language) VALUES (%(store)s, %(language)s) ON CONFLICT DO NOTHING
"""

CLAIM = f"""
SELECT language, next_number, next_segment, adopted_id, is_adopted, indexed_seq, settling_seq, {IS_SETTLED}
FROM keyword_stores WHERE vector_store_id = %(store)s
FOR UPDATE SKIP LOCKED
"""  # noqa: S608

# ts_rank divides by the length of the text where 2 asks for it, whatever the question is, and is never 0 for `a & b`:
# so the length is had without a row for each word, which would take a quarter as long as making the words.
INDEX = """
WITH batch AS MATERIALIZED (
    SELECT (row_number() OVER (ORDER BY {order}) + %(number)s - 1)::int AS number, chunk_id, seq, words,
           coalesce(round(ts_rank(words, 'a & b') / nullif(ts_rank(words, 'a & b', 2), 0)), 0)::int AS length
    FROM (
        SELECT {id}::text AS chunk_id, {id} AS typed_id, seq,
               to_tsvector(%(language)s::regconfig, left({content}, %(characters)s)) AS words
        FROM {table}
        WHERE {vector_store_id} = {store} AND {condition}
        ORDER BY {order}
        LIMIT %(limit)s
    ) AS new
),
placed AS (
    INSERT INTO keyword_chunks (vector_store_id, number, chunk_id, seq, length)
    SELECT {store}, number, chunk_id, seq, length FROM batch
),
posted AS (
    INSERT INTO keyword_postings
        (vector_store_id, term, segment, chunk_count, numbers, frequencies, lengths)
    SELECT {store}, lexeme, %(segment)s, count(*), array_agg(number),
           array_agg(cardinality(positions)::smallint), array_agg(least(length, 32767)::smallint)
    FROM batch CROSS JOIN LATERAL unnest(words)
    GROUP BY lexeme
),
counted AS (
    INSERT INTO keyword_segments (vector_store_id, segment, first_number, last_number, chunk_count, word_count)
    SELECT {store}, %(segment)s, min(number), max(number), count(*), sum(length) FROM batch HAVING count(*) > 0
)
SELECT count(*) AS chunks, max(seq) AS seq, (array_agg(chunk_id ORDER BY number DESC))[1] AS chunk_id FROM batch
"""

ADVANCE = """
UPDATE keyword_stores SET
    next_number = next_number + %(chunks)s, next_segment = next_segment + 1,
    adopted_id = %(adopted_id)s, is_adopted = %(is_adopted)s,
    indexed_seq = %(indexed_seq)s, settling_seq = %(settling_seq)s
WHERE vector_store_id = %(store)s
"""

LIST_SEGMENTS = """
SELECT segment, chunk_count, deleted_count FROM keyword_segments
WHERE vector_store_id = %(store)s ORDER BY first_number DESC
"""

# What was deleted is left out. Segments that are merged lie next to each other, so that one range holds their chunks.
MERGE = """
WITH old AS (
    DELETE FROM keyword_segments WHERE vector_store_id = %(store)s AND segment = ANY(%(segments)s)
    RETURNING first_number, last_number
),
old_posting AS (
    DELETE FROM keyword_postings WHERE vector_store_id = %(store)s AND segment = ANY(%(segments)s)
    RETURNING term, numbers, frequencies, lengths
),
living AS MATERIALIZED (
    SELECT number, length FROM keyword_chunks
    WHERE vector_store_id = %(store)s
      AND number BETWEEN (SELECT min(first_number) FROM old) AND (SELECT max(last_number) FROM old)
),
posted AS (
    INSERT INTO keyword_postings (vector_store_id, term, segment, chunk_count, numbers, frequencies, lengths)
    SELECT %(store)s, term, %(segment)s, count(*),
           array_agg(posting.number), array_agg(posting.frequency), array_agg(posting.length)
    FROM old_posting
    CROSS JOIN LATERAL unnest(numbers, frequencies, lengths) AS posting (number, frequency, length)
    JOIN living ON living.number = posting.number
    GROUP BY term
),
counted AS (
    INSERT INTO keyword_segments (vector_store_id, segment, first_number, last_number, chunk_count, word_count)
    SELECT %(store)s, %(segment)s, min(number), max(number), count(*), sum(length) FROM living HAVING count(*) > 0
)
UPDATE keyword_stores SET next_segment = next_segment + 1 WHERE vector_store_id = %(store)s
"""

# Where nothing was deleted, the arrays are put one behind another: their numbers are not looked at, which would take
# as long as indexing did. A term has one row in a segment, which is what min() finds.
JOIN = """
WITH old AS (
    DELETE FROM keyword_segments WHERE vector_store_id = %(store)s AND segment = ANY(%(segments)s)
    RETURNING first_number, last_number, chunk_count, word_count
),
old_posting AS (
    DELETE FROM keyword_postings WHERE vector_store_id = %(store)s AND segment = ANY(%(segments)s)
    RETURNING term, segment, chunk_count, numbers, frequencies, lengths
),
posted AS (
    INSERT INTO keyword_postings (vector_store_id, term, segment, chunk_count, numbers, frequencies, lengths)
    SELECT %(store)s, term, %(segment)s, sum(chunk_count), {numbers}, {frequencies}, {lengths}
    FROM old_posting GROUP BY term
),
counted AS (
    INSERT INTO keyword_segments (vector_store_id, segment, first_number, last_number, chunk_count, word_count)
    SELECT %(store)s, %(segment)s, min(first_number), max(last_number), sum(chunk_count), sum(word_count) FROM old
)
UPDATE keyword_stores SET next_segment = next_segment + 1 WHERE vector_store_id = %(store)s
"""

OF_SEGMENT = "min({column}) FILTER (WHERE segment = {segment})"

FORGET_DELETED = """
WITH deleted AS (
    DELETE FROM keyword_chunks AS placed WHERE placed.vector_store_id = {store} AND {is_gone} RETURNING number
)
UPDATE keyword_segments SET deleted_count = deleted_count + counted.chunks
FROM (SELECT segment, count(*) AS chunks FROM deleted
      JOIN keyword_segments ON vector_store_id = {store} AND number BETWEEN first_number AND last_number
      GROUP BY segment) AS counted
WHERE keyword_segments.vector_store_id = {store} AND keyword_segments.segment = counted.segment
"""


class Behind(TypedDict):
    vector_store_id: str
    language: str


class Progress(Place):
    """How far the index of a store is."""

    language: str
    next_number: int
    next_segment: int


class Segment(TypedDict):
    segment: int
    chunk_count: int
    deleted_count: int


async def list_behind(connection: Connection, table: ChunkTable, *, language: str) -> list[Behind]:
    """Stores with chunks that are not in their index, and the language that it is to be in."""
    return await TABLES.list_behind(
        connection,
        table,
        {"language": language},
        columns=f"store.id AS vector_store_id, {LANGUAGE} AS language",
        is_outdated=f"indexed.language <> {LANGUAGE}",
    )


async def start(connection: Connection, table: ChunkTable, behind: Behind) -> None:
    """Note how far the next batches may go. Not to be called in a transaction, which would wait for itself."""
    store = behind["vector_store_id"]
    await connection.execute(START, {"store": store, "language": behind["language"]})
    await TABLES.settle(connection, table, store)


async def claim(connection: Connection, vector_store_id: str) -> Progress | None:
    """Hold the index of a store until the transaction ends. None: somebody else does."""
    return cast("Progress | None", await (await connection.execute(CLAIM, {"store": vector_store_id})).fetchone())


async def index_batch(
    connection: Connection, table: ChunkTable, vector_store_id: str, progress: Progress, *, limit: int
) -> int:
    """Index the next chunks of a store, those without a `seq` first, and note how far it is."""
    names = statement_names(table, vector_store_id)
    condition, places = following(table, names, progress)
    statement = sql.SQL(INDEX).format(
        **names, condition=condition, order=sql.SQL("seq" if progress["is_adopted"] else "typed_id")
    )
    params = {
        **places,
        "number": progress["next_number"],
        "segment": progress["next_segment"],
        "language": progress["language"],
        "characters": MAX_CHARACTERS,
        "limit": limit,
    }
    batch = await (await connection.execute(statement, params)).fetchone()
    assert batch is not None  # an aggregate always has one
    place = advanced(progress, last_id=batch["chunk_id"], last_seq=batch["seq"], is_last=batch["chunks"] < limit)
    await connection.execute(ADVANCE, {**place, "store": vector_store_id, "chunks": batch["chunks"]})
    return batch["chunks"]


async def list_segments(connection: Connection, vector_store_id: str) -> list[Segment]:
    """The youngest first."""
    rows = await (await connection.execute(LIST_SEGMENTS, {"store": vector_store_id})).fetchall()
    return cast("list[Segment]", rows)


async def merge(connection: Connection, vector_store_id: str, segments: Sequence[Segment], *, into: int) -> None:
    """Make one new segment of some that lie next to each other, without the chunks that are gone."""
    numbers = [segment["segment"] for segment in segments]
    statement = sql.SQL(MERGE)
    if not any(segment["deleted_count"] for segment in segments):
        columns = ("numbers", "frequencies", "lengths")
        statement = sql.SQL(JOIN).format(**{column: _one_behind_another(column, numbers) for column in columns})
    await connection.execute(statement, {"store": vector_store_id, "segments": numbers, "segment": into})


def _one_behind_another(column: str, segments: Sequence[int]) -> sql.Composed:
    of_segment = sql.SQL(OF_SEGMENT)
    arrays = [of_segment.format(column=sql.Identifier(column), segment=sql.Literal(number)) for number in segments]
    return sql.SQL(" || ").join(arrays)  # an array behind a null is the array


async def forget_deleted(connection: Connection, table: ChunkTable, vector_store_id: str) -> None:
    await connection.execute(forgetting(table, vector_store_id, FORGET_DELETED), {})
