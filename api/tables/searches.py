"""A whole search in one statement: what its store is, and which of the store's chunks answer.

What a search must know of its store before that, the model that embeds its question, is remembered from the search
before and checked by what comes back with the chunks. No answer is given, and none refused, from memory alone.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, LiteralString, TypedDict, cast

import orjson
from psycopg import sql

from api.field_mapping import ChunkTable
from api.schemas import Filter
from api.tables import keyword_search, scope, vector_search
from api.tables.chunks import statement_names, storable, typed_id
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.scope import Kind
from api.tables.vector_index import Segment
from api.tables.vector_search import Indexes, compile_condition
from api.wire import Vector

MAX_KNOWN: Final = 10_000  # stores, of a few hundred bytes each

Leg = Literal["vector", "keyword", "both"]

# Expiry counts days: a store that is searched all the time is marked as active once a minute.
STORE = """
SELECT embedding_model AS model, embedding_dimension AS dimension,
       status = 'expired' OR coalesce(expires_at <= now(), false) AS is_expired,
       last_active_at IS NULL OR last_active_at < now() - make_interval(secs => 60) AS is_idle,
       indexed.segments
FROM vector_stores
CROSS JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_array(after_seq, until_seq) ORDER BY until_seq)::text AS segments
    FROM vector_indexes WHERE vector_store_id = vector_stores.id AND is_ready
) AS indexed
WHERE vector_stores.id = %(vector_store_id)s AND {visible}
"""

# The attributes as text: most leave as they are. Without a chunk the store's row comes alone.
SEARCH_STORE = f"""
SELECT quiver_store.*, found.id, found.file_id, found.filename, found.attributes::text AS attributes, found.text,
       found.distance, {{scores}}
