"""Files put into stores and taken out of them, on a connection whose transaction the caller has opened.

The counters move with the files. Everybody takes their locks in one order: the store, its files, their chunks, and
the store's counters last.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from api.errors import InvalidRequest, NotFound, QuotaExceeded
from api.field_mapping import ChunkTable
from api.schemas.chunking_strategies import Chunking, ChunkingStrategy, StaticChunkingStrategy
from api.schemas.vector_store_files import FileStatus, VectorStoreFile
from api.tables import file_chunks, files, jobs, vector_store_files, vector_stores
from api.tables.database import Connection
from api.tables.vector_store_files import NewFile

# OpenAI's `auto`: https://platform.openai.com/docs/api-reference/vector-stores
AUTO_CHUNKING: Chunking = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
}


def new_file(file_id: str, attributes: dict[str, Any] | None, strategy: ChunkingStrategy | None) -> NewFile:
    return NewFile(file_id, attributes, chunking_of(strategy))


async def attach(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    new: Sequence[NewFile],
    *,
    param: str,
    max_files: int | None,
    batch_id: str | None = None,
) -> None:
    """Put files into a store, which the caller holds, and have workers ingest them.

    A file that the store has already, waiting or completed, is not ingested again unless its chunks are to be cut in
    another way, so that a retry is harmless. Its attributes are replaced if some are given.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: the table of chunks cannot tell whose chunk a row is.
        QuotaExceeded: the store would have more than `max_files`.
    """
    require_file_columns(table)
    wanted = {file.file_id: file for file in new}
    await _hold_files(connection, list(wanted), vector_store_id=vector_store_id, param=param)
    now = datetime.now(UTC)
    turn = await vector_store_files.last_turn(connection, vector_store_id, least=await jobs.current_turn(connection))
    insert = partial(vector_store_files.insert, connection, vector_store_id, batch_id=batch_id, now=now, turn=turn)
    inserted = await insert(new=list(wanted.values()))
    there = await vector_store_files.lock(connection, vector_store_id, [id for id in wanted if id not in inserted])
    taken_out = wanted.keys() - inserted - {file["id"] for file in there}  # between the one statement and the other
    inserted |= await insert(new=[wanted[id] for id in sorted(taken_out)])

    restarted: list[VectorStoreFile] = []
    for file in there:
        new_file = wanted[file["id"]]
        if new_file.attributes is not None and new_file.attributes != file["attributes"]:
            await set_attributes(connection, table, vector_store_id, file["id"], new_file.attributes)
        if file["status"] in ("failed", "cancelled") or file["chunking_strategy"] != new_file.chunking_strategy:
            restarted.append(file)
            turn_of_file = turn + len(inserted) + len(restarted)
            await vector_store_files.restart(connection, vector_store_id, new_file, now=now, turn=turn_of_file)
    if batch_id is not None:
        await vector_store_files.set_batch(connection, vector_store_id, [file["id"] for file in there], batch_id)

    await jobs.enqueue(connection, vector_store_id, [*inserted, *(file["id"] for file in restarted)])
    changes = Counter[FileStatus]()
    changes["in_progress"] += len(inserted) + len(restarted)
    changes.subtract(file["status"] for file in restarted)
    await vector_stores.count_files(connection, vector_store_id, changes, usage_bytes=0, dimension=None)
    await vector_stores.touch(connection, vector_store_id)
    # Here, where whoever else puts files in waits for this transaction to end.
    if inserted and max_files is not None and await vector_store_files.count(connection, vector_store_id) > max_files:
        raise QuotaExceeded(f"A vector store has {max_files} files at most; take some out first.", param=param)


async def set_attributes(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    file_id: str,
    attributes: dict[str, Any] | None,
) -> VectorStoreFile | None:
    """Replace a file's attributes and those of its chunks. None: the store has no such file."""
    file = await vector_store_files.set_attributes(connection, vector_store_id, file_id, attributes)
    if file is not None:
        await file_chunks.set_attributes(connection, table, vector_store_id, file_id, attributes)
    return file


async def detach(connection: Connection, table: ChunkTable, vector_store_id: str, file_id: str) -> bool:
    """Take a file and its chunks out of a store, which the caller holds. False: the store has no such file."""
    detached = await vector_store_files.delete(connection, vector_store_id, file_id)
    if detached is None:
        return False
    await file_chunks.delete(connection, table, vector_store_id, [file_id])
    await vector_stores.count_files(
        connection, vector_store_id, {detached["status"]: -1}, usage_bytes=-detached["usage_bytes"], dimension=None
    )
    return True


async def detach_everywhere(connection: Connection, table: ChunkTable, file_id: str) -> None:
    """Take a file, whose row the caller has deleted, out of every store."""
    held = [
        vector_store_id
        for vector_store_id in await vector_store_files.list_stores(connection, file_id)
        if await vector_stores.hold_unseen(connection, vector_store_id)
    ]
    for vector_store_id in held:
        await detach(connection, table, vector_store_id, file_id)


async def cancel_batch(connection: Connection, table: ChunkTable, vector_store_id: str, batch_id: str) -> None:
    """Cancel what still waits of a batch; the caller holds the store."""
    cancelled = await vector_store_files.cancel_batch(connection, vector_store_id, batch_id)
    # A file that is ingested anew has chunks of the time before.
    await file_chunks.delete(connection, table, vector_store_id, [id for id, usage in cancelled.items() if usage])
    changes: dict[FileStatus, int] = {"in_progress": -len(cancelled), "cancelled": len(cancelled)}
    usage_bytes = -sum(cancelled.values())
    await vector_stores.count_files(connection, vector_store_id, changes, usage_bytes=usage_bytes, dimension=None)


def chunking_of(strategy: ChunkingStrategy | None) -> Chunking:
    if not isinstance(strategy, StaticChunkingStrategy):
        return AUTO_CHUNKING
    sizes = strategy.static
    return {
        "type": "static",
        "static": {
            "max_chunk_size_tokens": sizes.max_chunk_size_tokens,
            "chunk_overlap_tokens": sizes.chunk_overlap_tokens,
        },
    }


def require_file_columns(table: ChunkTable) -> None:
    if not table.has_file_columns:
        raise InvalidRequest(
            f"Table {table.name!r} takes no files: it lacks the columns file_id text, filename text and "
            "chunk_index integer, which its owner can add.",
            code="not_supported",
        )


async def _hold_files(connection: Connection, file_ids: Sequence[str], *, vector_store_id: str, param: str) -> None:
    """Keep files from being deleted until the transaction ends."""
    held = await files.hold(connection, file_ids, vector_store_id=vector_store_id)
    for id in file_ids:
        if id not in held:
            raise NotFound(f"No such File object: {id}", param=param)
