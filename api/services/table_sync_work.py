"""What workers do for synced tables: take over what has changed, read the rows, embed them and write their chunks.

A row is claimed for a short while that is prolonged again and again; nothing is locked while it is read and embedded.
It is waited for no longer only if it has not changed since it was claimed.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import structlog

from api import chunking, tokenizers
from api.errors import ApiError, EmbeddingTimeout, EmbeddingUnavailable, InvalidRequest
from api.resources import Resources
from api.schemas.vector_stores import VectorStore
from api.services import stores, table_syncs
from api.tables import source_tables, synced_chunks, vector_stores
from api.tables import table_syncs as queue
from api.tables.source_tables import MAX_ROW_BYTES, Source, SourceRow, SourceUnavailable
from api.tables.synced_chunks import NewRow, Size, StoredRow
from api.tables.table_syncs import ClaimedRow, Declaration
from api.vectors import Vectors

log: structlog.stdlib.BoundLogger = structlog.get_logger()

BATCH_ROWS = 64
TAKEN_CHANGES = 50_000  # in one transaction of about a second
SCANNED_ROWS = 2_000  # likewise; so many rows at most wait for being scanned, however long the table is

LEASE_SECONDS = 10.0  # a worker that says nothing for so long is dead, and its rows are others'
RENEW_SECONDS = 2.5

RETRY_SECONDS = (1, 2, 5, 10, 20, 30, 60)  # before each further try of a row; the last is repeated
PAUSE_SECONDS = 15.0  # of a sync whose table or store cannot be used

AWAY = (EmbeddingUnavailable, EmbeddingTimeout)


class _Gone(Exception):
    """The store or the sync was dropped, or the store has expired, meanwhile."""


@dataclass(frozen=True)
class _Claim:
    """Rows of a sync that one worker has, by key."""

    sync: Declaration
    source: Source
    id: str
    rows: Mapping[str, ClaimedRow]

    @property
    def versions(self) -> dict[str, int]:
        return {key: row["version"] for key, row in self.rows.items()}

    def of(self, keys: Iterable[str]) -> "_Claim":
        return replace(self, rows={key: self.rows[key] for key in keys})


@dataclass(frozen=True)
class _Change:
    """What is to be done with a row: `texts` is None where only the attributes differ, empty where it is taken out."""

    key: str
    texts: list[str] | None
    attributes: dict[str, Any] | None


async def work(resources: Resources, *, seconds: float) -> int:
    """Do what is due in all syncs, a batch of each in turn, until nothing is or the time is over.

    Returns:
        How many rows were looked at.
    """
    deadline = time.monotonic() + seconds
    total = 0
    is_busy = True
    while is_busy and time.monotonic() < deadline:
        async with resources.database.connection() as connection:
            due = await queue.list_due(connection)
        is_busy = False
        for sync in due:
            taken = await _take_over(resources, sync)
            rows = await _advance(resources, sync)
            is_busy = is_busy or taken or bool(rows)
            total += rows or 0
            if rows is None:  # the embedding service is away; the next job tries again
                return total
    return total


async def sweep(resources: Resources) -> list[str]:
    """Drop the syncs whose store is gone, and answer with their ids."""
    async with resources.database.connection() as connection:
        orphaned = await queue.list_orphaned(connection)
    for id in orphaned:
        with suppress(ApiError):  # its table is in use; the next sweep comes
            await table_syncs.drop(resources, id)
    return orphaned


async def _take_over(resources: Resources, sync: Declaration) -> bool:
    """Have what has changed, and what the scan finds next, wait as rows. False: there is nothing, or another does."""
    id = sync["id"]
    try:
        async with resources.database.transaction(is_long=True) as connection:
            lead = await queue.lead(connection, id)
            if lead is None:
                return False
            changes, is_any = await queue.take_over(connection, id, limit=TAKEN_CHANGES)
            scan, after = ("rows", None) if is_any else (lead["scan"], lead["scan_after"])
            if is_any:
                await queue.set_scan(connection, id, "rows", None)
            if scan == "done" or await queue.count_scanned(connection, id, limit=SCANNED_ROWS) >= SCANNED_ROWS:
                return changes > 0
            source = table_syncs.source_of(sync)
            if scan == "rows":
                rows, last = await queue.scan_rows(connection, id, source, after=after, limit=SCANNED_ROWS)
            else:
                table = await resources.database.chunk_table()
                store_id = sync["vector_store_id"]
                rows, last = await queue.scan_chunks(
                    connection, table, store_id, id, source, after=after or "", limit=SCANNED_ROWS
                )
            if rows == SCANNED_ROWS:
                await queue.set_scan(connection, id, scan, last)
            else:
                await queue.set_scan(connection, id, "chunks" if scan == "rows" else "done", None)
            return True
    except SourceUnavailable as error:
        await _pause(resources, sync, error)
        return False


async def _advance(resources: Resources, sync: Declaration) -> int | None:
    """Do a batch of a sync's rows: how many there were. None: the embedding service is away."""
    async with resources.database.connection() as connection:
        claim_id = uuid4().hex
        rows = await queue.claim(connection, sync["id"], claim=claim_id, limit=BATCH_ROWS, lease_seconds=LEASE_SECONDS)
    if not rows:
        return 0
    claim = _Claim(sync, table_syncs.source_of(sync), claim_id, {row["key"]: row for row in rows})
    try:
        async with _kept(resources, claim):
            is_there = await _process(resources, claim)
    except _Gone:
        await _release(resources, claim)
        return 0
    except (SourceUnavailable, InvalidRequest) as error:
        await _release(resources, claim)
        await _pause(resources, sync, error)
        return 0
    except BaseException:  # this worker stops, or the database is away
        with suppress(ApiError):
            await _release(resources, claim)
        raise
    if sync["error"] is not None:
        async with resources.database.connection() as connection:
            await queue.resume(connection, sync["id"])
    return len(rows) if is_there else None


