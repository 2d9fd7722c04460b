"""A whole search in one statement: what its store is, and which of the store's chunks answer.

What a search must know of its store before that, the model that embeds its question and the indexes, is remembered from
the search before and checked by what comes back with the chunks. Nothing is answered or refused from memory alone.
"""

import contextlib
import dataclasses
import functools
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString, TypedDict, TypeVar, cast

from psycopg import AsyncCursor, AsyncRawCursor, sql
from psycopg import errors as pg
from psycopg.rows import DictRow, dict_row

from api.field_mapping import ChunkTable
from api.schemas import Filter
from api.tables import keyword_search, scope, vector_search, vector_stores
from api.tables.chunks import statement_names, storable, typed_id
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.scope import Kind, Scope
from api.tables.vector_index import SEGMENTS, Segment, read_segments
from api.tables.vector_search import Nearest, compile_condition
from api.wire import Vector

MAX_KNOWN: Final = 10_000  # stores, of a few hundred bytes each
TOUCH_SECONDS: Final = 60  # and in STORE

K = TypeVar("K")
V = TypeVar("V")
Leg = Literal["vector", "keyword", "both"]

# Expiry counts days: a store that is searched all the time is marked as active once a minute.
STORE = f"""
SELECT embedding_model AS model, embedding_dimension AS dimension, ({SEGMENTS}) AS segments,
       status = 'expired' OR coalesce(expires_at <= now(), false) AS is_expired,
       last_active_at IS NULL OR last_active_at < now() - interval '60 seconds' AS is_idle
FROM vector_stores
WHERE id = %(vector_store_id)s AND {{visible}}
"""  # noqa: S608  # only constants are put together

# The attributes as text: most leave as they are. Without a chunk the store's row comes alone. With OFFSET the store is
# looked at once, and not for every chunk.
SEARCH_STORE = f"""
SELECT quiver_store.*, found.id, found.file_id, found.filename, found.attributes::text AS attributes, found.text,
       found.distance, {{scores}}
FROM ({STORE} OFFSET 0) AS quiver_store
LEFT JOIN LATERAL ({{legs}}) AS found ON true
"""  # noqa: S608

# Stands in the legs and not around them, so that a search that is to be refused scans nothing and compares no vectors
# of different dimensions.
IS_SEARCHABLE: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
    "keyword": "NOT quiver_store.is_expired",
    "both": "NOT quiver_store.is_expired AND quiver_store.dimension = %(dimension)s",
}

PLACEHOLDER: Final = re.compile(r"%(?:%|\((?P<name>\w+)\)[sbt])")

_SCORES: Final[Mapping[Leg, LiteralString]] = {
    "vector": "NULL::float8 AS text_score, false AS is_indexed",
    "keyword": "found.text_score, false AS is_indexed",
    "both": "found.text_score, found.is_indexed",
}


@dataclass(frozen=True)
class Store:
    """What a search has to know of its store."""

    model: str | None
    dimension: int | None
    segments: tuple[Segment, ...]
    is_expired: bool
    is_idle: bool  # and to be marked as active


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
class Asked:
    """One question of a search: its text where words are asked for, its vector where vectors are."""

    text: str | None
    query: Vector | None


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

    def find(self, scope: Scope, id: str) -> Store | None:
        return self._stores.get((scope, id))

    def remember(self, scope: Scope, id: str, store: Store | None) -> None:
        """Take note of the store as it is, or of there being none."""
        if store is None:
            self._stores.pop((scope, id), None)
        else:
            _put(self._stores, (scope, id), store)

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
    return None if row is None else _store(row)


async def touch(connection: Connection, id: str) -> None:
    """Mark a store as active, on a connection without a transaction. A database that is only read is searched, too."""
    with contextlib.suppress(pg.ReadOnlySqlTransaction, pg.InsufficientPrivilege):
        await vector_stores.touch(connection, id)


async def search(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    leg: Leg,
    asked: Sequence[Asked],
    *,
    nearest: Nearest,
    filter: Filter | None,
) -> tuple[Store | None, list[list[Match]]]:
    """The store as it is, and up to `nearest.limit` chunks of each leg for each question, in no order.

    Nothing is found where the store has expired or vectors of another dimension. Several questions take one round trip.
    """
    store_id = typed_id(table.vector_store_id, vector_store_id)
    if store_id is None:
        return None, []
    statement, params = compose(table, vector_store_id, leg, nearest, filter, connection.scope.kind)
    params |= {
        **connection.scope.params,
        "vector_store_id": vector_store_id,
        "store": store_id,
        "dimension": nearest.dimension,
        "limit": nearest.limit,
        **keyword_search.BOUNDS,
    }
    # A plan that is kept knows no filter's selectivity, which is what a plan is chosen by.
    prepare = None if filter is None else False
    async with connection.pipeline() if len(asked) > 1 else contextlib.nullcontext():
        cursors = [
            await _execute(connection, statement, params | _params(table, one), prepare=prepare) for one in asked
        ]
        found = [await cursor.fetchall() for cursor in cursors]
    store = _store(found[0][0]) if found[0] else None
    return store, [[cast("Match", row) for row in rows if row["id"] is not None] for rows in found]


def _params(table: ChunkTable, asked: Asked) -> dict[str, object]:
    return {"question": asked.text, "query": None if asked.query is None else storable(table, asked.query)}


async def _execute(
    connection: Connection, statement: Statement, params: Mapping[str, object], *, prepare: bool | None
) -> AsyncCursor[DictRow]:
    cursor = AsyncRawCursor(connection, row_factory=dict_row)
    return await cursor.execute(statement.text, statement.values(params), prepare=prepare, binary=True)


def compose(
    table: ChunkTable, vector_store_id: str, leg: Leg, nearest: Nearest, filter: Filter | None, kind: Kind
) -> tuple[Statement, dict[str, object]]:
    """The same statement for every search of a kind, so that a connection plans it once; and a filter's parameters."""
    # The store is written out only where that proves the predicates of its indexes: the small ones share a statement.
    id = vector_store_id if nearest.segments else None
    if filter is None:
        return _composed(table, id, leg, nearest, None, kind), {}
    condition, params = compile_condition(table, filter)
    nearest = dataclasses.replace(nearest, is_filtered=True)
    return _composed(table, id, leg, nearest, condition.as_string(), kind), params


@functools.lru_cache(maxsize=1000)
def _composed(
    table: ChunkTable, id: str | None, leg: Leg, nearest: Nearest, condition: str | None, kind: Kind
) -> Statement:
    names = statement_names(table, id or "")
    if id is None:
        names["store"] = sql.Placeholder("store")
    compiled = compile_condition(table, None)[0] if condition is None else sql.SQL(cast("LiteralString", condition))
    is_found = sql.SQL("{} AND {}").format(sql.SQL(IS_SEARCHABLE[leg]), compiled)
    match leg:
        case "vector":
            legs = vector_search.compose(table, names, is_found, nearest)
        case "keyword":
            legs = keyword_search.worded(table, names, is_found)
        case "both":
            legs = keyword_search.both(table, names, is_found, nearest)
    visible = scope.condition(VectorStores.TABLE, kind)
    return Statement.of(sql.SQL(SEARCH_STORE).format(scores=sql.SQL(_SCORES[leg]), legs=legs, visible=visible))


def _store(row: dict[str, Any]) -> Store:
    return Store(row["model"], row["dimension"], read_segments(row["segments"]), row["is_expired"], row["is_idle"])
