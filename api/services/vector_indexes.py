"""The HNSW indexes of large stores, kept up behind the writes: built, merged, rebuilt and dropped, one at a time.

Searches are right at every moment of it: what no index has is searched exactly.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby

import structlog

from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.vector_indexes import VectorStoreIndex
from api.services import stores
from api.tables import vector_index
from api.tables.database import Connection
from api.tables.vector_index import BuildFailed, Due, Known, Planned

log: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_SEGMENT_CHUNKS = 2_000_000  # a longer build would keep all other stores waiting
SMALL_SEGMENT_CHUNKS = 50_000  # built within a minute or so, and in PostgreSQL's usual 64 MB if of 384 dimensions
REBUILT_SHARE = 0.2  # of a segment's chunks deleted: searches and VACUUM stumble over them
DROPPED_SHARE = 0.25  # of the chunks that a large store has; one that has become so small is searched exactly


async def care(resources: Resources, *, seconds: float | None = None) -> int:
    """Do all that is due, for all stores; where there are only some seconds, by small builds that end within them.

    Returns:
        How many indexes were built.
    """
    table = await resources.database.chunk_table()
    if not table.has_seq:
        return 0
    settings = resources.settings.vector_index
    max_chunks = MAX_SEGMENT_CHUNKS if seconds is None else max(SMALL_SEGMENT_CHUNKS, settings.min_chunks)
    # What begins in the first half of the time, and may take the other half, is done at its end.
    half = None if seconds is None else seconds / 2
    started = time.monotonic()
    async with resources.database.session() as connection:
        if not await vector_index.start(
            connection, table, memory_mb=settings.memory_mb, workers=settings.workers, timeout_seconds=half
        ):
            return 0
        built = 0
        while half is None or time.monotonic() - started < half:
            segment = await _next(resources, connection, table, max_chunks=max_chunks)
            if segment is None:
                break
            built += await _build(connection, table, segment)
        return built


async def count(resources: Resources) -> None:
    """Count what was deleted from the segments."""
    table = await resources.database.chunk_table()
    if not table.has_seq:
        return
    async with resources.database.connection(is_long=True) as connection:
        for segment in await _list_known(resources, connection, table):
            if segment["is_ready"]:
                await vector_index.count(connection, table, segment)


async def get(resources: Resources, id: str) -> VectorStoreIndex:
    """How far the index of a store is.

    Raises:
        NotFound: there is no such store.
    """
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        store = await stores.get_on(connection, id)
        chunk_count = await vector_index.count_chunks(connection, table, id)
        made = await vector_index.list_made(connection, table, id)
    ready = [segment for segment in made if segment["is_ready"]]
    build = next((segment for segment in made if not segment["is_ready"]), None)
    unfinished = build and ("failed" if build["last_error"] is not None else "building")
    return {
        "object": "vector_store.index",
        "vector_store_id": id,
        "status": unfinished or ("ready" if ready else "exact"),
        "dimension": store["embedding_dimension"],
        "chunk_count": chunk_count,
        "indexed_count": sum(segment["living_count"] for segment in ready),
        "segments": [
            {"chunk_count": segment["living_count"], "bytes": segment["bytes"], "created_at": segment["created_at"]}
            for segment in ready
        ],
        "build": build
        and {
            "chunk_count": build["chunk_count"],
            "phase": build["phase"],
            "progress": build["progress"],
            "attempts": build["attempts"],
            "last_error": build["last_error"],
        },
    }


async def _next(resources: Resources, connection: Connection, table: ChunkTable, *, max_chunks: int) -> Planned | None:
    """Put the books in order, and choose what to build; None: nothing is due."""
    for segments in _by_store(await _list_known(resources, connection, table)):
        await _settle(connection, segments)
    for stray in await vector_index.list_stray(connection, table):
        await vector_index.drop(connection, table, stray)
    known = await _list_known(resources, connection, table)
    unfinished = [segment for segment in known if not segment["is_ready"] and not segment["is_paused"]]
    begun = next((segment for segment in unfinished if segment["chunk_count"] <= max_chunks), None)
    if begun is not None:
        return begun
    min_chunks = resources.settings.vector_index.min_chunks
    due = await vector_index.list_due(connection, table, min_chunks=min_chunks, max_chunks=max_chunks)
    renewed = [merged for segments in _by_store(known) if (merged := renewed_segment(segments, max_chunks)) is not None]
    chosen = due[:1] or sorted(renewed, key=lambda segment: segment["chunk_count"])[:1]
    return await vector_index.plan(connection, chosen[0]) if chosen else None


async def _settle(connection: Connection, segments: Sequence[Known]) -> None:
    """Make what is known of a store's segments agree with the indexes that there are."""
    gone = dropped_segments(segments)
    if gone:
        await vector_index.forget(connection, segments[0]["vector_store_id"], gone)
    for segment in segments:
        if segment["id"] in gone or segment["is_ready"] == segment["is_built"]:
            continue
        if segment["is_built"]:  # a worker died before it could
            await vector_index.switch(connection, segment)
        else:  # somebody dropped the index, or it was not restored with the rest
            await vector_index.reset(connection, segment)


