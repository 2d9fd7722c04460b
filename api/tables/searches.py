"""A whole search in one statement: what its store is, and which of the store's chunks answer.

What a search must know of its store before that, the model that embeds its question, is remembered from the search
before and checked by what comes back with the chunks. No answer is given, and none refused, from memory alone.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString, TypedDict, cast

from psycopg import sql

from api.field_mapping import ChunkTable
from api.schemas import Filter
from api.tables import keyword_search, scope
from api.tables.chunks import SEARCH, compile_condition, statement_names, storable, typed_id
from api.tables.columns import VectorStores
from api.tables.database import Connection
from api.tables.scope import Kind
from api.wire import Vector

MAX_KNOWN: Final = 10_000  # stores, of a few hundred bytes each

Leg = Literal["vector", "keyword", "both"]

# Expiry counts days: a store that is searched all the time is marked as active once a minute.
STORE = """
SELECT embedding_model AS model, embedding_dimension AS dimension,
       status = 'expired' OR coalesce(expires_at <= now(), false) AS is_expired,
       last_active_at IS NULL OR last_active_at < now() - make_interval(secs => 60) AS is_idle
FROM vector_stores
WHERE id = %(vector_store_id)s AND {visible}
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
    """What a search has to know of its store."""

    model: str | None
    dimension: int | None
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
    return None if row is None else _store(row)


async def search(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    leg: Leg,
    asked: Sequence[Asked],
    *,
    filter: Filter | None,
    limit: int,
) -> tuple[Store | None, list[list[Match]]]:
    """The store as it is, and up to `limit` chunks of each leg for each question, in no order.

    Nothing is found where the store has expired or vectors of another dimension. Several questions take one round trip.
    """
    store_id = typed_id(table.vector_store_id, vector_store_id)
    if store_id is None:
        return None, []
    text, params = statement(table, leg, filter, connection.scope.kind)
    params |= {
        **connection.scope.params,
        "vector_store_id": vector_store_id,
        "store": store_id,
        "limit": limit,
        **keyword_search.BOUNDS,
    }
    if len(asked) == 1:
        answers = [await _execute(connection, table, text, params, asked[0], prepare=filter is None)]
    else:
        async with connection.pipeline():
            answers = [await _execute(connection, table, text, params, one, prepare=False) for one in asked]
    found = [cast("list[dict[str, Any]]", await answer.fetchall()) for answer in answers]
    store = _store(found[0][0]) if found[0] else None
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


def statement(table: ChunkTable, leg: Leg, filter: Filter | None, kind: Kind) -> tuple[bytes, dict[str, object]]:
    """The same text for every search of a kind, so that a connection plans it once; a filter's parameters."""
    if filter is None:
        return _unfiltered(table, leg, kind), {}
    condition, params = compile_condition(table, filter)
    return _compose(table, leg, condition, kind), params


@functools.cache
def _unfiltered(table: ChunkTable, leg: Leg, kind: Kind) -> bytes:
    return _compose(table, leg, compile_condition(table, None)[0], kind)


def _compose(table: ChunkTable, leg: Leg, condition: sql.Composable, kind: Kind) -> bytes:
    names = statement_names(table, "") | {"store": sql.Placeholder("store")}
    condition = sql.SQL("{} AND {}").format(sql.SQL(IS_SEARCHABLE[leg]), condition)
    match leg:
        case "vector":
            legs = sql.SQL(SEARCH).format(**names, condition=condition)
        case "keyword":
            legs = keyword_search.worded(table, names, condition)
        case "both":
            legs = keyword_search.both(table, names, condition)
    return (
        sql.SQL(SEARCH_STORE)
        .format(scores=sql.SQL(_SCORES[leg]), legs=legs, visible=scope.condition(VectorStores.TABLE, kind))
        .as_bytes()
    )


def _store(row: dict[str, Any]) -> Store:
    return Store(row["model"], row["dimension"], row["is_expired"], row["is_idle"])
