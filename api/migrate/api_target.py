"""Through the API: rows have ids, so that sending them again changes nothing, and a checkpoint follows each batch.

The checkpoint is a file beside the rejected rows. Without it everything is sent again, and nothing is doubled.
"""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import numpy as np
import orjson

from api.errors import ConfigurationError
from api.migrate.checks import Checked
from api.migrate.database_target import advanced
from api.migrate.http import Service, ServiceRefused
from api.migrate.records import Record, Reject, StoreSettings
from api.migrate.target import Kept, Outcome, Prepared, RejectsFile, StoreFacts
from api.tables.migration_checkpoints import Checkpoint
from api.vectors import Vector, Vectors

REQUEST_ROWS: Final = 500
PAGE_ROWS: Final = 100  # the API's limit
LOOKED_UP_ROWS: Final = 2  # of a batch; a request each


@dataclass(frozen=True)
class _CheckpointFile:
    directory: Path

    def read(self, id: str) -> Checkpoint | None:
        try:
            return cast("Checkpoint", orjson.loads(self._path(id).read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigurationError(f"{self._path(id)} cannot be read; without it all rows are sent again.") from error

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the file at once, so that a kill leaves the one or the other."""
        new = self._path(checkpoint["id"]).with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(orjson.dumps(checkpoint))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path(checkpoint["id"]))
        except OSError as error:
            raise ConfigurationError(f"{new} cannot be written: {error.strerror}.") from error

    def _path(self, id: str) -> Path:
        return self.directory / f"quiver-checkpoint-{id[4:12]}.json"


class ApiTarget:
    def __init__(self, url: str, api_key: str | None, *, directory: Path) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._service = Service(f"{base}/v1", name=f"Quiver at {base}", headers=headers)
        self._checkpoints = _CheckpointFile(directory)

    async def close(self) -> None:
        await self._service.close()

    @property
    def shown(self) -> str:
        return self._service.base_url

    async def find_store(self, id: str) -> StoreFacts:
        return _facts(await self._service.get(_path(id)))

    async def begin(
        self, id: str, *, source: str, store_id: str | None, settings: StoreSettings, dimension: int | None
    ) -> tuple[StoreFacts, Checkpoint]:
        if (there := self._checkpoints.read(id)) is not None:
            return await self.find_store(there["vector_store_id"]), there
        store = await (self._create(id, settings, dimension) if store_id is None else self.find_store(store_id))
        checkpoint: Checkpoint = {
            "id": id,
            "vector_store_id": store.id,
            "position": None,
            "rows_written": 0,
            "rows_skipped": 0,
            "rows_rejected": 0,
            "rejects_bytes": 0,
            "is_finished": False,
        }
        self._checkpoints.write(checkpoint)
        return store, checkpoint

    async def find(self, id: str) -> Checkpoint | None:
        return self._checkpoints.read(id)

    def prepare(self, store: StoreFacts, checked: Checked, position: Any) -> Prepared:
        return Prepared(checked.records, checked.vectors, checked.rejects, position)

    async def write(
        self, store: StoreFacts, batch: Prepared, checkpoint: Checkpoint, rejects: RejectsFile
    ) -> tuple[Outcome, Checkpoint]:
        refused: list[Reject] = []
        for start in range(0, len(batch.records), REQUEST_ROWS):
            stop = start + REQUEST_ROWS
            vectors = None if batch.vectors is None else batch.vectors[start:stop]
            refused += await self._send(store, batch.records[start:stop], vectors)
        outcome = Outcome(len(batch.records) - len(refused), 0, [*batch.rejects, *refused])
        rejects_bytes = rejects.append(outcome.rejects) if outcome.rejects else checkpoint["rejects_bytes"]
        moved = advanced(checkpoint, batch.position, outcome, rejects_bytes)
        self._checkpoints.write(moved)
        return outcome, moved

    async def finish(self, checkpoint: Checkpoint) -> None:
        self._checkpoints.write({**checkpoint, "is_finished": True})

    async def count(self, store: StoreFacts) -> int | None:
        return (await self._service.get(_path(store.id)))["file_counts"]["completed"]

    async def sample(self, store: StoreFacts, *, of: int, limit: int) -> list[str]:
        page = await self._service.get(f"{_path(store.id)}/embeddings", limit=min(limit, PAGE_ROWS))
        return [chunk["id"] for chunk in page["data"]]

    async def get(self, store: StoreFacts, ids: Sequence[str]) -> dict[str, Kept]:
        found = {id: await self._find(store, id) for id in ids}
        return {id: Kept(chunk["content"], chunk["metadata"], None) for id, chunk in found.items() if chunk}

    async def look_up(self, store: StoreFacts, ids: Sequence[str]) -> tuple[int, set[str]]:
        some = list(ids[:LOOKED_UP_ROWS])
        return len(some), {id for id in some if await self._find(store, id) is None}

    def found_as(self, record: Record) -> str:
        return str(record.id)

    async def search(self, store: StoreFacts, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        body = {"query_embedding": vector.astype(float).tolist(), "max_num_results": limit}
        page = await self._service.post(f"{_path(store.id)}/search", body)
        return [(found["file_id"], 2 * found["score"] - 1) for found in page["data"]]

    def storable(self, vectors: Vectors) -> Vectors:
        return vectors

    async def trial(self, store: StoreFacts, batch: Prepared) -> int | None:
        return None

    async def _create(self, id: str, settings: StoreSettings, dimension: int | None) -> StoreFacts:
        days = settings.expires_after_days
        body = {
            "name": settings.name,
            "description": settings.description,
            "metadata": settings.metadata,
            "expires_after": days and {"anchor": "last_active_at", "days": days},
            "embedding_model": settings.embedding_model,
            "embedding_dimension": dimension,
        }
        # A kill before the checkpoint is written must not leave a second store.
        return _facts(await self._service.post("/vector_stores", body, headers={"Idempotency-Key": id}))

    async def _send(self, store: StoreFacts, records: Sequence[Record], vectors: Vectors | None) -> list[Reject]:
        """Send records, and those of them alone that the API refuses, until it is known which they are."""
        body = {"embeddings": [_body(record, vectors, number) for number, record in enumerate(records)]}
        try:
            await self._service.post(f"{_path(store.id)}/embeddings/batch", body)
        except ServiceRefused as error:
            if error.answered not in (400, 409, 413):
                raise
            if len(records) == 1:
                return [Reject(records[0], error.message)]
            middle = len(records) // 2
            first, second = (None, None) if vectors is None else (vectors[:middle], vectors[middle:])
            return [
                *await self._send(store, records[:middle], first),
                *await self._send(store, records[middle:], second),
            ]
        return []

    async def _find(self, store: StoreFacts, id: str) -> Any:
        try:
            return await self._service.get(f"{_path(store.id)}/embeddings/{quote(id, safe='')}")
        except ServiceRefused as error:
            if error.answered != 404:
                raise
            return None


def _path(store_id: str) -> str:
    return f"/vector_stores/{quote(store_id, safe='')}"


def _facts(store: dict[str, Any]) -> StoreFacts:
    return StoreFacts(store["id"], store["name"], store.get("embedding_dimension"), store.get("embedding_model"))


def _body(record: Record, vectors: Vectors | None, number: int) -> dict[str, Any]:
    vector = None if vectors is None else base64.b64encode(vectors[number].astype(np.dtype("<f4")).tobytes()).decode()
    return {"id": record.id, "content": record.content, "embedding": vector, "metadata": record.metadata}
