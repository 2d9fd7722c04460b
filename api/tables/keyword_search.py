"""Search by words, alone or beside the vectors in one statement.

BM25 as Robertson and Zaragoza give it, with a weight per word that is never negative. Of a long question the rare words
are read first, up to a number of postings: a word that is in most chunks of a large store says little and costs most.
"""

from collections.abc import Mapping
from typing import Final

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables.chunks import id_type

MAX_QUESTION_CHARACTERS: Final = 10_000
MAX_TERMS: Final = 128  # of one question, those that it repeats most

# Of the words that are read. A store of a few thousand chunks is answered in full, however long the question. See
# decision 5. A question of nothing but one word that is in more chunks is answered from so many of them.
MAX_POSTINGS: Final = 10_000

# The chunks are looked up in the order of their scores until enough of them are there and fit the filter, so that a
# deleted one costs a look and not a result. With LIMIT the lookup stays behind the order.
WORDED = """
WITH corpus AS (
    SELECT language::regconfig AS language, sum(chunk_count)::float8 AS chunks,
           1.2::float8 * (1 - 0.75) AS of_any_length,
           1.2::float8 * 0.75 * (sum(chunk_count) / greatest(sum(word_count), 1))::float8 AS of_a_word
    FROM keyword_stores AS indexed JOIN keyword_segments AS segment ON segment.vector_store_id = indexed.vector_store_id
    WHERE indexed.vector_store_id = {store}
    GROUP BY language
),
asked AS (
    SELECT lexeme AS term, cardinality(positions) AS times, chunks
    FROM corpus CROSS JOIN LATERAL unnest(to_tsvector(language, left(%(question)s, %(characters)s)))
    ORDER BY times DESC, term
    LIMIT %(max_terms)s
),
counted AS (
    SELECT asked.term, times, chunks, coalesce(sum(posting.chunk_count), 0)::float8 AS found
    FROM asked
    LEFT JOIN keyword_postings AS posting ON posting.vector_store_id = {store} AND posting.term = asked.term
    GROUP BY asked.term, times, chunks
),
weighed AS MATERIALIZED (
    SELECT term, found, times * ln(1 + greatest(chunks - found + 0.5, 0) / (found + 0.5)) AS weight,
           sum(found) OVER (ORDER BY found, term) AS read, sum(found) OVER (ORDER BY found, term) - found AS read_before
    FROM counted
),
possible AS (SELECT sum(weight) * 2.2 AS score FROM weighed),
scored AS (
    SELECT posting.number,
           sum(weight * 2.2 * frequency / (frequency + of_any_length + of_a_word * length)) AS score
    FROM weighed
    CROSS JOIN corpus
    JOIN keyword_postings AS stored ON stored.vector_store_id = {store} AND stored.term = weighed.term
    CROSS JOIN LATERAL (SELECT ceil(stored.chunk_count * %(max_postings)s::float8 / found)::integer) AS part (size)
    CROSS JOIN LATERAL unnest(numbers[:size], frequencies[:size], lengths[:size]) AS posting (number, frequency, length)
    WHERE read <= %(max_postings)s OR read_before < {limit}
    GROUP BY posting.number
    ORDER BY score DESC, posting.number
)
SELECT living.id, living.file_id, living.filename, living.attributes, living.text, living.distance,
       scored.score / nullif(possible.score, 0) AS text_score
FROM scored
CROSS JOIN possible
CROSS JOIN LATERAL (
    SELECT {table}.{id}::text AS id, {file_id} AS file_id, {filename} AS filename, {metadata} AS attributes,
           coalesce({content}, '') AS text, {distance} AS distance
    FROM (SELECT chunk_id, seq FROM keyword_chunks
          WHERE vector_store_id = {store} AND number = scored.number) AS placed (placed_id, placed_seq)
    JOIN {table} ON {table}.{vector_store_id} = {store} AND {table}.{id} = placed_id::{id_type}
                AND {table}.seq IS NOT DISTINCT FROM placed_seq
    WHERE {condition}
    LIMIT 1
) AS living
ORDER BY scored.score DESC, scored.number
LIMIT {limit}
"""

DISTANCE = "{embedding} <=> %(query)b::{vector_type}"
NO_DISTANCE: Final = sql.SQL("NULL::float8")

# Both legs in one round trip, and whether the index has all chunks.
HYBRID = """
SELECT leg.*, coalesce(
    (SELECT is_adopted AND NOT EXISTS (SELECT FROM {table}
                                       WHERE {table}.{vector_store_id} = {store} AND {table}.seq > indexed_seq)
     FROM keyword_stores AS indexed WHERE indexed.vector_store_id = {store}), false) AS is_indexed
FROM (
    (SELECT nearest.*, NULL::float8 AS text_score FROM ({nearest}) AS nearest)
    UNION ALL
    ({worded})
) AS leg
"""


# What the statements are given besides a question, its vector and a limit.
BOUNDS: Final = {"characters": MAX_QUESTION_CHARACTERS, "max_terms": MAX_TERMS, "max_postings": MAX_POSTINGS}


def worded(
    table: ChunkTable,
    names: Mapping[str, sql.Composable],
    condition: sql.Composable,
    *,
    distance: sql.Composable = NO_DISTANCE,
) -> sql.Composed:
    """The chunks of a store that have most of a question's words, the best first."""
    return sql.SQL(WORDED).format(**names, condition=condition, distance=distance, id_type=id_type(table))


def both(
    table: ChunkTable, names: Mapping[str, sql.Composable], condition: sql.Composable, *, nearest: sql.Composable
) -> sql.Composed:
    """What is nearest, as another statement finds it, and what has most of the words: up to a limit of each."""
    distance = sql.SQL(DISTANCE).format(**names)
    return sql.SQL(HYBRID).format(
        **names,
        nearest=nearest,
        worded=worded(table, names, condition, distance=distance),
    )