FROM ({STORE}) AS quiver_store
LEFT JOIN LATERAL ({{legs}}) AS found ON true
"""  # noqa: S608

# Stands in the legs and not around them, so that a search that is to be refused scans nothing and compares no vectors
# of different dimensions.
IS_SEARCHABLE: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
    "keyword": "NOT quiver_store.is_expired",
    "both": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
}

_SCORES: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NULL::float8 AS text_score, false AS is_indexed",
    "keyword": "found.text_score, false AS is_indexed",
    "both": "found.text_score, found.is_indexed",
}


@dataclass(frozen=True)
class Store:
    """What a search has to know of its store.

    The indexes may be others by now: a search with those of a moment ago is slower for once, and as right.
    """

    id: str
    model: str | None
    dimension: int | None
    is_expired: bool
    is_idle: bool  # and to be marked as active
    segments: tuple[Segment, ...] = ()  # that have an index


class Match(TypedDict):
    """A chunk that a leg found: by its vector if it has no `text_score`, by its words otherwise.

    `distance` is the cosine distance, 0 to 2, and None for want of a query's vector; `text_score` the share of what
    BM25 could give at most.
    """

    id: str
    file_id: str | None
    filename: str | None
    attributes: str | None  # JSON: a map, or whatever else a table of somebody else's has there
    text: str
    distance: float | None
    text_score: float | None
    is_indexed: bool


@dataclass(frozen=True)
class Search:
    """What is sought, whatever the questions: up to `limit` chunks of each leg."""

    leg: Leg
    filter: Filter | None
    limit: int
    ef_search: int | None = None  # candidates of an index; None: as many as the limit needs


@dataclass(frozen=True)
class Asked:
    """One question of a search: its text where words are asked for, its vector where vectors are."""

    text: str | None
    query: Vector | None


class KnownStores:
    """The stores searched last, as they were then. One for a process."""

    def __init__(self) -> None:
        self._stores: OrderedDict[str, Store] = OrderedDict()

    def find(self, id: str) -> Store | None:
        return self._stores.get(id)

    def remember(self, id: str, store: Store) -> None:
        self._stores[id] = store
        self._stores.move_to_end(id)
        if len(self._stores) > MAX_KNOWN:
            self._stores.popitem(last=False)

    def forget(self, id: str) -> None:
        self._stores.pop(id, None)


async def find_store(connection: Connection, id: str) -> Store | None:
    row = await (await scope.execute(connection, VectorStores.TABLE, STORE, {"vector_store_id": id})).fetchone()
    return None if row is None else _store(id, row)


async def search(
    connection: Connection,
    table: ChunkTable,
    known: Store,
    search: Search,
    asked: Sequence[Asked],
) -> tuple[Store | None, list[list[Match]]]:
    """The store as it is, and the chunks of each leg for each question, in no order.

    Nothing is found where the store has expired or vectors of another dimension. Several questions take one round trip.
    """
    store_id = typed_id(table.vector_store_id, known.id)
    if store_id is None:
        return None, []
    if any(one.query is not None and len(one.query) != known.dimension for one in asked):
        known = replace(known, segments=())  # what the store is by now decides, and the indexes could not be asked
    text, params = statement(table, known, search, connection.scope.kind)
    params |= {
        **connection.scope.params,
        "vector_store_id": known.id,
        "store": store_id,
        "limit": search.limit,
        **keyword_search.BOUNDS,
    }
    if len(asked) == 1:
        answers = [await _execute(connection, table, text, params, asked[0], prepare=search.filter is None)]
    else:
        async with connection.pipeline():
            answers = [await _execute(connection, table, text, params, one, prepare=False) for one in asked]
    found = [cast("list[dict[str, Any]]", await answer.fetchall()) for answer in answers]
    store = _store(known.id, found[0][0]) if found[0] else None
    return store, [[cast("Match", row) for row in rows if row["id"] is not None] for rows in found]


async def _execute(
    connection: Connection,
    table: ChunkTable,
    text: bytes,
    params: dict[str, object],
    asked: Asked,
    *,
    prepare: bool,
) -> Any:
    own: dict[str, object] = {"question": asked.text}
    if asked.query is not None:
        own |= {"query": storable(table, asked.query), "dimension": asked.query.size}
    # A plan that is kept knows no filter's selectivity, which is what a plan is chosen by.
    return await connection.execute(text, params | own, prepare=None if prepare else False, binary=True)


def statement(table: ChunkTable, known: Store, search: Search, kind: Kind) -> tuple[bytes, dict[str, object]]:
    """The text of a search and its filter's parameters.

    Of stores without an index the text is the same for every search of a kind, so that a connection plans it once.
    """
    through = None
    if known.segments and known.dimension is not None and search.leg != "keyword":
        through = Indexes(known.id, known.dimension, known.segments, search.limit, search.ef_search)
    if search.filter is None:
        return _unfiltered(table, search.leg, through, kind), {}
    condition, params = compile_condition(table, search.filter)
    legs = _compose(table, search.leg, condition, through, is_filtered=True)
    return _around(legs, search.leg, kind), params


@functools.lru_cache(MAX_KNOWN)
def _unfiltered(table: ChunkTable, leg: Leg, through: Indexes | None, kind: Kind) -> bytes:
    legs = _compose(table, leg, compile_condition(table, None)[0], through, is_filtered=False)
    return _around(legs, leg, kind)


def _around(legs: sql.Composable, leg: Leg, kind: Kind) -> bytes:
    visible = scope.condition(VectorStores.TABLE, kind)
    return sql.SQL(SEARCH_STORE).format(scores=sql.SQL(_SCORES[leg]), legs=legs, visible=visible).as_bytes()


def _compose(
    table: ChunkTable, leg: Leg, condition: sql.Composable, through: Indexes | None, *, is_filtered: bool
) -> sql.Composable:
    condition = sql.SQL("{} AND {}").format(sql.SQL(IS_SEARCHABLE[leg]), condition)
    names = statement_names(table, "") | {"store": sql.Placeholder("store"), "limit": sql.Placeholder("limit")}
    if through is None:
        nearest = vector_search.exactly(names, condition)
    else:
        nearest = vector_search.through_indexes(table, condition, through, is_filtered=is_filtered)
    match leg:
        case "vector":
            return nearest
        case "keyword":
            return keyword_search.worded(table, names, condition)
        case "both":
            return keyword_search.both(table, names, condition, nearest=nearest)


def _store(id: str, row: dict[str, Any]) -> Store:
    return Store(id, row["model"], row["dimension"], row["is_expired"], row["is_idle"], _segments(row["segments"]))


@functools.lru_cache(MAX_KNOWN)
def _segments(text: str | None) -> tuple[Segment, ...]:
    return () if text is None else tuple(Segment(after, until) for after, until in orjson.loads(text))
