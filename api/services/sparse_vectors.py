"""The sparse vectors of chunks, made behind the writes: of new chunks, and of all where a model is configured later."""

import time
from collections.abc import Sequence

import structlog

from api.errors import InvalidRequest
from api.resources import Resources
from api.services import lagging_indexes
from api.sparse import SparseModel, Weights
from api.tables import sparse_index
from api.tables.sparse_index import Unweighed

log: structlog.stdlib.BoundLogger = structlog.get_logger()


async def fill(resources: Resources, *, seconds: float) -> int:
    """Weigh what is new in all stores, a batch of each in turn, until all is done or the time is over.

    Returns:
        How many chunks were dealt with. None are where no model is configured.

    Raises:
        ModelUnavailable: the model is away; what was done until then stays.
    """
    model = resources.sparse_model
    table = await resources.database.chunk_table()
    if model is None or not table.has_seq:
        return 0
    deadline = time.monotonic() + seconds
    total = 0
    while time.monotonic() < deadline:
        async with resources.database.connection(is_long=True) as connection:
            behind = await sparse_index.list_behind(connection, table, model=model.name)
            for id in behind:
                await sparse_index.start(connection, table, id, model=model.name)
        has_advanced = False
        for id in behind:
            chunks = await _advance(resources, model, id)
            has_advanced |= chunks is not None
            total += chunks or 0
            if time.monotonic() > deadline:
                return total
        if not has_advanced:
            break
    return total


async def sweep(resources: Resources) -> None:
    """Forget the vectors of chunks that are gone, and of stores that are."""
    await lagging_indexes.sweep(resources, sparse_index.TABLES, sparse_index.forget_deleted)


async def _advance(resources: Resources, model: SparseModel, id: str) -> int | None:
    """Deal with a batch of a store; None: nothing can be done for it at the moment."""
    table = await resources.database.chunk_table()
    async with resources.database.connection(is_long=True) as connection:
        progress = await sparse_index.find(connection, id)
        if progress is None:
            return None
        if progress["model"] != model.name:  # begun anew with the next batch
            async with connection.transaction():
                await sparse_index.TABLES.clear(connection, id)
            return 0
        if progress["is_adopted"] and not progress["is_settled"]:
            return None
        chunks = await sparse_index.list_next(connection, table, id, progress, limit=model.batch_size)
    weighed = await _weigh(model, id, [chunk for chunk in chunks if (chunk["text"] or "").strip()])
    async with resources.database.transaction(is_long=True) as connection:
        is_last = len(chunks) < model.batch_size
        if not await sparse_index.advance(connection, id, progress, chunks, is_last=is_last):
            return None
        await sparse_index.put(connection, id, weighed)
    return len(chunks)


async def _weigh(model: SparseModel, id: str, chunks: Sequence[Unweighed]) -> list[tuple[Unweighed, Weights]]:
    """The vectors of those chunks that have one. A text that the model refuses has none."""
    if not chunks:
        return []
    try:
        weights = await model.embed_chunks([chunk["text"] or "" for chunk in chunks])
    except InvalidRequest as error:
        if len(chunks) == 1:
            log.warning("sparse_text_refused", vector_store_id=id, chunk_id=chunks[0]["id"], error=error.message)
            return []
        middle = len(chunks) // 2
        return [*await _weigh(model, id, chunks[:middle]), *await _weigh(model, id, chunks[middle:])]
    return [(chunk, own) for chunk, own in zip(chunks, weights, strict=True) if own.of_entries]
