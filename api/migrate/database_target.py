"""Straight into the database: a batch is one binary COPY, in one transaction with the counters and the checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from api import ids
from api.errors import ConfigurationError, InvalidRequest
from api.field_mapping import ChunkTable
from api.migrate.checks import Checked
from api.migrate.records import Record, Reject, StoreSettings
from api.migrate.target import Interrupted, Kept, Outcome, Prepared, RejectsFile, StoreFacts
from api.resources import Resources
from api.schemas.search import SearchRequest
from api.schemas.vector_stores import VectorStore
from api.services import search, stores
from api.settings import Settings
from api.tables import chunk_transfer, chunks, migrated_files, migration_checkpoints, migrations, vector_stores
from api.tables.database import Connection, Database
from api.tables.migrated_files import MigratedFile
from api.tables.migration_checkpoints import Checkpoint
from api.vectors import Vector, Vectors

MOVED_BY_ANOTHER = "Another `quiver migrate` is moving the same rows; let it finish, or stop it."


class DatabaseTarget:
    def __init__(self, settings: Settings, table: ChunkTable, database: Database) -> None:
        self._settings = settings
        self._table = table
        self._database = database
        self._resources: Resources | None = None  # what a search needs besides

    @classmethod
    async def open(cls, settings: Settings) -> "DatabaseTarget":
        """Connect and look the table of chunks up.

        Raises:
            DatabaseUnavailable: there is no connection, or the database is not migrated.
        """
        assert settings.database_url is not None  # whoever opens it has checked
        await migrations.status(settings.database_url.get_secret_value())  # which says why there is no connection
        database = Database(settings)
        await database.open()
        try:
            return cls(settings, await database.chunk_table(), database)
        except BaseException:
            await database.close()
            raise

    async def close(self) -> None:
        await (self._resources or self._database).close()

    @property
    def shown(self) -> str:
        return f"table {self._table.schema}.{self._table.name} of the database"

    async def find_store(self, id: str) -> StoreFacts:
        async with self._database.connection() as connection:
            return self._facts(await stores.get_unexpired(connection, id))

    async def begin(
        self, id: str, *, source: str, store_id: str | None, settings: StoreSettings, dimension: int | None
    ) -> tuple[StoreFacts, Checkpoint]:
        async with self._database.transaction() as connection:
            there = await migration_checkpoints.find(connection, id)
            if there is not None and (store := await vector_stores.find(connection, there["vector_store_id"])):
                return self._facts(store), there
            store = await self._store(connection, store_id, settings, dimension)
            begun = await migration_checkpoints.insert(connection, id, vector_store_id=store["id"], source=source)
        return self._facts(store), begun

    async def find(self, id: str) -> Checkpoint | None:
        async with self._database.connection() as connection:
            return await migration_checkpoints.find(connection, id)

    def prepare(self, store: StoreFacts, checked: Checked, position: Any) -> Prepared:
        if checked.vectors is None:
            return Prepared([], None, checked.rejects, position)
        records, vectors, rejects = self._with_typed_ids(checked)
        packed = self._pack(store, records, vectors) if records else b""
        return Prepared(records, vectors, rejects, position, packed)

    async def write(
        self, store: StoreFacts, batch: Prepared, checkpoint: Checkpoint, rejects: RejectsFile
    ) -> tuple[Outcome, Checkpoint]:
        async with self._database.transaction(is_long=True) as connection:
            outcome = await self._insert(connection, store, batch) if batch.records else Outcome(0, 0, batch.rejects)
            # The file belongs to whoever holds the checkpoint.
            if outcome.rejects and not await migration_checkpoints.hold(
                connection, checkpoint["id"], before=checkpoint["position"]
            ):
                raise Interrupted(MOVED_BY_ANOTHER)
            # The file first: what the checkpoint does not know of is cut off when the migration goes on.
            rejects_bytes = rejects.append(outcome.rejects) if outcome.rejects else checkpoint["rejects_bytes"]
            is_moved = await migration_checkpoints.advance(
                connection,
                checkpoint["id"],
                before=checkpoint["position"],
                position=batch.position,
                written=outcome.written,
                skipped=outcome.skipped,
                rejected=len(outcome.rejects),
                rejects_bytes=rejects_bytes,
            )
            if not is_moved:  # and the transaction is undone
                raise Interrupted(MOVED_BY_ANOTHER)
        return outcome, advanced(checkpoint, batch.position, outcome, rejects_bytes)

    async def finish(self, checkpoint: Checkpoint) -> None:
        async with self._database.connection() as connection:
            await migration_checkpoints.finish(connection, checkpoint["id"])

    async def count(self, store: StoreFacts) -> int | None:
        async with self._database.connection(is_long=True) as connection:
            return await chunk_transfer.count(connection, self._table, store.id)

    async def sample(self, store: StoreFacts, *, of: int, limit: int) -> list[str]:
        each = max(1, of // (4 * limit))
        async with self._database.connection(is_long=True) as connection:
            return await chunk_transfer.sample_ids(connection, self._table, store.id, each=each, limit=limit)

    async def get(self, store: StoreFacts, ids: Sequence[str]) -> dict[str, Kept]:
        async with self._database.connection(is_long=True) as connection:
            found = await chunk_transfer.get(connection, self._table, store.id, ids)
        return {id: Kept(row["content"], row["metadata"], row["embedding"]) for id, row in found.items()}

    async def look_up(self, store: StoreFacts, ids: Sequence[str]) -> tuple[int, set[str]]:
        async with self._database.connection(is_long=True) as connection:
            return len(ids), set(ids) - await chunk_transfer.list_present(connection, self._table, store.id, ids)

    def found_as(self, record: Record) -> str:
        return (self._table.has_file_columns and record.file_id) or str(record.id)

    async def search(self, store: StoreFacts, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        if self._resources is None:
            self._resources = replace(Resources.of(self._settings), database=self._database)
        request = SearchRequest(query_embedding=vector.astype(float).tolist(), max_num_results=limit)
        found = await search.search(self._resources, store.id, request)
        return [(result["file_id"], 2 * result["score"] - 1) for result in found.page["data"]]

    def storable(self, vectors: Vectors) -> Vectors:
        return chunk_transfer.storable(self._table, vectors)

    async def trial(self, store: StoreFacts, batch: Prepared) -> int | None:
        async with self._database.connection(is_long=True) as connection, connection.transaction(force_rollback=True):
            return await chunk_transfer.trial(connection, self._table, batch.packed)

    async def _store(
        self, connection: Connection, store_id: str | None, settings: StoreSettings, dimension: int | None
    ) -> VectorStore:
        if store_id is not None:
            return await stores.get_unexpired(connection, store_id)
        if settings.id is not None and (there := await vector_stores.find(connection, settings.id)) is not None:
            return there
        if self._table.dimension not in (None, dimension):
            raise ConfigurationError(
                f"The table of chunks holds vectors of {self._table.dimension} dimensions, not {dimension}."
            )
        new_id = settings.id or (str(uuid4()) if self._is_uuid else ids.new_ids("vs", 1)[0])
        values: dict[str, Any] = {
            "name": settings.name or "",
            "description": settings.description,
            "metadata": settings.metadata,
            "expires_after": settings.expires_after_days
            and {"anchor": "last_active_at", "days": settings.expires_after_days},
            "embedding_model": settings.embedding_model or self._settings.embedding.model,
            "embedding_dimension": dimension,
        }
        now = ids.created_at(new_id) or datetime.now(UTC)
        return await vector_stores.insert(connection, id=new_id, created_at=now, values=values)

    @property
    def _is_uuid(self) -> bool:
        return self._table.vector_store_id.type == "uuid"

    def _facts(self, store: VectorStore) -> StoreFacts:
        return StoreFacts(store["id"], store["name"], store["embedding_dimension"], store["embedding_model"])

    def _with_typed_ids(self, checked: Checked) -> tuple[list[Record], Vectors, list[Reject]]:
        assert checked.vectors is not None  # the caller has looked
        column = self._table.id
        if column.type in ("text", "varchar", "bpchar"):
            return checked.records, checked.vectors, checked.rejects
        fits = [record.id is not None and chunks.typed_id(column, record.id) is not None for record in checked.records]
        reason = f"the id is no {column.type}, as the ids of the target's table are"
        rejects = [Reject(record, reason) for record, fit in zip(checked.records, fits, strict=True) if not fit]
        records = [record for record, fit in zip(checked.records, fits, strict=True) if fit]
        return records, checked.vectors[fits], [*checked.rejects, *rejects]

    def _pack(self, store: StoreFacts, records: Sequence[Record], vectors: Vectors) -> bytes:
        return chunk_transfer.pack(self._table, store.id, records, vectors)

    async def _insert(self, connection: Connection, store: StoreFacts, batch: Prepared) -> Outcome:
        # A table that Quiver did not make may have no key that finds what is there already.
        has_key = self._table.has_seq
        take = vector_stores.hold if has_key else vector_stores.lock
        if not await take(connection, store.id):
            raise stores.no_such_store(store.id)
        assert batch.vectors is not None  # a batch with records has them
        if has_key and await self._copy(connection, store, batch, range(len(batch.records)), packed=batch.packed):
            return Outcome(len(batch.records), 0, batch.rejects)
        return await self._insert_missing(connection, store, batch)

    async def _insert_missing(self, connection: Connection, store: StoreFacts, batch: Prepared) -> Outcome:
        """Insert what the store lacks; what is there already is the same, or is refused."""
        assert batch.vectors is not None  # as above
        there = await chunk_transfer.get(
            connection, self._table, store.id, [str(record.id) for record in batch.records]
        )
        kept = self.storable(batch.vectors)
        missing: list[int] = []
        rejects = list(batch.rejects)
        for number, record in enumerate(batch.records):
            if record.id not in there:
                missing.append(number)
            elif not _is_same(there[record.id], record, kept[number]):
                rejects.append(Reject(record, "the store has another chunk with this id"))
        skipped = len(batch.records) - len(missing) - (len(rejects) - len(batch.rejects))
        if not await self._copy(
            connection, store, batch, missing
        ):  # litellm-pgvector's table has one key for all stores
            wanted = [str(batch.records[number].id) for number in missing]
            taken = await chunk_transfer.list_taken(connection, self._table, store.id, wanted)
            rejects += [
                Reject(batch.records[number], "a chunk of another store has this id")
                for number in missing
                if batch.records[number].id in taken
            ]
            missing = [number for number in missing if batch.records[number].id not in taken]
            if not await self._copy(connection, store, batch, missing):
                raise Interrupted("Somebody else is writing the same ids; start again when they have done.")
        return Outcome(len(missing), skipped, rejects)

    async def _copy(
        self,
        connection: Connection,
        store: StoreFacts,
        batch: Prepared,
        numbers: Sequence[int],
        *,
        packed: bytes | None = None,
    ) -> bool:
        """Copy and count some records of a batch, all or none. False: one of the ids is taken."""
        if not numbers:
            return True
        assert batch.vectors is not None  # as above
        records, vectors = [batch.records[number] for number in numbers], batch.vectors[list(numbers)]
        if not await chunk_transfer.copy(connection, self._table, packed or self._pack(store, records, vectors)):
            return False
        await self._count(connection, store, records, vectors)
        return True

    async def _count(
        self, connection: Connection, store: StoreFacts, records: Sequence[Record], vectors: Vectors
    ) -> None:
        files = _files(records) if self._table.has_file_columns else []
        new_files = await migrated_files.upsert(connection, store.id, files) if files else 0
        loose = sum(record.file_id is None or not files for record in records)
        is_counted = await vector_stores.count_chunks(
            connection,
            store.id,
            files=loose + new_files,
            usage_bytes=sum(len(str(record.content).encode()) for record in records),
            dimension=vectors.shape[1],
        )
        if not is_counted:  # and the transaction is undone
            now = await stores.get_unexpired(connection, store.id)
            raise InvalidRequest(
                f"Vector store {store.id!r} has vectors of {now['embedding_dimension']} dimensions, "
                f"not {vectors.shape[1]}."
            )


def advanced(checkpoint: Checkpoint, position: Any, outcome: Outcome, rejects_bytes: int) -> Checkpoint:
    """The checkpoint behind a batch."""
    return {
        **checkpoint,
        "position": position,
        "rows_written": checkpoint["rows_written"] + outcome.written,
        "rows_skipped": checkpoint["rows_skipped"] + outcome.skipped,
        "rows_rejected": checkpoint["rows_rejected"] + len(outcome.rejects),
        "rejects_bytes": rejects_bytes,
        "is_finished": False,
    }


def _is_same(there: chunk_transfer.StoredChunk, record: Record, vector: Vector) -> bool:
    if (there["content"], there["metadata"]) != (record.content, record.metadata) or there["embedding"] is None:
        return False
    return there["embedding"].shape == vector.shape and bool((there["embedding"] == vector).all())


def _files(records: Sequence[Record]) -> list[MigratedFile]:
    """The files that the records are of; what all chunks of a file have in common is taken from the first."""
    first: dict[str, Record] = {}
    usage_bytes: dict[str, int] = {}
    for record in records:
        if record.file_id is not None:
            first.setdefault(record.file_id, record)
            usage_bytes[record.file_id] = usage_bytes.get(record.file_id, 0) + len(str(record.content).encode())
    return [
        MigratedFile(id, usage_bytes[id], record.metadata, record.chunking_strategy, record.created_at)
        for id, record in first.items()
    ]
