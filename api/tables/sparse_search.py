"""Search by sparse vectors, alone or beside the other legs in one statement.

A store of up to `SPARSE__MAX_EXACT_CHUNKS` has all its vectors compared. In a larger one the sparse vectors order what
is found otherwise: comparing takes 2 to 5 ms for each 1,000 of them (decision 10).
"""

from collections.abc import Mapping
from typing import Final

from psycopg import sql

from api.field_mapping import ChunkTable
from api.tables import keyword_search
from api.tables.chunks import id_type

WORDED_CANDIDATES: Final = 500  # of a search by sparse vectors alone in a large store

CHUNKS = """
(SELECT chunk_count FROM sparse_stores WHERE vector_store_id = {store} AND model = %(sparse_model)s)
"""

# `<#>` is the negative product. The chunks are looked up in the order of their products until enough of them are there
# and fit the filter, so that a deleted one costs a look and not a result; with LIMIT the lookup stays behind the order.
HEAVIEST = """
SELECT living.*, NULL::float8 AS text_score
FROM (
    SELECT chunk_id, seq, weights <#> %(weights)s::sparsevec AS below
    FROM sparse_chunks WHERE vector_store_id = {store} AND {chunks} <= %(max_exact)s
    ORDER BY below
) AS heaviest
CROSS JOIN LATERAL (
    SELECT {table}.{id}::text AS id, {file_id} AS file_id, {filename} AS filename, {metadata} AS attributes,
           coalesce({content}, '') AS text, {distance} AS distance
    FROM (SELECT heaviest.chunk_id, heaviest.seq) AS placed (placed_id, placed_seq)
    JOIN {table} ON {table}.{vector_store_id} = {store} AND {table}.{id} = placed_id::{id_type}
                AND {table}.seq IS NOT DISTINCT FROM placed_seq
    WHERE {condition}
    LIMIT 1
) AS living
WHERE heaviest.below < 0
ORDER BY heaviest.below, heaviest.chunk_id
LIMIT {limit}
"""

# The product as a score in 0..1: a half for a chunk that has as much of the question as the question itself.
WEIGHED = """
SELECT found.*, product / (product + %(square)s) AS sparse_score
FROM ({found}) AS found
LEFT JOIN LATERAL (
    SELECT -(placed_weights <#> %(weights)s::sparsevec) AS product
    FROM (SELECT chunk_id, seq, weights FROM sparse_chunks
          WHERE vector_store_id = {store} AND chunk_id = found.id AND {chunks} IS NOT NULL
         ) AS placed (placed_id, placed_seq, placed_weights)
    JOIN {table} ON {table}.{vector_store_id} = {store} AND {table}.{id} = placed_id::{id_type}
                AND {table}.seq IS NOT DISTINCT FROM placed_seq
    WHERE placed_weights <#> %(weights)s::sparsevec < 0
    LIMIT 1
) AS weighed ON true
"""

# In a large store, what has most of the question's words.
ALONE = """
SELECT weighed.* FROM ({weighed}) AS weighed
WHERE sparse_score IS NOT NULL
ORDER BY sparse_score DESC, id
LIMIT {limit}
"""

FOUND_ALONE = """
(SELECT heaviest.* FROM ({heaviest}) AS heaviest)
UNION ALL
(SELECT worded.* FROM ({worded}) AS worded WHERE {chunks} > %(max_exact)s)
"""

FOUND_BESIDE = """
(SELECT leg.* FROM ({both}) AS leg)
UNION ALL
(SELECT heaviest.*, false AS is_indexed FROM ({heaviest}) AS heaviest)
"""


def alone(table: ChunkTable, names: Mapping[str, sql.Composable], condition: sql.Composable) -> sql.Composed:
    """The chunks of a store whose sparse vectors are nearest to a question's, the best first."""
    worded = keyword_search.worded(table, {**names, "limit": sql.Literal(WORDED_CANDIDATES)}, condition)
    names = _names(table, names)
    found = sql.SQL(FOUND_ALONE).format(
        **names,
        heaviest=_heaviest(names, condition, distance=keyword_search.NO_DISTANCE),
        worded=worded,
    )
    return sql.SQL(ALONE).format(**names, weighed=sql.SQL(WEIGHED).format(**names, found=found))


def beside(
    table: ChunkTable, names: Mapping[str, sql.Composable], condition: sql.Composable, *, both: sql.Composable
) -> sql.Composed:
    """What two other legs find, and the chunks whose sparse vectors are nearest; all with their sparse scores."""
    names = _names(table, names)
    distance = sql.SQL(keyword_search.DISTANCE).format(**names)
    heaviest = _heaviest(names, condition, distance=distance)
    found = sql.SQL(FOUND_BESIDE).format(both=both, heaviest=heaviest)
    return sql.SQL(WEIGHED).format(**names, found=found)


def _names(table: ChunkTable, names: Mapping[str, sql.Composable]) -> dict[str, sql.Composable]:
    return {**names, "id_type": id_type(table), "chunks": sql.SQL(CHUNKS).format(**names)}


def _heaviest(
    names: Mapping[str, sql.Composable], condition: sql.Composable, *, distance: sql.Composable
) -> sql.Composed:
    return sql.SQL(HEAVIEST).format(**names, condition=condition, distance=distance)