async def _build(connection: Connection, table: ChunkTable, segment: Planned) -> bool:
    facts = {"vector_store_id": segment["vector_store_id"], "chunks": segment["chunk_count"]}
    await vector_index.drop(connection, table, segment["id"])  # an invalid one is what a failure leaves
    await vector_index.begin(connection, segment)
    log.info("vector_index_begun", **facts)
    try:
        await vector_index.create(connection, table, segment)
    except BuildFailed as error:
        log.warning("vector_index_failed", **facts, error=str(error))
        await vector_index.fail(connection, segment, error=str(error))
        return False
    await vector_index.switch(connection, segment)
    await vector_index.analyze(connection, table)
    log.info("vector_index_built", **facts)
    return True


async def _list_known(resources: Resources, connection: Connection, table: ChunkTable) -> list[Known]:
    settings = resources.settings.vector_index
    return await vector_index.list_known(
        connection, table, min_chunks=settings.min_chunks, pause_seconds=settings.retry_seconds
    )


def _by_store(known: Sequence[Known]) -> Iterator[list[Known]]:
    for _, segments in groupby(known, key=lambda segment: segment["vector_store_id"]):
        yield list(segments)


def dropped_segments(segments: Sequence[Known]) -> list[int]:
    """Those that are to have no index any more: the store is gone or has become small, or they are empty."""
    living = sum(segment["living_count"] for segment in segments)
    if not segments[0]["is_wanted"] or living < DROPPED_SHARE * segments[0]["large"]:
        return [segment["id"] for segment in segments]
    return [segment["id"] for segment in segments if segment["living_count"] == 0]


def renewed_segment(segments: Sequence[Known], max_chunks: int = MAX_SEGMENT_CHUNKS) -> Due | None:
    """What of a store is to be indexed anew: young segments as one, or one of which much was deleted.

    Segments are merged from the youngest on, as long as each is no larger than those after it together: a store has a
    few of each order of magnitude, and a chunk is indexed anew about as often as its store has doubled.
    """
    if not all(segment["is_ready"] for segment in segments):
        return None
    merged: list[Known] = []
    chunks = 0
    for segment in reversed([segment for segment in segments if segment["until_seq"] is not None]):
        if merged and (segment["living_count"] > chunks or chunks + segment["living_count"] > max_chunks):
            break
        merged.append(segment)
        chunks += segment["living_count"]
    if len(merged) > 1:
        return _range(merged[-1], merged[0], chunks)
    worn = (one for one in segments if one["living_count"] < (1 - REBUILT_SHARE) * one["chunk_count"])
    chosen = next((segment for segment in worn if segment["living_count"] <= max_chunks), None)
    return None if chosen is None else _range(chosen, chosen, chosen["living_count"])


def _range(first: Known, last: Known, chunks: int) -> Due:
    return {
        "vector_store_id": first["vector_store_id"],
        "dimension": first["dimension"],
        "after_seq": first["after_seq"],
        "until_seq": last["until_seq"],
        "chunk_count": chunks,
    }
