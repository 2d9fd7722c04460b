"""File batches: many files put into a store at once, and cancelled together."""

from datetime import UTC, datetime

from api import ids
from api.errors import NotFound
from api.resources import Resources
from api.schemas.file_batches import CreateFileBatchRequest, FileBatch
from api.schemas.vector_store_files import VectorStoreFilePage, VectorStoreFileQuery
from api.services import attachments, idempotency, stores, vector_store_files
from api.tables import file_batches, vector_stores
from api.tables.database import Connection
from api.tables.vector_store_files import NewFile


async def create(resources: Resources, vector_store_id: str, request: CreateFileBatchRequest) -> FileBatch:
    """Put files into a store, all of them or none."""
    table = await resources.database.chunk_table()
    id = ids.new_ids("vsfb", 1)[0]
    async with resources.database.transaction() as connection:
        await stores.hold_unexpired(connection, vector_store_id)
        await file_batches.insert(
            connection,
            id=id,
            vector_store_id=vector_store_id,
            created_at=ids.created_at(id) or datetime.now(UTC),
        )
        await attachments.attach(
            connection,
            table,
            vector_store_id,
            _new_files(request),
            param="files" if request.file_ids is None else "file_ids",
            max_files=resources.settings.max_files_per_store,
            batch_id=id,
        )
        batch = await _get_on(connection, vector_store_id, id)
        await idempotency.settle(resources, connection, batch)
    await resources.wake.send()
    return batch


async def get(resources: Resources, vector_store_id: str, id: str) -> FileBatch:
    async with resources.database.connection() as connection:
        return await _get_on(connection, vector_store_id, id)


async def list_files(
    resources: Resources, vector_store_id: str, id: str, query: VectorStoreFileQuery
) -> VectorStoreFilePage:
    await get(resources, vector_store_id, id)
    return await vector_store_files.list_page(resources, vector_store_id, query, batch_id=id)


async def cancel(resources: Resources, vector_store_id: str, id: str) -> FileBatch:
    """Cancel the files that are not done. A batch of which all are done stays as it is."""
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        if not await vector_stores.hold(connection, vector_store_id):
            raise stores.no_such_store(vector_store_id)
        batch = await _get_on(connection, vector_store_id, id)
        if batch["status"] != "in_progress":
            return batch
        await attachments.cancel_batch(connection, table, vector_store_id, id)
        await file_batches.set_cancelled(connection, id)
        batch = await _get_on(connection, vector_store_id, id)
        await idempotency.settle(resources, connection, batch)
    return batch


async def _get_on(connection: Connection, vector_store_id: str, id: str) -> FileBatch:
    batch = await file_batches.find(connection, vector_store_id, id)
    if batch is None:
        await stores.get_on(connection, vector_store_id)
        raise NotFound(f"No file batch found with id {id!r}.", param="batch_id")
    return batch


def _new_files(request: CreateFileBatchRequest) -> list[NewFile]:
    if request.files is not None:
        return [attachments.new_file(file.file_id, file.attributes, file.chunking_strategy) for file in request.files]
    return [attachments.new_file(id, request.attributes, request.chunking_strategy) for id in request.file_ids or ()]