@asynccontextmanager
async def _kept(resources: Resources, claim: _Claim) -> AsyncGenerator[None]:
    """Say again and again that this worker lives."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(ApiError):
                async with resources.database.connection() as connection:
                    await queue.renew(
                        connection,
                        claim.sync["id"],
                        claim=claim.id,
                        keys=list(claim.rows),
                        lease_seconds=LEASE_SECONDS,
                    )

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()


async def _process(resources: Resources, claim: _Claim) -> bool:
    """Bring rows into the store as they are in the table. False: the embedding service is away."""
    table = await resources.database.chunk_table()
    keys = list(claim.rows)
    async with resources.database.connection() as connection:
        store = await _store(connection, claim)
        found = {row["key"]: row for row in await source_tables.read(connection, claim.source, keys)}
        stored = await synced_chunks.list_stored(
            connection, table, claim.sync["vector_store_id"], claim.source.filename, keys
        )
    too_long = [key for key, row in found.items() if not row["is_readable"]]
    if too_long:
        await _fail(resources, claim.of(too_long), f"The texts of the row have more than {MAX_ROW_BYTES} bytes.")
    claim = claim.of(key for key in keys if key not in too_long)
    changes = await asyncio.to_thread(_changes, resources, claim, store, found, stored)
    for group in _groups(claim, changes):
        if not await _apply(resources, claim, store, {key: changes[key] for key in group}):
            await _release(resources, claim)  # what is left of it
            return False
    return True


def _groups(claim: _Claim, changes: Mapping[str, "_Change | None"]) -> Iterator[list[str]]:
    """The rows that are written together: those that need no embedding first, those that failed in ever smaller ones.

    So one row at which the embedding service breaks down is soon alone.
    """
    by_attempts: dict[int, list[str]] = {}
    for key, change in changes.items():
        is_embedded = change is not None and bool(change.texts)
        by_attempts.setdefault(claim.rows[key]["attempts"] if is_embedded else -1, []).append(key)
    for attempts, keys in sorted(by_attempts.items()):
        size = max(1, BATCH_ROWS >> 2 * max(attempts, 0))
        yield from (keys[start : start + size] for start in range(0, len(keys), size))


def _changes(
    resources: Resources,
    claim: _Claim,
    store: VectorStore,
    found: Mapping[str, SourceRow],
    stored: Mapping[str, StoredRow],
) -> dict[str, _Change | None]:
    """What is to be done by key; None: nothing."""
    sizes = claim.sync["chunking_strategy"]["static"]
    tokenizer = tokenizers.tokenizer_for(store["embedding_model"] or resources.embeddings.default_model)
    changes: dict[str, _Change | None] = {}
    for key in claim.rows:
        row, there = found.get(key), stored.get(key, StoredRow([], None))
        texts: list[str] = []
        attributes: dict[str, Any] | None = None
        if row is not None and row["texts"] is not None:
            chunks = chunking.split(
                [table_syncs.render(claim.sync["template"], row["texts"])],
                kind="text",
                max_tokens=sizes["max_chunk_size_tokens"],
                overlap_tokens=sizes["chunk_overlap_tokens"],
                tokenizer=tokenizer,
            )
            texts = [chunk.text for chunk in chunks]
            attributes = {name: value for name, value in row["attributes"].items() if value is not None} or None
        if texts != there.texts:
            changes[key] = _Change(key, texts, attributes)
        elif texts and attributes != there.attributes:
            changes[key] = _Change(key, None, attributes)
        else:
            changes[key] = None
    return changes


async def _apply(
    resources: Resources, claim: _Claim, store: VectorStore, changes: Mapping[str, _Change | None]
) -> bool:
    """Embed and write; rows that are refused are found by halves, so that the others do not wait for them."""
    try:
        vectors = await _embed(resources, store, changes)
        await _write(resources, claim.of(list(changes)), changes, vectors)
    except AWAY as error:
        await _fail(resources, claim.of(list(changes)), error.message)
        return error.code == "embedding_dimension_mismatch"
    except InvalidRequest as error:
        keys = list(changes)
        if len(keys) == 1:
            await _fail(resources, claim.of(keys), error.message)
            return True
        middle = len(keys) // 2
        for half in (keys[:middle], keys[middle:]):
            if not await _apply(resources, claim, store, {key: changes[key] for key in half}):
                return False
    return True


async def _embed(resources: Resources, store: VectorStore, changes: Mapping[str, _Change | None]) -> dict[str, Vectors]:
    texts = [text for change in changes.values() if change is not None for text in change.texts or ()]
    if not texts:
        return {}
    model = store["embedding_model"] or resources.embeddings.default_model
    vectors = await resources.embeddings.embed(texts, model=model, dimension=store["embedding_dimension"])
    by_key: dict[str, Vectors] = {}
    start = 0
    for key, change in changes.items():
        end = start + len(change.texts or () if change is not None else ())
        by_key[key] = vectors[start:end]
        start = end
    return by_key


async def _write(
    resources: Resources, claim: _Claim, changes: Mapping[str, _Change | None], vectors: Mapping[str, Vectors]
) -> None:
    """Replace the chunks of rows and wait for them no longer, all in one transaction.

    Raises:
        InvalidRequest: the store has vectors of another dimension by now.
    """
    table = await resources.database.chunk_table()
    sync, source = claim.sync, claim.source
    store_id = sync["vector_store_id"]
    async with resources.database.transaction(is_long=True) as connection:
        store = await vector_stores.hold(connection, store_id)
        if store is None or store["status"] == "expired" or not await queue.hold(connection, sync["id"]):
            raise _Gone
        ours = await queue.lock_claimed(connection, sync["id"], claim=claim.id, keys=list(claim.rows))
        due = [change for key, change in changes.items() if change is not None and key in ours]
        for change in due:
            if change.texts is None:
                await synced_chunks.set_attributes(
                    connection, table, store_id, source.filename, change.key, change.attributes
                )
        replaced = [change.key for change in due if change.texts is not None]
        new = [
            NewRow(change.key, change.texts, vectors[change.key], change.attributes) for change in due if change.texts
        ]
        before, after = Size(), Size()
        if replaced:
            before = await synced_chunks.delete(connection, table, store_id, source.filename, replaced)
        if new:
            after = await synced_chunks.copy(connection, table, store_id, source.filename, sync["id"], new)
        await queue.finish(
            connection,
            sync["id"],
            claim=claim.id,
            versions={key: version for key, version in claim.versions.items() if key in ours},
        )
        if not replaced:
            return
        is_counted = await vector_stores.count_files(
            connection,
            store_id,
            {"completed": after.rows - before.rows},
            usage_bytes=after.bytes - before.bytes,
            dimension=new[0].vectors.shape[1] if new else None,
        )
        if not is_counted:
            raise InvalidRequest(
                "The vector store has vectors of another dimension than the model makes.",
                code="embedding_dimension_mismatch",
            )


async def _store(connection: Any, claim: _Claim) -> VectorStore:
    store = await vector_stores.find(connection, claim.sync["vector_store_id"])
    if store is None:
        raise _Gone
    return stores.require_unexpired(store["id"], store)


async def _fail(resources: Resources, claim: _Claim, message: str) -> None:
    log.warning("rows_not_embedded", table_sync=claim.sync["id"], rows=len(claim.rows), error=message)
    async with resources.database.connection() as connection:
        await queue.fail(
            connection,
            claim.sync["id"],
            claim=claim.id,
            versions=claim.versions,
            error=message,
            pauses_seconds=RETRY_SECONDS,
        )


async def _release(resources: Resources, claim: _Claim) -> None:
    async with resources.database.connection() as connection:
        await queue.release(connection, claim.sync["id"], claim=claim.id, keys=list(claim.rows))


async def _pause(resources: Resources, sync: Declaration, error: ApiError) -> None:
    log.warning("table_sync_paused", table_sync=sync["id"], error=error.message)
    async with resources.database.connection() as connection:
        await queue.pause(connection, sync["id"], error=error.message, seconds=PAUSE_SECONDS)
