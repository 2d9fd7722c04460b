"""Vector stores: create, list, retrieve, modify, delete."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from api import ids
from api.errors import Forbidden, InvalidRequest, NotFound, QuotaExceeded
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.requests import PageQuery
from api.schemas.vector_stores import (
    CreateVectorStoreRequest,
    UpdateVectorStoreRequest,
    VectorStore,
    VectorStoreDeleted,
    VectorStorePage,
)
from api.schemas.vectors import MAX_DIMENSION
from api.services import attachments, idempotency, paging
from api.tables import chunks, vector_store_files, vector_stores
from api.tables.database import Connection


async def create(resources: Resources, request: CreateVectorStoreRequest) -> VectorStore:
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        store = await create_on(connection, table, resources, request)
        await idempotency.settle(resources, connection, store)
    if request.file_ids:
        await resources.wake.send()
    return store


async def create_on(
    connection: Connection, table: ChunkTable, resources: Resources, request: CreateVectorStoreRequest
) -> VectorStore:
    """Create a store that remembers its embedding model and dimension.

    Both come from the request, else from its metadata (LiteLLM passes on nothing else), else from the settings. A
    store of a model other than the configured one has the dimension of its first vector unless it names one.

    Raises:
        InvalidRequest: the dimension is not one, or the table of chunks cannot hold it or files.
        NotFound: a file is named that does not exist.
        Forbidden: the caller's key is for some stores only.
        QuotaExceeded: the tenant has as many as it may.
    """
    if resources.database.scope.vector_store_ids is not None:
        raise Forbidden("This key is for some vector stores only, and cannot create any.")
    model, dimension = _model_and_dimension(resources, request)
    if table.dimension is not None:
        if dimension not in (None, table.dimension):
            raise InvalidRequest(
                f"The table of chunks holds vectors of {table.dimension} dimensions, not {dimension}.",
                param="embedding_dimension",
            )
        dimension = table.dimension
    if table.vector_store_id.type == "uuid":
        id, created_at = str(uuid4()), datetime.now(UTC)
    else:
        id = ids.new_ids("vs", 1)[0]
        created_at = ids.created_at(id) or datetime.now(UTC)
    values: dict[str, Any] = {
        "name": request.name or "",
        "description": request.description,
        "metadata": request.metadata,
        "expires_after": request.expires_after and request.expires_after.model_dump(),
        "embedding_model": model,
        "embedding_dimension": dimension,
    }
    new = [attachments.new_file(file_id, None, request.chunking_strategy) for file_id in request.file_ids or ()]
    limit = resources.settings.max_stores_per_tenant
    if limit is not None and await vector_stores.count_of_tenant(connection) >= limit:
        raise QuotaExceeded(f"There are {limit} vector stores, which is the limit; delete one first.")
    store = await vector_stores.insert(connection, id=id, created_at=created_at, values=values)
    if not new:
        return store
    max_files = resources.settings.max_files_per_store
    await attachments.attach(connection, table, id, new, param="file_ids", max_files=max_files)
    return await get_on(connection, id)


async def list_page(resources: Resources, query: PageQuery) -> VectorStorePage:
    """A page of stores in the order of their creation, ties by id.

    Raises:
        InvalidRequest: a cursor is no store's id, and not that of a deleted one either.
    """
    async with resources.database.connection() as connection:
        after = await paging.position(connection, query.after, param="after", find=vector_stores.find_created_at)
        before = await paging.position(connection, query.before, param="before", find=vector_stores.find_created_at)
        above, below = paging.bounds(query, after, before)
        rows = await vector_stores.list_between(
            connection, above=above, below=below, direction=paging.direction(query), limit=query.limit + 1
        )
    return paging.page(query, rows)


async def get(resources: Resources, id: str) -> VectorStore:
    async with resources.database.connection() as connection:
        return await get_on(connection, id)


async def get_on(connection: Connection, id: str) -> VectorStore:
    store = await vector_stores.find(connection, id)
    if store is None:
        raise no_such_store(id)
    return store


async def get_unexpired(connection: Connection, id: str) -> VectorStore:
    """The store, to be searched or written to.

    Raises:
        NotFound: there is none.
        InvalidRequest: it has expired.
    """
    return require_unexpired(id, await vector_stores.find(connection, id))


async def hold_unexpired(connection: Connection, id: str) -> VectorStore:
    """The same, and the store cannot be deleted until the transaction ends."""
    return require_unexpired(id, await vector_stores.hold(connection, id))


async def lock_unexpired(connection: Connection, id: str) -> VectorStore:
    """The same, and nobody else writes to the store until the transaction ends."""
    return require_unexpired(id, await vector_stores.lock(connection, id))


def require_unexpired(id: str, found: VectorStore | None) -> VectorStore:
    """The store that was found, to be searched or written to.

    Raises:
        NotFound: none was.
        InvalidRequest: it has expired.
    """
    if found is None:
        raise no_such_store(id)
    if found["status"] == "expired":
        raise expired(id)
    return found


async def update(resources: Resources, id: str, request: UpdateVectorStoreRequest) -> VectorStore:
    """Change what the request names, null included; the rest stays."""
    changes = request.model_dump(include=request.model_fields_set)
    async with resources.database.transaction() as connection:
        store = await vector_stores.update(connection, id, changes=changes)
        if store is None:
            raise no_such_store(id)
        await idempotency.settle(resources, connection, store)
    return store


async def delete(resources: Resources, id: str) -> VectorStoreDeleted:
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        # The store first: an insert that is under way holds its row, and is waited for before its chunks are deleted.
        if not await vector_stores.delete(connection, id):
            raise no_such_store(id)
        await vector_store_files.delete_of_store(connection, id)
        await chunks.delete_of_store(connection, table, id)
    return {"id": id, "object": "vector_store.deleted", "deleted": True}


def no_such_store(id: str) -> NotFound:
    return NotFound(f"No vector store found with id {id!r}.", param="vector_store_id")


def expired(id: str) -> InvalidRequest:
    return InvalidRequest(
        f"Vector store {id!r} has expired; its contents are gone.",
        param="vector_store_id",
        code="vector_store_expired",
    )


def _model_and_dimension(resources: Resources, request: CreateVectorStoreRequest) -> tuple[str, int | None]:
    metadata = request.metadata or {}
    configured = resources.settings.embedding
    model = request.embedding_model or metadata.get("embedding_model") or configured.model
    dimension = request.embedding_dimension
    written = metadata.get("embedding_dimension")
    if dimension is None and written is not None:
        # isascii and isdecimal: int() also takes other scripts' digits, signs and underscores.
        if not (written.isascii() and written.isdecimal() and 1 <= int(written[:6]) <= MAX_DIMENSION):
            raise InvalidRequest(
                f"metadata.embedding_dimension must be a whole number from 1 to {MAX_DIMENSION}, not {written!r}.",
                param="metadata.embedding_dimension",
            )
        dimension = int(written)
    if dimension is None and model == configured.model:
        dimension = configured.dimensions
    return model, dimension
