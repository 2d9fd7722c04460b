"""What a process opens once and every service function is handed."""

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

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        blobs = blobs_at(settings.files_dir or settings.quiver_data_dir / "files")
        embeddings = Embeddings(settings.embedding)
        query_vectors = QueryVectors(embeddings, cache_bytes=settings.query_cache_bytes)
        key = settings.embedding.api_key.get_secret_value() if settings.embedding.api_key else ""
        proxy = Proxy(embeddings.base_url, key=key)
        database, metrics = Database(settings), Metrics()
        metrics.watch_pool(database.pool_stats)
        return cls(settings, database, embeddings, blobs, query_vectors, proxy, metrics, KnownStores())

    def within(self, scope: Scope) -> "Resources":
        """The same, with a database of which only what the scope allows can be seen."""
        return self if scope == self.database.scope else replace(self, database=self.database.within(scope))

    async def close(self) -> None:
        await self.query_vectors.close()
        await self.embeddings.close()
        await self.proxy.close()
        await self.database.close()
