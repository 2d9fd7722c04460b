"""Chunks that come by themselves, without a file: litellm-pgvector's embeddings."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from api.errors import Conflict, InvalidRequest, NotFound, RequestTooLarge
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.embeddings import CreateEmbeddingRequest, Embedding, EmbeddingBatch, EmbeddingDeleted, EmbeddingPage
from api.schemas.requests import PageQuery
from api.schemas.vector_stores import VectorStore
from api.services import idempotency, paging, stores
from api.tables import chunk_copy, chunks, vector_stores
from api.tables.chunk_copy import NewChunks
from api.tables.database import Connection
from api.vectors import Vector, Vectors, as_rows
from api.wire import have_same_direction, read_vectors

Answer = TypeVar("Answer", Embedding, EmbeddingBatch)


async def create(resources: Resources, vector_store_id: str, request: CreateEmbeddingRequest) -> Embedding:
    return await _insert(resources, vector_store_id, [request], path="", answer=_only)


async def create_batch(
    resources: Resources, vector_store_id: str, requests: Sequence[CreateEmbeddingRequest]
) -> EmbeddingBatch:
    limit = resources.settings.max_batch_texts
    if len(requests) > limit:
        message = f"The batch has {len(requests)} texts; at most {limit} are taken at once (MAX_BATCH_TEXTS)."
        raise RequestTooLarge(message, param="embeddings")
    return await _insert(resources, vector_store_id, requests, path="embeddings.{}.", answer=_batch)


async def get(resources: Resources, vector_store_id: str, id: str) -> Embedding:
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        await stores.get_on(connection, vector_store_id)
        chunk = await chunks.find(connection, table, vector_store_id, id)
    if chunk is None:
        raise _no_such_chunk(id)
    return chunk


async def list_page(resources: Resources, vector_store_id: str, query: PageQuery) -> EmbeddingPage:
    """A page in the order of the ids; those that Quiver makes ascend with time."""
    table = await resources.database.chunk_table()
    above, below = paging.bounds(query, query.after, query.before)
    async with resources.database.connection() as connection:
        await stores.get_on(connection, vector_store_id)
        rows = await chunks.list_between(
            connection,
            table,
            vector_store_id,
            above=above,
            below=below,
            direction=paging.direction(query),
            limit=query.limit + 1,
        )
    return paging.page(query, rows)


async def delete(resources: Resources, vector_store_id: str, id: str) -> EmbeddingDeleted:
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        # The store first, as whoever deletes all of it does; the other way round they would wait for each other.
        if not await vector_stores.hold(connection, vector_store_id):
            raise stores.no_such_store(vector_store_id)
        deleted = await chunks.delete(connection, table, vector_store_id, id)
        if deleted is None:
            raise _no_such_chunk(id)
        if deleted["file_id"] is not None:  # and the deletion is undone
            raise InvalidRequest(
                f"The chunk {id!r} belongs to file {deleted['file_id']!r}; delete that from the vector store.",
                param="embedding_id",
            )
        await vector_stores.uncount_chunk(connection, vector_store_id, usage_bytes=deleted["usage_bytes"])
    return {"id": id, "object": "embedding.deleted", "deleted": True}


async def _insert(
    resources: Resources,
    vector_store_id: str,
    requests: Sequence[CreateEmbeddingRequest],
    *,
    path: str,
    answer: Callable[[list[Embedding]], Answer],
) -> Answer:
    """Insert all chunks or none, and answer with them in their order; `path` leads to one of them in the request.

    A chunk whose id the store has with the same content, metadata and vector is answered with what is there.

    Raises:
        NotFound: there is no such store.
        InvalidRequest: a vector has another dimension than the store, the store has expired, an id stands twice.
        Conflict: an id is taken by a chunk that differs.
    """
    table = await resources.database.chunk_table()
    ids = _ids(table, requests, path)
    vectors = await _vectors(resources, vector_store_id, requests, path)
    new = NewChunks(ids, [request.content for request in requests], [request.metadata for request in requests])
    # Two retries at once must not both find the ids free; not every table has a unique key to stop them.
    take = stores.lock_unexpired if any(ids) else stores.hold_unexpired
    async with resources.database.transaction() as connection:
        store = await take(connection, vector_store_id)
        rows = _of_one_dimension(store, requests, vectors, path)
        existing = await _existing(connection, table, vector_store_id, requests, ids, rows)
        written = answer(await _write(connection, table, vector_store_id, existing, new, rows))
        await idempotency.settle(resources, connection, written)
    return written


def _only(written: list[Embedding]) -> Embedding:
    return written[0]


def _batch(written: list[Embedding]) -> EmbeddingBatch:
    return {"object": "embedding.batch", "data": written, "created": int(time.time())}


async def _write(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    existing: Mapping[str, Embedding],
    new: NewChunks,
    vectors: Vectors,
) -> list[Embedding]:
    missing, missing_vectors = new, vectors
    if existing:
        positions = [position for position, id in enumerate(new.ids) if id not in existing]
        missing, missing_vectors = new.at(positions), vectors[positions]
    inserted: list[Embedding] = []
    if missing.ids:
        inserted = await chunk_copy.insert(connection, table, vector_store_id, missing, missing_vectors)
    dimension = vectors.shape[1]
    is_counted = await vector_stores.count_chunks(
        connection,
        vector_store_id,
        files=len(missing.ids),
        usage_bytes=sum(map(len, map(str.encode, missing.contents))),
        dimension=dimension,
    )
    if not is_counted:  # expired meanwhile, or given its dimension by somebody else; the transaction is undone
        store = await stores.get_unexpired(connection, vector_store_id)
        raise _wrong_dimension(store, dimension, param="embedding")
    if not existing:
        return inserted
    in_order = iter(inserted)
    return [existing.get(id or "") or next(in_order) for id in new.ids]


async def _existing(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    requests: Sequence[CreateEmbeddingRequest],
    ids: Sequence[str | None],
    vectors: Vectors,
) -> dict[str, Embedding]:
    """The chunks that are there already, after a check that they are the same."""
    own_ids = [id for id in ids if id is not None]
    if not own_ids:
        return {}
    found = await chunks.find_same_ids(connection, table, vector_store_id, own_ids)
    for request, id, vector in zip(requests, ids, vectors, strict=True):
        if id not in found:
            continue
        there, stored = found[id]
        is_same = (there["content"], there["metadata"]) == (request.content, request.metadata) and stored is not None
        # What the server embedded itself may differ by a rounding from one time to the next.
        if not is_same or (request.embedding is not None and not have_same_direction(stored, vector)):
            raise Conflict(
                f"Vector store {vector_store_id!r} has another chunk with id {id!r}; delete that one first.",
                param="id",
            )
    return {id: there for id, (there, _) in found.items()}


async def _vectors(
    resources: Resources, vector_store_id: str, requests: Sequence[CreateEmbeddingRequest], path: str
) -> list[Vector] | Vectors:
    """A vector for each request, embedded here where the caller sent none."""
    embeddings = [request.embedding for request in requests]
    given = [position for position, embedding in enumerate(embeddings) if embedding is not None]
    rows = read_vectors(
        [embedding for embedding in embeddings if embedding is not None],
        param_of=lambda place: f"{path.format(given[place])}embedding",
    )
    if len(given) == len(requests):
        return rows
    async with resources.database.connection() as connection:
        store = await stores.get_unexpired(connection, vector_store_id)
    dimension = store["embedding_dimension"]
    if dimension is not None:  # before they are paid for
        _refuse_other_dimensions(store, given, rows, dimension, path)
    positions = [position for position, embedding in enumerate(embeddings) if embedding is None]
    model = store["embedding_model"] or resources.embeddings.default_model
    texts = [requests[position].content for position in positions]
    embedded = await resources.embeddings.embed(texts, model=model, dimension=dimension)
    by_position = dict(zip((*given, *positions), (*rows, *embedded), strict=True))
    return [by_position[position] for position in range(len(requests))]


def _of_one_dimension(
    store: VectorStore, requests: Sequence[CreateEmbeddingRequest], vectors: list[Vector] | Vectors, path: str
) -> Vectors:
    """The vectors as rows: of the store's dimension, or else of what the model made of the first text."""
    dimension = store["embedding_dimension"]
    if dimension is None:
        embedded = (position for position, request in enumerate(requests) if request.embedding is None)
        dimension = vectors[next(embedded, 0)].size
    _refuse_other_dimensions(store, range(len(requests)), vectors, dimension, path)
    return as_rows(vectors)


