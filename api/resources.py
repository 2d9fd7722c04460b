"""What a process opens once and every service function is handed."""

from dataclasses import dataclass

from api.embeddings import Embeddings
from api.settings import Settings
from api.tables.database import Database


@dataclass(frozen=True)
class Resources:
    settings: Settings
    database: Database
    embeddings: Embeddings

    @classmethod
    def of(cls, settings: Settings) -> "Resources":
        return cls(settings, Database(settings), Embeddings(settings.embedding))

    async def close(self) -> None:
        await self.embeddings.close()
        await self.database.close()
