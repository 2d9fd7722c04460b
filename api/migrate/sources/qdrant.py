"""A Qdrant server, by its scroll API. The position is the id of the point that comes next.

A snapshot, which only Qdrant reads, is recovered by a server into a collection that is there for that time.
"""

import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from api.errors import ApiError, ConfigurationError
from api.migrate.fields import Fields, Kind, guess, kind_of, read_record
from api.migrate.http import Service
from api.migrate.progress import say
from api.migrate.records import Batch, Record, StoreSettings, rows_of
from api.migrate.sources.files import file_identity

LOOKED_AT_POINTS = 50
DONE = "done"  # instead of a position: the scroll was at its end
STAMP: Final = re.compile(r"-\d+-\d{4}(-\d\d){5}$")  # what Qdrant puts behind the collection's name: peer and time


class QdrantCollection:
    """The points of one collection; what is not the text in a payload is metadata."""

    def __init__(self, service: Service, name: str, *, fields: Fields, vector: str | None, row_bytes: int) -> None:
        self._service = service
        self._name = name
        self._fields = fields
        self._vector = vector
        self._row_bytes = row_bytes
        self.store = StoreSettings(name=name)
        self.shown = f"collection {name!r} of Qdrant at {service.base_url}"
        self.identity = f"{service.base_url} {name}"

    @property
    def reading(self) -> dict[str, str]:
        vector = {"vector": self._vector or "vector"} if self.has_vectors else {}
        metadata = {} if self._fields.metadata or self._fields.attributes else {"metadata": "the rest of the payload"}
        return {**self._fields.shown, **vector, **metadata}

    @property
    def has_vectors(self) -> bool:
        return self._fields.vector is not None

    async def count(self) -> int | None:
        answer = await self._service.post(f"/collections/{quote(self._name, safe='')}/points/count", {"exact": True})
        return answer["result"]["count"]

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        offset = position
        limit = rows_of(self._row_bytes)
        while offset != DONE:
            points, following = await scroll(self._service, self._name, offset=offset, limit=limit)
            offset = DONE if following is None else following
            yield Batch([self._record(point) for point in points], offset)

    def _record(self, point: dict[str, Any]) -> Record:
        payload: dict[str, Any] = point.get("payload") or {}
        record = read_record(row_of(point, self._vector), self._fields)
        if self._fields.metadata or self._fields.attributes:
            return record
        rest = {name: value for name, value in payload.items() if name not in self._fields.named.values()}
        return record._replace(metadata=rest or None)


async def open_collections(service: Service, wanted: Fields, *, collection: str | None) -> list[QdrantCollection]:
    """One source a collection.

    Raises:
        ConfigurationError: there is no such collection, or several vectors a point.
    """
    answer = await service.get("/collections")
    names = sorted(one["name"] for one in answer["result"]["collections"])
    chosen = [name for name in names if collection in (None, name)]
    if not chosen:
        raise ConfigurationError(
            f"Qdrant has no collection {collection!r}; it has {', '.join(map(repr, names)) or 'none'}."
        )
    return [await _open(service, name, wanted) for name in chosen]


@asynccontextmanager
async def recovered(service: Service, snapshot: Path, wanted: Fields) -> AsyncGenerator[QdrantCollection]:
    """A snapshot as a source: the order of its points is the same whichever server has recovered it.

    Raises:
        ConfigurationError: its points have several vectors.
        ServiceRefused: the server cannot recover it.
    """
    identity = file_identity(snapshot)
    name = f"quiver-migrate-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    path = f"/collections/{name}"
    try:
        await service.upload(f"{path}/snapshots/upload", "snapshot", snapshot, priority="snapshot", wait="true")
        collection = await _open(service, name, wanted)
        collection.store = StoreSettings(name=STAMP.sub("", snapshot.stem))
        collection.shown, collection.identity = f"snapshot {snapshot}", identity
        yield collection
    finally:
        try:
            await service.delete(path)
        except ApiError as error:
            say(f"Collection {name!r} may still be in Qdrant: {error.message}")


async def scroll(service: Service, name: str, *, offset: Any, limit: int) -> tuple[list[dict[str, Any]], Any]:
    """Some points in the order of their ids, and the id that comes next."""
    body = {"limit": limit, "offset": offset, "with_payload": True, "with_vector": True}
    answer = await service.post(f"/collections/{quote(name, safe='')}/points/scroll", body)
    return answer["result"]["points"], answer["result"].get("next_page_offset")


def row_of(point: Mapping[str, Any], vector: str | None) -> dict[str, Any]:
    """A point as a row: its payload's fields beside `id` and `vector`, which are the point's own."""
    vectors = point.get("vector")
    named = cast("dict[str, Any]", vectors) if isinstance(vectors, dict) else {}
    return {**(point.get("payload") or {}), "id": point["id"], "vector": named.get(vector or "", vectors)}


@asynccontextmanager
async def connected(url: str, api_key: str | None) -> AsyncGenerator[Service]:
    service = Service(url, name="Qdrant", headers={"api-key": api_key} if api_key else {})
    try:
        yield service
    finally:
        await service.close()


async def _open(service: Service, name: str, wanted: Fields) -> QdrantCollection:
    points, _ = await scroll(service, name, offset=None, limit=LOOKED_AT_POINTS)
    vector = _vector_name(points, name, wanted.vector)
    columns: dict[str, Kind] = {}
    for point in points:
        for field, value in row_of(point, vector).items():
            if value is not None:
                columns.setdefault(field, kind_of(value))
    # The whole payload is metadata, unless it was said otherwise.
    fields = guess(columns or {"id": "number", "text": "text"}, replace(wanted, vector=None), what=f"{name!r}")
    fields = replace(fields, metadata=wanted.metadata, attributes=wanted.attributes)
    row_bytes = len(str(points[0])) if points else 1000
    return QdrantCollection(service, name, fields=fields, vector=vector, row_bytes=row_bytes)


def _vector_name(points: list[dict[str, Any]], collection: str, wanted: str | None) -> str | None:
    """Which of a point's vectors is meant; None where it has one without a name."""
    vectors = points[0].get("vector") if points else None
    if not isinstance(vectors, dict):
        return None
    names = [
        name for name, value in cast("dict[str, Any]", vectors).items() if isinstance(value, list)
    ]  # a sparse one is a map
    if wanted in names:
        return wanted
    if wanted is not None or len(names) != 1:
        raise ConfigurationError(
            f"The points of {collection!r} have the vectors {', '.join(map(repr, names))}; name one with --vector."
        )
    return names[0]
