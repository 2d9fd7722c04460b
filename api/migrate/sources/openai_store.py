"""A vector store of OpenAI's, or of a server with its API: the texts of its files, which are embedded anew.

Vectors are not to be had there. The position is the last file that is done, and the chunks of the next that are.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from api import chunking, tokenizers
from api.migrate.http import Service, ServiceRefused
from api.migrate.records import Batch, Record, StoreSettings, none_found

PAGE_FILES = 100
BATCH_CHUNKS = 256
# What OpenAI gives back may be a whole file or the chunks of one. Chunks of OpenAI's own size stay as they are.
MAX_CHUNK_TOKENS = 800


class OpenAIStore:
    has_vectors = False
    reading = {"id": "the file and the place in it", "text": "content", "metadata": "attributes"}  # noqa: RUF012

    def __init__(self, service: Service, store: dict[str, Any]) -> None:
        self._service = service
        self._id: str = store["id"]
        self._path = f"/vector_stores/{quote(self._id, safe='')}"
        expires_after = store.get("expires_after")
        self.store = StoreSettings(
            name=store.get("name") or self._id,
            description=store.get("description"),
            metadata=store.get("metadata") or None,
            expires_after_days=expires_after and expires_after.get("days"),
        )

    @property
    def shown(self) -> str:
        return f"vector store {self._id} ({self.store.name}) at {self._service.base_url}"

    @property
    def identity(self) -> str:
        return f"{self._service.base_url} {self._id}"

    async def count(self) -> int | None:
        return None

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        after, done = position or (None, 0)
        async for file in self._files(after):
            records: list[Record] = []
            index = 0
            async for text in self._texts(file["id"]):
                for piece in split(text):
                    if index >= done:
                        records.append(_record(file, index, piece))
                    index += 1
                    if len(records) == BATCH_CHUNKS:
                        yield Batch(records, [after, index])
                        records = []
            after, done = file["id"], 0
            yield Batch(records, [after, 0])

    async def _files(self, after: str | None) -> AsyncGenerator[dict[str, Any]]:
        """The files that have contents, each with its name."""
        has_more = True
        while has_more:
            page = await self._service.get(f"{self._path}/files", limit=PAGE_FILES, order="asc", after=after)
            for file in page["data"]:
                if file["status"] == "completed":
                    yield {**file, "filename": await self._filename(file["id"])}
            has_more = page.get("has_more", False) and bool(page["data"])
            after = page["data"][-1]["id"] if page["data"] else None

    async def _filename(self, file_id: str) -> str:
        try:
            return (await self._service.get(f"/files/{quote(file_id, safe='')}"))["filename"]
        except ServiceRefused as error:
            if error.answered != 404:
                raise
            return file_id  # the file is gone, its chunks are not

    async def _texts(self, file_id: str) -> AsyncGenerator[str]:
        page_token = None
        while True:
            path = f"{self._path}/files/{quote(file_id, safe='')}/content"
            page = await self._service.get(path, page=page_token)
            for part in page["data"]:
                if part.get("type") == "text":
                    yield part["text"]
            page_token = page.get("next_page")
            if not page.get("has_more") or page_token is None:
                return


async def open_stores(service: Service, *, collection: str | None) -> list[OpenAIStore]:
    """One source a store.

    Raises:
        ConfigurationError: there is no such store.
    """
    stores: list[dict[str, Any]] = []
    after, has_more = None, True
    while has_more:
        page = await service.get("/vector_stores", limit=100, order="asc", after=after)
        stores += page["data"]
        has_more = page.get("has_more", False) and bool(page["data"])
        after = page["data"][-1]["id"] if page["data"] else None
    chosen = [store for store in stores if collection in (None, store["id"], store.get("name"))]
    if not chosen:
        raise none_found("That server has", "vector store", collection, [store["id"] for store in stores])
    return [OpenAIStore(service, store) for store in chosen]


@asynccontextmanager
async def connected(url: str, api_key: str | None) -> AsyncGenerator[Service]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    service = Service(url, name=f"The server at {url}", headers=headers)
    try:
        yield service
    finally:
        await service.close()


def split(text: str) -> list[str]:
    """A text as chunks: itself, when it is none too long."""
    tokenizer = tokenizers.tokenizer_for("")
    if tokenizer.count(text) <= MAX_CHUNK_TOKENS:
        return [text] if text.strip() else []
    chunks = chunking.split([text], kind="text", max_tokens=MAX_CHUNK_TOKENS, overlap_tokens=0, tokenizer=tokenizer)
    return [chunk.text for chunk in chunks]


def _record(file: dict[str, Any], index: int, text: str) -> Record:
    return Record(
        id=f"{file['id']}_{index:06}",
        content=text,
        vector=None,
        metadata=file.get("attributes") or None,
        file_id=file["id"],
        filename=file["filename"],
        chunk_index=index,
        chunking_strategy=file.get("chunking_strategy"),
    )
