"""A collection of Qdrant: of a server by its scroll API, or whatever else gives its points in an order."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import quote

from api.errors import ConfigurationError
from api.migrate.fields import Fields, Kind, guess, kind_of, read_record
from api.migrate.http import Service
from api.migrate.records import Batch, Record, StoreSettings, none_found, rows_of

LOOKED_AT_POINTS = 50
DONE = "done"  # instead of a position: the scroll was at its end


class Scrolled(NamedTuple):
    """Points as Qdrant's API has them, and what the next ones are asked for with: None after the last."""

    points: list[dict[str, Any]]
    following: Any


class Points(Protocol):
    """Those of one collection, in an order that stays."""

    @property
    def name(self) -> str: ...

    @property
    def shown(self) -> str: ...

    @property
    def identity(self) -> str: ...

    async def count(self) -> int: ...

    async def scroll(self, offset: Any, limit: int) -> Scrolled: ...


class QdrantCollection:
    """One collection as a source; what is not the text in a payload is metadata."""

    def __init__(self, points: Points, *, fields: Fields, vector: str | None, row_bytes: int) -> None:
        self._points = points
        self._fields = fields
        self._vector = vector
        self._row_bytes = row_bytes
        self.store = StoreSettings(name=points.name)
        self.shown = points.shown
        self.identity = points.identity

    @property
    def reading(self) -> dict[str, str]:
        vector = {"vector": self._vector or "vector"} if self.has_vectors else {}
        metadata = {} if self._fields.metadata or self._fields.attributes else {"metadata": "the rest of the payload"}
        return {**self._fields.shown, **vector, **metadata}

    @property
    def has_vectors(self) -> bool:
        return self._fields.vector is not None

    async def count(self) -> int | None:
        return await self._points.count()

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        offset = position
        limit = rows_of(self._row_bytes)
        while offset != DONE:
            points, following = await self._points.scroll(offset, limit)
            offset = DONE if following is None else following
            yield Batch([self._record(point) for point in points], offset)

    def _record(self, point: dict[str, Any]) -> Record:
        payload: dict[str, Any] = point.get("payload") or {}
        record = read_record(row_of(point, self._vector), self._fields)
        if self._fields.metadata or self._fields.attributes:
            return record
        rest = {name: value for name, value in payload.items() if name not in self._fields.named.values()}
        return record._replace(metadata=rest or None)


class _Served:
    """The points of a server's collection, in the order of their ids."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self._path = f"/collections/{quote(name, safe='')}/points"
        self.name = name
        self.shown = f"collection {name!r} of Qdrant at {service.base_url}"
        self.identity = f"{service.base_url} {name}"

    async def count(self) -> int:
        answer = await self._service.post(f"{self._path}/count", {"exact": True})
        return answer["result"]["count"]

    async def scroll(self, offset: Any, limit: int) -> Scrolled:
        body = {"limit": limit, "offset": offset, "with_payload": True, "with_vector": True}
        answer = await self._service.post(f"{self._path}/scroll", body)
        return Scrolled(answer["result"]["points"], answer["result"].get("next_page_offset"))


async def open_collections(service: Service, wanted: Fields, *, collection: str | None) -> list[QdrantCollection]:
    """One source a collection.

    Raises:
        ConfigurationError: there is no such collection, or several vectors a point.
    """
    answer = await service.get("/collections")
    names = sorted(one["name"] for one in answer["result"]["collections"])
    chosen = [name for name in names if collection in (None, name)]
    if not chosen:
        raise none_found("Qdrant has", "collection", collection, names)
    return [await open_collection(_Served(service, name), wanted) for name in chosen]


def row_of(point: Mapping[str, Any], vector: str | None) -> dict[str, Any]:
    """A point as a row: its payload's fields beside `id` and `vector`, which are the point's own."""
    vectors = point.get("vector")
    named = cast("dict[str, Any]", vectors) if isinstance(vectors, dict) else {}
    return {**(point.get("payload") or {}), "id": point["id"], "vector": named.get(vector or "", vectors)}


@asynccontextmanager
async def connected(url: str, api_key: str | None) -> AsyncGenerator[Service]:
    service = Service(url, name=f"Qdrant at {url}", headers={"api-key": api_key} if api_key else {})
    try:
        yield service
    finally:
        await service.close()


async def open_collection(points: Points, wanted: Fields) -> QdrantCollection:
    """What is what in the points is told from the first of them.

    Raises:
        ConfigurationError: they have several vectors, and `wanted` names none.
    """
    first, _ = await points.scroll(None, LOOKED_AT_POINTS)
    vector = _vector_name(first, points.name, wanted.vector)
    columns: dict[str, Kind] = {}
    for point in first:
        for field, value in row_of(point, vector).items():
            if value is not None:
                columns.setdefault(field, kind_of(value))
    # The whole payload is metadata, unless it was said otherwise.
    fields = guess(columns or {"id": "number", "text": "text"}, replace(wanted, vector=None), what=f"{points.name!r}")
    left_out = fields.left_out if wanted.metadata or wanted.attributes else ()
    fields = replace(fields, metadata=wanted.metadata, attributes=wanted.attributes, left_out=left_out)
    row_bytes = len(str(first[0])) if first else 1000
    return QdrantCollection(points, fields=fields, vector=vector, row_bytes=row_bytes)


def _vector_name(points: list[dict[str, Any]], collection: str, wanted: str | None) -> str | None:
    """Which of a point's vectors is meant; None where it has one without a name."""
    vectors = points[0].get("vector") if points else None
    if not isinstance(vectors, dict):
        return None
    found = cast("dict[str, Any]", vectors)
    names = sorted(name for name, value in found.items() if isinstance(value, list))  # a sparse one is a map
    if wanted in names:
        return wanted
    if wanted is not None or len(names) != 1:
        raise ConfigurationError(
            f"The points of {collection!r} have the vectors {', '.join(map(repr, names))}; name one with --vector."
        )
    return names[0]
