"""A whole search in one statement: what its store is, and which of the store's chunks answer.

What a search must know of its store before that, the model that embeds its question, is remembered from the search
before and checked by what comes back with the chunks. No answer is given, and none refused, from memory alone.
"""

import contextlib
import functools
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, LiteralString, NamedTuple, TypeVar

import orjson
from psycopg import AsyncRawCursor, sql
from psycopg import errors as pg

from api.field_mapping import ChunkTable
from api.schemas.filters import Filter
from api.sparse import Weights
from api.tables import keyword_search, scope, sparse_search, vector_search, vector_stores
from api.tables.chunks import statement_names, storable, typed_id
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.filter_samples import FilterSamples, Sample
from api.tables.scope import Kind, Scope
from api.tables.sparse_index import storable as storable_weights
from api.tables.vector_index import Segment
from api.tables.vector_search import Indexes, compile_condition
from api.vectors import Vector

MAX_KNOWN: Final = 10_000  # stores, of a few hundred bytes each
TOUCH_SECONDS: Final = 60  # and in STORE
PLACEHOLDER: Final = re.compile(r"%(?:%|\((?P<name>\w+)\)[sbt])")

K = TypeVar("K")
V = TypeVar("V")

Leg = Literal["vector", "keyword", "sparse", "both", "all"]  # both: vector and keyword

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
SELECT found.id, found.file_id, found.filename, found.attributes::text AS attributes, found.text, found.distance,
       {{scores}}, quiver_store.*
FROM ({STORE}) AS quiver_store
LEFT JOIN LATERAL ({{legs}}) AS found ON true
"""  # noqa: S608

# Stands in the legs and not around them, so that a search that is to be refused scans nothing and compares no vectors
# of different dimensions.
IS_SEARCHABLE: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
    "keyword": "NOT quiver_store.is_expired",
    "sparse": "NOT quiver_store.is_expired",
    "both": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
    "all": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
}

_SCORES: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NULL::float8 AS text_score, NULL::float8 AS sparse_score, false AS is_indexed",
    "keyword": "found.text_score, NULL::float8 AS sparse_score, false AS is_indexed",
    "sparse": "found.text_score, found.sparse_score, false AS is_indexed",
    "both": "found.text_score, NULL::float8 AS sparse_score, found.is_indexed",
    "all": "found.text_score, found.sparse_score, found.is_indexed",
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


class Match(NamedTuple):
    """A chunk that a leg found, as `SEARCH_STORE` has it: by its words if it has a `text_score`, else by a vector.

    `distance` is the cosine distance, 0 to 2, and None for want of a query's vector; `text_score` the share of what
    BM25 could give at most; `sparse_score`, of whatever leg found it, None where it has nothing of the question. Behind
    them stands what the chunk's store is.
    """

    id: str
    file_id: str | None
    filename: str | None
    attributes: str | None  # JSON: a map, or whatever else a table of somebody else's has there
    text: str
    distance: float | None
    text_score: float | None
    sparse_score: float | None
    is_indexed: bool
    model: str | None
    dimension: int | None
    is_expired: bool
    is_idle: bool
    segments: str | None

    @property
    def has_chunk(self) -> bool:
        """Whether it is one: where no chunk is found, the store comes alone."""
        return self.id is not None  # pyright: ignore[reportUnnecessaryComparison]  # which is not a match


@dataclass(frozen=True)
class Search:
    """What is sought, whatever the questions: up to `limit` chunks of each leg."""

    leg: Leg
    filter: Filter | None
    limit: int
    ef_search: int | None = None  # candidates of an index; None: as many as the limit needs
    sample: Sample | None = None  # of the filter; None: the chunks that it fits are compared one by one
    sparse_model: str | None = None  # that weighed the questions
    max_exact: int = 0  # chunks of a store all of whose sparse vectors are compared


@dataclass(frozen=True)
class Asked:
    """One question of a search: its text where words are asked for, its vectors where they are."""

    text: str | None
    query: Vector | None
    weights: Weights | None = None


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters by number, as PostgreSQL has them: psycopg would look for their names at every search."""

    text: bytes
    names: tuple[str, ...]

    @classmethod
    def of(cls, composed: sql.Composed) -> "Statement":
        numbers: dict[str, int] = {}

        def number(found: re.Match[str]) -> str:
            name = found["name"]
            return "%" if name is None else f"${numbers.setdefault(name, len(numbers) + 1)}"

        text = PLACEHOLDER.sub(number, composed.as_string())
        return cls(text.encode(), tuple(numbers))

    def values(self, params: Mapping[str, object]) -> list[object]:
        return [params[name] for name in self.names]


