"""The files of one store: attach, list, retrieve, change attributes, read back, detach."""

from datetime import datetime
from functools import partial

from api.errors import NotFound
from api.resources import Resources
from api.schemas.vector_store_files import (
    CreateVectorStoreFileRequest,
    FileContentPage,
    FileContentQuery,
    UpdateVectorStoreFileRequest,
    VectorStoreFile,
    VectorStoreFileDeleted,
    VectorStoreFilePage,
    VectorStoreFileQuery,
)
from api.services import attachments, idempotency, paging, stores
from api.tables import file_chunks, vector_store_files, vector_stores
from api.tables.database import Connection

CONTENT_CHUNKS = 1000  # of one page: a few megabytes


async def create(resources: Resources, vector_store_id: str, request: CreateVectorStoreFileRequest) -> VectorStoreFile:
    """Put a file into a store; workers ingest it. One that is there already is answered as it is."""
    table = await resources.database.chunk_table()
    new = attachments.new_file(request.file_id, request.attributes, request.chunking_strategy)
    async with resources.database.transaction() as connection:
        await stores.hold_unexpired(connection, vector_store_id)
        max_files = resources.settings.max_files_per_store
        await attachments.attach(connection, table, vector_store_id, [new], param="file_id", max_files=max_files)
        file = await _get_on(connection, vector_store_id, request.file_id)
        await idempotency.settle(resources, connection, file)
    await resources.wake.send()
    return file


async def list_page(
    resources: Resources, vector_store_id: str, query: VectorStoreFileQuery, *, batch_id: str | None = None
) -> VectorStoreFilePage:
    """A page of a store's files, or of one batch's, in the order in which they were put in, ties by id.

    Raises:
        InvalidRequest: a cursor is no file of the store, and was none within the last day either.
    """
    async with resources.database.connection() as connection:
        await stores.get_on(connection, vector_store_id)
        find = partial(_find_created_at, vector_store_id=vector_store_id)
        after = await paging.position(connection, query.after, param="after", find=find)
        before = await paging.position(connection, query.before, param="before", find=find)
        above, below = paging.bounds(query, after, before)
        rows = await vector_store_files.list_between(
            connection,
            vector_store_id,
            batch_id=batch_id,
            status=query.filter,
            above=above,
            below=below,
            direction=paging.direction(query),
            limit=query.limit + 1,
        )
    return paging.page(query, rows)


async def get(resources: Resources, vector_store_id: str, file_id: str) -> VectorStoreFile:
    async with resources.database.connection() as connection:
        return await _get_on(connection, vector_store_id, file_id)


async def update(
    resources: Resources, vector_store_id: str, file_id: str, request: UpdateVectorStoreFileRequest
) -> VectorStoreFile:
    """Replace the attributes of a file, and with them those of its chunks: searches see them from now on."""
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        await stores.hold_unexpired(connection, vector_store_id)
        file = await attachments.set_attributes(connection, table, vector_store_id, file_id, request.attributes)
        if file is None:
            raise _no_such_file(vector_store_id, file_id)
        await vector_stores.touch(connection, vector_store_id)
        await idempotency.settle(resources, connection, file)
    return file


async def delete(resources: Resources, vector_store_id: str, file_id: str) -> VectorStoreFileDeleted:
    """Take a file out of a store with its chunks. The file itself stays."""
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        if not await vector_stores.hold(connection, vector_store_id):
            raise stores.no_such_store(vector_store_id)
        if not await attachments.detach(connection, table, vector_store_id, file_id):
            raise _no_such_file(vector_store_id, file_id)
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


async def content(resources: Resources, vector_store_id: str, file_id: str, query: FileContentQuery) -> FileContentPage:
    """The texts of a file's chunks in their order; neighbours overlap as the chunking strategy says."""
    table = await resources.database.chunk_table()
    start = query.page or 0
    async with resources.database.connection() as connection:
        await _get_on(connection, vector_store_id, file_id)
        texts = await file_chunks.list_texts(
            connection, table, vector_store_id, file_id, start=start, limit=CONTENT_CHUNKS + 1
        )
    has_more = len(texts) > CONTENT_CHUNKS
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text} for text in texts[:CONTENT_CHUNKS]],
        "has_more": has_more,
        "next_page": str(start + CONTENT_CHUNKS) if has_more else None,
    }


async def forget_places(resources: Resources) -> None:
    """Forget where files stood in lists that were taken out more than a day ago."""
    async with resources.database.connection() as connection:
        await vector_store_files.forget_places(connection)


async def _get_on(connection: Connection, vector_store_id: str, file_id: str) -> VectorStoreFile:
    file = await vector_store_files.find(connection, vector_store_id, file_id)
    if file is None:
        await stores.get_on(connection, vector_store_id)
        raise _no_such_file(vector_store_id, file_id)
    return file


async def _find_created_at(connection: Connection, file_id: str, *, vector_store_id: str) -> datetime | None:
    return await vector_store_files.find_created_at(connection, vector_store_id, file_id)


def _no_such_file(vector_store_id: str, file_id: str) -> NotFound:
    return NotFound(f"No file found with id {file_id!r} in vector store {vector_store_id!r}.", param="file_id")