def _refuse_other_dimensions(
    store: VectorStore, positions: Sequence[int], vectors: list[Vector] | Vectors, dimension: int, path: str
) -> None:
    if not isinstance(vectors, list) and vectors.shape[1] == dimension:
        return
    for position, size in zip(positions, map(len, vectors), strict=True):
        if size != dimension:
            raise _wrong_dimension(store, size, param=f"{path.format(position)}embedding", expected=dimension)


def _ids(table: ChunkTable, requests: Sequence[CreateEmbeddingRequest], path: str) -> list[str | None]:
    """The clients' own ids as the table will have them, each but once."""
    ids = [request.id for request in requests]
    seen: set[str] = set()
    for position, own in enumerate(ids):
        if own is None:
            continue
        param = f"{path.format(position)}id"
        id = chunks.canonical_id(table, own, param=param)
        if id in seen:
            raise InvalidRequest(f"The id {id!r} stands twice in the batch.", param=param)
        seen.add(id)
        ids[position] = id
    return ids


def _wrong_dimension(store: VectorStore, dimension: int, *, param: str, expected: int | None = None) -> InvalidRequest:
    return InvalidRequest(
        f"Vector store {store['id']!r} has vectors of {expected or store['embedding_dimension']} dimensions, "
        f"not {dimension}.",
        param=param,
        code="embedding_dimension_mismatch",
    )


def _no_such_chunk(id: str) -> NotFound:
    return NotFound(f"No embedding found with id {id!r}.", param="embedding_id")