class KnownStores:
    """The stores searched last, as they were then, each for those who may see it. One for a process."""

    def __init__(self) -> None:
        self._stores: OrderedDict[tuple[Scope, str], Store] = OrderedDict()
        self._touched: OrderedDict[str, float] = OrderedDict()
        self._samples = FilterSamples()

    def find(self, scope: Scope, id: str) -> Store | None:
        return self._stores.get((scope, id))

    def remember(self, scope: Scope, id: str, store: Store | None) -> None:
        """Take note of the store as it is, or of there being none."""
        if store is None:
            self._stores.pop((scope, id), None)
        else:
            _put(self._stores, (scope, id), store)

    async def sampled(self, connection: Connection, table: ChunkTable, known: Store, search: Search) -> Search:
        """The search with a sample of its filter, if one could make a difference."""
        if search.filter is None or not known.segments or search.leg in ("keyword", "sparse"):
            return search
        sample = await self._samples.get(connection, table, known.id, known.segments, search.filter)
        return replace(search, sample=sample)

    def may_touch(self, id: str) -> bool:
        """Whether it is this search's turn to mark the store as active: of all that find it idle, one in a minute."""
        now = time.monotonic()
        if now - self._touched.get(id, -TOUCH_SECONDS) < TOUCH_SECONDS:
            return False
        _put(self._touched, id, now)
        return True


