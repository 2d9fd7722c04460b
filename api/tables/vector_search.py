"""Search of one store by vector: through its indexes where it has some, exactly everywhere else.

A store is searched in parts, in one statement: each segment through its index, and exactly what lies between and behind
them. Together the parts are the whole store, whatever the indexes are: one that is not there makes its part slow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from api.field_mapping import ChunkTable
from api.filters import FilterCompiler
from api.schemas.filters import Filter
from api.tables.chunks import statement_names
from api.tables.vector_index import Segment, in_segment, indexed_vector

MIN_EF_SEARCH: Final = 100  # of a search without a filter; twice as many with one, whose results lie further apart
MAX_EF_SEARCH: Final = 1000  # pgvector's

# With a filter an index is read on in an order that is only roughly that of the distances, until enough was found:
# three times the results have the best of them. Below a share of 1 % it would have to be read too far, and misses some.
OVER_FETCH: Final = 3
MIN_SHARE: Final = 0.02
SCANNED: Final = 2_000  # chunks at most, for each result
CANDIDATE_COST: Final = 3  # of a candidate of an index, where a chunk that is looked up and compared costs 1

NEAREST = """
SELECT {id}::text AS id, {file_id} AS file_id, {filename} AS filename, {metadata} AS attributes,
       coalesce({content}, '') AS text, nearest.distance
FROM ({parts}) AS nearest
JOIN {table} ON {table}.ctid = nearest_row AND {table}.tableoid = nearest_table
ORDER BY nearest.distance, id
"""

QUERY = "%(query)b::{vector_type}"

# Adding 0 keeps an index on the vectors out of it: one that covers all stores would find the neighbours of the whole
# table, of which few may be this store's. The chunks are compared one by one instead, which is exact.
# Only places and distances are sorted; the texts are fetched for the few that win.
EXACT = """
SELECT tableoid AS nearest_table, ctid AS nearest_row, ({embedding} <=> {query}) + 0 AS distance
FROM {table}
WHERE {vector_store_id} = {store} AND {part} AND {condition}
ORDER BY distance
LIMIT {limit}
"""

# Each segment through its index, and exactly where that finds too few, and what lies between and behind the segments.
IN_PARTS = """
{tables}
SELECT * FROM ({parts}) AS part
ORDER BY distance
LIMIT {limit}
"""

# The settings must be there before an index is opened, and are: a segment is looked up for the row that they are. They
# hold for the transaction, so that they reach nobody else through a pooler.
TUNED = """
SELECT set_config('hnsw.ef_search', {ef_search}, true) || set_config('hnsw.iterative_scan', 'relaxed_order', true)
    || set_config('hnsw.max_scan_tuples', {scanned}, true) || set_config('hnsw.scan_mem_multiplier', '8', true)
    AS settings
"""

# A part, if it has any chunks. The planner takes the numbers of all stores for this one's, and where it believes in
# many chunks behind the segments it looks a filter up in the whole table, for a part that mostly is empty.
UNLESS_EMPTY = """
{part} AND (SELECT TRUE FROM {table} WHERE {vector_store_id} = {store} AND {part} ORDER BY seq LIMIT 1)
"""

# The condition stands outside, behind OFFSET 0, where the planner takes no account of it: the index is read whatever
# the filter is, so that one plan is good for all its values.
INDEXED = """
SELECT found.* FROM tuned CROSS JOIN LATERAL (
    SELECT nearest_table, nearest_row, {embedding} <=> {query} AS distance
    FROM (
        SELECT tableoid AS nearest_table, ctid AS nearest_row, {embedding}, {metadata}
        FROM {table}
        WHERE {vector_store_id} = {store} AND {part} AND tuned.settings IS NOT NULL
        ORDER BY {indexed} <=> {indexed_query}
        OFFSET 0
    ) AS in_order
    WHERE {condition}
    LIMIT {fetched}
) AS found
"""


@dataclass(frozen=True)
class Indexes:
    """Those of one store, and how they are to be searched."""

    vector_store_id: str
    dimension: int
    segments: tuple[Segment, ...]
    limit: int
    ef_search: int | None = None  # None: as many as the limit needs
    is_looked_up: bool = False  # what fits the filter is looked up and compared, and no index on vectors read


def compile_condition(
    table: ChunkTable, filter: Filter | None, *, is_plan_kept: bool = False
) -> tuple[sql.Composable, dict[str, object]]:
    """Which of a store's chunks may be found, and the parameters of that."""
    compiler = FilterCompiler(table.metadata_as_jsonb, is_plan_kept=is_plan_kept)
    condition: sql.Composable = sql.SQL("TRUE") if filter is None else compiler.compile(filter)
    if table.embedding.is_nullable:
        condition = sql.SQL("{} AND {} IS NOT NULL").format(condition, table.names["embedding"])
    return condition, compiler.params


