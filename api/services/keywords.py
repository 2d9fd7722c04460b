"""The keyword indexes, kept up behind the writes: new chunks in, deleted ones out, small segments merged."""

import asyncio
import time
from typing import Final

from api.resources import Resources
from api.services import lagging_indexes
from api.tables import keyword_index
from api.tables.keyword_index import Behind, Segment

# In one transaction of a few seconds. Most of a language's words are in every batch: larger ones write fewer rows.
BATCH_CHUNKS = 20_000
# Between batches that are not full. What was being written when the end was looked up is there by then, and what comes
# meanwhile makes the next batch larger: in a small one, nearly every word has a row of its own.
PAUSE_SECONDS: Final = 1.0
MIN_MERGED_SEGMENTS = 4  # so that a chunk is written anew but once while its segment grows fourfold
WAITING_SEGMENTS = 16  # an index that has chunks to catch up with leaves so many as they are
MAX_SEGMENT_CHUNKS = 100_000  # a larger merge would hold the store's index for minutes
REWRITTEN_SHARE = 0.2  # of a segment's chunks deleted: it is written anew without them


async def index(resources: Resources, *, seconds: float) -> int:
    """Index what is new in all stores, a batch of each in turn, until all is done or the time is over.

    It goes on while chunks are written. What a transaction that takes long writes is left to the next call.

    Returns:
        How many chunks were indexed.
    """
    table = await resources.database.chunk_table()
    if not table.has_seq:
        return 0
    deadline = time.monotonic() + seconds
    pause = 0.0
    total = 0
    while time.monotonic() < deadline:
        async with resources.database.connection(is_long=True) as connection:
            behind = await keyword_index.list_behind(connection, table, language=resources.settings.keyword_language)
            for store in behind:
                await keyword_index.start(connection, table, store)
        if not behind:
            break
        await asyncio.sleep(pause)
        has_advanced = [await _advance(resources, store) for store in behind]
        total += sum(chunks or 0 for chunks in has_advanced)
        if pause and all(chunks is None for chunks in has_advanced):
            break
        pause = 0.0 if BATCH_CHUNKS in has_advanced else PAUSE_SECONDS
    return total


async def sweep(resources: Resources) -> None:
    """Forget the chunks that are gone, and the indexes of stores that are."""
    for id in await lagging_indexes.sweep(resources, keyword_index.TABLES, keyword_index.forget_deleted):
        await _merge(resources, id)


async def _advance(resources: Resources, behind: Behind) -> int | None:
    """Index a batch of a store; None: nothing can be done for it at the moment."""
    table = await resources.database.chunk_table()
    id = behind["vector_store_id"]
    async with resources.database.transaction(is_long=True) as connection:
        progress = await keyword_index.claim(connection, id)
        if progress is None:
            return None
        if progress["language"] != behind["language"]:  # begun anew with the next batch
            await keyword_index.TABLES.clear(connection, id)
            return 0
        if progress["is_adopted"] and not progress["is_settled"]:
            return None
        indexed = await keyword_index.index_batch(connection, table, id, progress, limit=BATCH_CHUNKS)
    if indexed:
        await _merge(resources, id, is_behind=indexed == BATCH_CHUNKS)
    return indexed


async def _merge(resources: Resources, id: str, *, is_behind: bool = False) -> None:
    async with resources.database.transaction(is_long=True) as connection:
        progress = await keyword_index.claim(connection, id)
        if progress is None:
            return
        into = progress["next_segment"]
        segments = await keyword_index.list_segments(connection, id)
        if is_behind and len(segments) <= WAITING_SEGMENTS:
            return
        for merged in (young_segments(segments), *worn_segments(segments)):
            if merged:
                old = [segment for segment in segments if segment["segment"] in merged]
                await keyword_index.merge(connection, id, old, into=into)
                into += 1
                segments = [segment for segment in segments if segment["segment"] not in merged]


def young_segments(segments: list[Segment]) -> list[int]:
    """Those to merge, of all from the youngest on: each as long as those before it are as large together.

    So a store has a few segments of each order of magnitude, and a chunk is written anew about once for each.
    """
    merged: list[int] = []
    chunks = 0
    for segment in segments:
        if merged and (segment["chunk_count"] > chunks or chunks + segment["chunk_count"] > MAX_SEGMENT_CHUNKS):
            break
        merged.append(segment["segment"])
        chunks += segment["chunk_count"]
    return merged if len(merged) >= MIN_MERGED_SEGMENTS else []


def worn_segments(segments: list[Segment]) -> list[list[int]]:
    """Those to write anew, each by itself, since so much of them is gone; not those that are merged anyway."""
    young = young_segments(segments)
    return [
        [segment["segment"]]
        for segment in segments
        if segment["segment"] not in young and segment["deleted_count"] > REWRITTEN_SHARE * segment["chunk_count"]
    ]
