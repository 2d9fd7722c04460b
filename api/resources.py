"""What a process opens once and every service function is handed."""

from dataclasses import dataclass

from api.blobs import BlobStore, blobs_at
from api.embeddings import Embeddings
from api.query_vectors import QueryVectors
from api.settings import Settings
from api.tables.database import Database


@dataclass(frozen=True)
class Resources:
    settings: Settings
    database: Database
    embeddings: Embeddings
    blobs: BlobStore
    query_vectors: QueryVectors

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        blobs = blobs_at(settings.files_dir or settings.quiver_data_dir / "files")
        embeddings = Embeddings(settings.embedding)
        query_vectors = QueryVectors(embeddings, cache_bytes=settings.query_cache_bytes)
        return cls(settings, Database(settings), embeddings, blobs, query_vectors)

    async def close(self) -> None:
        await self.query_vectors.close()
        await self.embeddings.close()
        await self.database.close()