def exactly(names: Mapping[str, sql.Composable], condition: sql.Composable) -> sql.Composed:
    """The chunks nearest to `%(query)s` by cosine distance, nearest first, every chunk compared."""
    sought = {**names, "condition": condition, "query": sql.SQL(QUERY).format(**names)}
    return sql.SQL(NEAREST).format(**names, parts=sql.SQL(EXACT).format(**sought, part=sql.SQL("TRUE")))


def through_indexes(
    table: ChunkTable, condition: sql.Composable, indexes: Indexes, *, is_filtered: bool
) -> sql.Composed:
    """The same, through the indexes that there are. Store and limit are part of the statement."""
    names = {
        **statement_names(table, indexes.vector_store_id),
        "condition": condition,
        "limit": sql.Literal(indexes.limit),
    }
    names["query"] = sql.SQL(QUERY).format(**names)
    names |= {
        "ef_search": sql.Literal(str(indexes.ef_search or usual_ef_search(indexes.limit, is_filtered=is_filtered))),
        "scanned": sql.Literal(str(SCANNED * max(indexes.limit, 10))),
        "fetched": sql.Literal(indexes.limit * (OVER_FETCH if is_filtered else 1)),
        "indexed": indexed_vector(table, names["embedding"], indexes.dimension),
        "indexed_query": indexed_vector(table, names["query"], indexes.dimension),
    }
    parts = _in_parts(names, indexes, is_filtered=is_filtered)
    return sql.SQL(NEAREST).format(**names, parts=parts)


def usual_ef_search(limit: int, *, is_filtered: bool) -> int:
    unfiltered = max(MIN_EF_SEARCH, 2 * limit)
    return min(unfiltered * (2 if is_filtered else 1), MAX_EF_SEARCH)


def is_looked_up(share: float, *, chunks: float, segments: int, limit: int) -> bool:
    """Whether it costs less to compare the share of so many chunks that fits a filter than to read the indexes on.

    The fewer fit, the fewer are compared and the further an index is read until it has enough that do.
    """
    if share < MIN_SHARE:
        return True
    candidates = segments * max(usual_ef_search(limit, is_filtered=True), limit * OVER_FETCH / share)
    return share * chunks < CANDIDATE_COST * candidates


def _in_parts(names: Mapping[str, sql.Composable], indexes: Indexes, *, is_filtered: bool) -> sql.Composed:
    segments = disjoint(indexes.segments)
    tables: dict[str, sql.Composable] = {}
    parts: list[sql.Composable] = []
    if indexes.is_looked_up:
        parts += [sql.SQL(EXACT).format(**names, part=in_segment(one.after, one.until)) for one in segments]
    else:
        tables["tuned"] = sql.SQL(TUNED).format(**names)
        for number, segment in enumerate(segments):
            part, found = in_segment(segment.after, segment.until), f"segment_{number}"
            tables[found] = sql.SQL(INDEXED).format(**names, part=part)
            enough = sql.SQL("(SELECT count(*) FROM {}) >= {}").format(sql.Identifier(found), names["fetched"])
            parts.append(sql.SQL("SELECT * FROM {} WHERE {}").format(sql.Identifier(found), enough))
            parts.append(sql.SQL(EXACT).format(**names, part=sql.SQL("{} AND NOT {}").format(part, enough)))
    remaining = remaining_parts(segments)
    if is_filtered:
        remaining = [sql.SQL(UNLESS_EMPTY).format(**names, part=part) for part in remaining]
    parts += [sql.SQL(EXACT).format(**names, part=part) for part in remaining]
    materialized = [sql.SQL("{} AS MATERIALIZED ({})").format(sql.Identifier(name), tables[name]) for name in tables]
    return sql.SQL(IN_PARTS).format(
        **names,
        tables=sql.SQL("WITH {}").format(sql.SQL(", ").join(materialized)) if tables else sql.SQL(""),
        parts=sql.SQL(" UNION ALL ").join(sql.SQL("({})").format(part) for part in parts),
    )


def disjoint(segments: Iterable[Segment]) -> list[Segment]:
    """The segments in order, without those that begin before another's end: no chunk is found twice."""
    numbered = [segment for segment in segments if segment.until is not None]
    kept = [segment for segment in segments if segment.until is None][:1]
    end: int | None = None
    for segment in sorted(numbered, key=lambda segment: segment.until or 0):
        if end is None or (segment.after is not None and segment.after >= end):
            kept.append(segment)
            end = segment.until
    return kept


def remaining_parts(segments: Sequence[Segment]) -> list[sql.Composable]:
    """The parts of the store that none of the segments has."""
    numbered = [segment for segment in segments if segment.until is not None]
    parts: list[sql.Composable] = [] if len(numbered) < len(segments) else [sql.SQL("seq IS NULL")]
    end: int | None = None
    for segment in numbered:
        if segment.after != end:
            parts.append(in_segment(end, segment.after))
        end = segment.until
    parts.append(sql.SQL("seq IS NOT NULL") if end is None else sql.SQL("seq > {}").format(sql.Literal(end)))
    return parts
