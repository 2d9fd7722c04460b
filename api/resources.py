"""What a process opens once and every service function is handed."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from api.blobs import BlobStore, blobs_at
from api.embeddings import Embeddings, api_base
from api.metrics import Metrics
from api.proxy import Proxy
from api.query_vectors import QueryVectors
from api.settings import Settings
from api.sparse import SparseModel, Weights
from api.tables.database import Connection, Database
from api.tables.scope import Scope
from api.tables.searches import KnownStores
from api.vectors import Vector
from api.wake import Wake

EMBEDDER_BASE_URL = "http://localhost:8001"
Settle = Callable[[Connection, Mapping[str, Any]], Awaitable[None]]

REST_SECONDS = 5.0  # a replica that failed is asked again after it; each try may take DATABASE_TIMEOUT_SECONDS


class Replica:
    """A copy of the database, behind it by a moment, that is asked first where that is good enough."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._rests_until = 0.0

    @property
    def is_resting(self) -> bool:
        return time.monotonic() < self._rests_until

    def rest(self) -> None:
        """Do without it for a while: it has failed."""
        self._rests_until = time.monotonic() + REST_SECONDS


@dataclass(frozen=True)
class Resources:
    settings: Settings
    database: Database
    embeddings: Embeddings
    blobs: BlobStore
    query_vectors: QueryVectors[Vector]
    proxy: Proxy
    metrics: Metrics
    known_stores: KnownStores
    wake: Wake
    sparse_model: SparseModel | None = None  # None: none is configured
    sparse_queries: QueryVectors[Weights] | None = None
    replica: Replica | None = None
    primary: Database | None = None  # where `database` is a replica: what it is one of
    settle: Settle | None = None  # of a request with an Idempotency-Key

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        blobs = blobs_at(settings.files_dir or settings.quiver_data_dir / "files")
        embeddings = Embeddings(settings.embedding)
        query_vectors: QueryVectors[Vector] = QueryVectors(embeddings, cache_bytes=settings.query_cache_bytes)
        key = settings.embedding.api_key.get_secret_value() if settings.embedding.api_key else ""
        proxy = Proxy(embeddings.base_url, key=key)
        sparse_model = _sparse_model(settings)
        sparse_queries = sparse_model and QueryVectors(sparse_model, cache_bytes=settings.query_cache_bytes)
        database, metrics = Database(settings), Metrics()
        metrics.watch_pool(database.pool_stats)
        url = settings.database_replica_url
        return cls(
            settings,
            database,
            embeddings,
            blobs,
            query_vectors,
            proxy,
            metrics,
            KnownStores(),
            Wake(settings.wake_queue_url),
            sparse_model=sparse_model,
            sparse_queries=sparse_queries,
            replica=None if url is None else Replica(Database(settings, url)),
        )

    def within(self, scope: Scope) -> "Resources":
        """The same, with a database of which only what the scope allows can be seen."""
        own = self.database.scope
        return self if scope is own or scope == own else replace(self, database=self.database.within(scope))

    def on_replica(self, replica: Replica) -> "Resources":
        """The same, with a replica for the database."""
        database = replica.database.within(self.database.scope)
        return replace(self, database=database, replica=None, primary=self.database)

    async def open(self) -> None:
        """Start connecting to what statements are sent to, without waiting for it."""
        await self.database.open()
        if self.replica is not None:
            await self.replica.database.open()

    async def close(self) -> None:
        await self.query_vectors.close()
        if self.sparse_queries is not None:
            await self.sparse_queries.close()
        if self.sparse_model is not None:
            await self.sparse_model.close()
        await self.embeddings.close()
        await self.proxy.close()
        await self.wake.close()
        await self.database.close()
        if self.replica is not None:
            await self.replica.database.close()


def _sparse_model(settings: Settings) -> SparseModel | None:
    sparse = settings.sparse
    if sparse.model is None:
        return None
    url = api_base(sparse.base_url or settings.embedder_base_url or EMBEDDER_BASE_URL)
    key = sparse.api_key.get_secret_value() if sparse.api_key else ""
    return SparseModel(sparse, name=sparse.model, proxy=Proxy(url, key=key))
