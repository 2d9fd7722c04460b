"""What a process opens once and every service function is handed."""

import time
from dataclasses import dataclass, replace

from api.blobs import BlobStore, blobs_at
from api.embeddings import Embeddings
from api.metrics import Metrics
from api.proxy import Proxy
from api.query_vectors import QueryVectors
from api.settings import Settings
from api.tables.database import Database
from api.tables.scope import Scope
from api.tables.searches import KnownStores
from api.wake import Wake

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
    query_vectors: QueryVectors
    proxy: Proxy
    metrics: Metrics
    known_stores: KnownStores
    wake: Wake
    replica: Replica | None = None
    primary: Database | None = None  # where `database` is a replica: what it is one of

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        blobs = blobs_at(settings.files_dir or settings.quiver_data_dir / "files")
        embeddings = Embeddings(settings.embedding)
        query_vectors = QueryVectors(embeddings, cache_bytes=settings.query_cache_bytes)
        key = settings.embedding.api_key.get_secret_value() if settings.embedding.api_key else ""
        proxy = Proxy(embeddings.base_url, key=key)
        database, metrics = Database(settings), Metrics()
        metrics.watch_pool(database.pool_stats)
        url = settings.database_replica_url
        replica = None if url is None else Replica(Database(settings, url))
        wake = Wake(settings.wake_queue_url)
        return cls(settings, database, embeddings, blobs, query_vectors, proxy, metrics, KnownStores(), wake, replica)

    def within(self, scope: Scope) -> "Resources":
        """The same, with a database of which only what the scope allows can be seen."""
        return self if scope == self.database.scope else replace(self, database=self.database.within(scope))

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
        await self.embeddings.close()
        await self.proxy.close()
        await self.wake.close()
        await self.database.close()
        if self.replica is not None:
            await self.replica.database.close()