def _put(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_KNOWN:
        known.popitem(last=False)


async def find_store(connection: Connection, id: str) -> Store | None:
    row = await (await scope.execute(connection, VectorStores.TABLE, STORE, {"vector_store_id": id})).fetchone()
    if row is None:
        return None
    return Store(id, row["model"], row["dimension"], row["is_expired"], row["is_idle"], _segments(row["segments"]))


async def touch(connection: Connection, id: str) -> None:
    """Mark a store as active, on a connection without a transaction. A database that is only read is searched, too."""
    with contextlib.suppress(pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege):
        await vector_stores.touch(connection, id)


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
    composed, params = statement(table, known, search, connection.scope.kind)
    params |= {
        **connection.scope.params,
        "vector_store_id": known.id,
        "store": store_id,
        "limit": search.limit,
        "sparse_model": search.sparse_model,
        "max_exact": search.max_exact,
        **keyword_search.BOUNDS,
    }
    # A plan that is kept knows no filter's selectivity, by which one is chosen where a store has no indexes of its own.
    prepare = None if search.filter is None or _indexes(known, search) is not None else False
    all_values = [composed.values(params | _params(table, one)) for one in asked]
    if len(asked) == 1:
        if connection.searches is None:
            connection.searches = _cursor(connection)
        await connection.searches.execute(composed.text, all_values[0], prepare=prepare, binary=True)
        found: list[list[Match]] = [await connection.searches.fetchall()]
    else:
        async with connection.pipeline():
            cursors = [_cursor(connection) for _ in asked]
            for cursor, values in zip(cursors, all_values, strict=True):
                await cursor.execute(composed.text, values, prepare=prepare, binary=True)
            found = [await cursor.fetchall() for cursor in cursors]
    if not found[0]:
        return None, []
    first = found[0][0]
    store = Store(known.id, first.model, first.dimension, first.is_expired, first.is_idle, _segments(first.segments))
    return store, [rows if rows and rows[0].has_chunk else [] for rows in found]


def _params(table: ChunkTable, asked: Asked) -> dict[str, object]:
    own: dict[str, object] = {"question": asked.text}
    if asked.query is not None:
        own |= {"query": storable(table, asked.query), "dimension": asked.query.size}
    if asked.weights is not None:
        own |= {"weights": storable_weights(asked.weights), "square": asked.weights.square}
    return own


def _cursor(connection: Connection) -> AsyncRawCursor[Match]:
    return AsyncRawCursor(connection, row_factory=_matches)


def _matches(_cursor: object) -> Callable[[Sequence[Any]], Match]:
    """Makes matches of rows without a call of Python's for each."""
    return functools.partial(tuple.__new__, Match)  # pyright: ignore[reportUnknownMemberType]


def statement(table: ChunkTable, known: Store, search: Search, kind: Kind) -> tuple[Statement, dict[str, object]]:
    """The text of a search and its filter's parameters.

    Of stores without an index the text is the same for every search of a kind, so that a connection plans it once.
    """
    through = _indexes(known, search)
    if search.filter is None:
        return _unfiltered(table, search.leg, through, kind), {}
    condition, params = compile_condition(table, search.filter, is_plan_kept=through is not None)
    legs = _compose(table, search.leg, condition, through, is_filtered=True)
    return _around(legs, search.leg, kind), params


def _indexes(known: Store, search: Search) -> Indexes | None:
    """Those that the search goes through, if there are any."""
    if not known.segments or known.dimension is None or search.leg in ("keyword", "sparse"):
        return None
    is_looked_up = search.filter is not None and _is_looked_up(search.sample, known, search.limit)
    return Indexes(known.id, known.dimension, known.segments, search.limit, search.ef_search, is_looked_up)


def _is_looked_up(sample: Sample | None, known: Store, limit: int) -> bool:
    return sample is None or vector_search.is_looked_up(
        sample.share, chunks=sample.chunks, segments=len(known.segments), limit=limit
    )


@functools.lru_cache(MAX_KNOWN)
def _unfiltered(table: ChunkTable, leg: Leg, through: Indexes | None, kind: Kind) -> Statement:
    legs = _compose(table, leg, compile_condition(table, None)[0], through, is_filtered=False)
    return _around(legs, leg, kind)


def _around(legs: sql.Composable, leg: Leg, kind: Kind) -> Statement:
    visible = scope.condition(VectorStores.TABLE, kind)
    return Statement.of(sql.SQL(SEARCH_STORE).format(scores=sql.SQL(_SCORES[leg]), legs=legs, visible=visible))


def _compose(
    table: ChunkTable, leg: Leg, condition: sql.Composable, through: Indexes | None, *, is_filtered: bool
) -> sql.Composable:
    condition = sql.SQL("{} AND {}").format(sql.SQL(IS_SEARCHABLE[leg]), condition)
    names = statement_names(table, "") | {"store": sql.Placeholder("store"), "limit": sql.Placeholder("limit")}
    match leg:
        case "keyword":
            return keyword_search.worded(table, names, condition)
        case "sparse":
            return sparse_search.alone(table, names, condition)
        case "vector" | "both" | "all":
            pass
    if through is None:
        nearest = vector_search.exactly(names, condition)
    else:
        nearest = vector_search.through_indexes(table, condition, through, is_filtered=is_filtered)
    if leg == "vector":
        return nearest
    both = keyword_search.both(table, names, condition, nearest=nearest)
    return both if leg == "both" else sparse_search.beside(table, names, condition, both=both)


@functools.lru_cache(MAX_KNOWN)
def _segments(text: str | None) -> tuple[Segment, ...]:
    return () if text is None else tuple(Segment(after, until) for after, until in orjson.loads(text))
