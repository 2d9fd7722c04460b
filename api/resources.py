"""What a process opens once and every service function is handed."""

from dataclasses import dataclass

from api.blobs import BlobStore, blobs_at
from api.embeddings import Embeddings
from api.settings import Settings
from api.tables.database import Database


@dataclass(frozen=True)
class Resources:
    settings: Settings
    database: Database
    embeddings: Embeddings
    blobs: BlobStore

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        blobs = blobs_at(settings.files_dir or settings.quiver_data_dir / "files")
        return cls(settings, Database(settings), Embeddings(settings.embedding), blobs)

    async def close(self) -> None:
        await self.embeddings.close()
        await self.database.close()
