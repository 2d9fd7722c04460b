"""`quiver export`: a store with its chunks into a file, as `quiver migrate` reads it again."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson

from api.errors import ConfigurationError
from api.field_mapping import ChunkTable
from api.migrate.progress import Progress, say
from api.migrate.sources.parquet import STORE_KEY, pyarrow
from api.schemas.vector_stores import VectorStore
from api.services import stores
from api.settings import Settings
from api.tables import chunk_transfer, migrated_files
from api.tables.chunk_transfer import StoredChunk
from api.tables.database import Connection, Database

BATCH_ROWS: Final = 1000
COLUMNS: Final = (
    "id",
    "content",
    "embedding",
    "metadata",
    "created_at",
    "file_id",
    "filename",
    "chunk_index",
    "chunking_strategy",
)


class Writer(Protocol):
    def write(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


async def export(settings: Settings, vector_store_id: str, path: Path) -> int:
    """Write a store as it is at one moment; how many chunks. The file is there when it is whole.

    Raises:
        NotFound: there is no such store.
        ConfigurationError: the file's name ends on nothing known, or it cannot be written.
    """
    if path.suffix not in WRITERS:
        raise ConfigurationError(f"{path} must end on {' or '.join(WRITERS)}, which says what is written.")
    database = Database(settings)
    await database.open()
    part = path.with_name(f".{path.name}.part")
    try:
        table = await database.chunk_table()
        async with database.transaction(is_long=True) as connection:
            store = await stores.get_unexpired(connection, vector_store_id)
            total = await chunk_transfer.count(connection, table, vector_store_id)
            writer = _open(part, path.suffix, store)
            try:
                done = await _write(connection, table, store, writer, total=total)
            finally:
                writer.close()
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
        await database.close()
    say(f"{done:,} chunks of store {vector_store_id} are in {path}.")
    return done


async def _write(connection: Connection, table: ChunkTable, store: VectorStore, writer: Writer, *, total: int) -> int:
    done = 0
    with Progress("Writing", total=total) as progress:
        async with aclosing(_rows(connection, table, store["id"])) as batches:
            async for rows in batches:
                writer.write(rows)
                done += len(rows)
                progress.advance_to(done)
    return done


async def _rows(connection: Connection, table: ChunkTable, store_id: str) -> AsyncGenerator[list[dict[str, Any]]]:
    async with aclosing(chunk_transfer.export(connection, table, store_id, batch_rows=BATCH_ROWS)) as batches:
        async for chunks in batches:
            files = sorted({chunk["file_id"] for chunk in chunks if chunk["file_id"] is not None})
            strategies = await migrated_files.list_strategies(connection, store_id, files) if files else {}
            yield [_row(chunk, strategies) for chunk in chunks]


def _row(chunk: StoredChunk, strategies: Mapping[str, Any]) -> dict[str, Any]:
    return {**chunk, "chunking_strategy": strategies.get(chunk["file_id"] or "")}


def _described(store: VectorStore) -> dict[str, Any]:
    """What a new store needs to be like this one."""
    names = ("object", "id", "name", "description", "metadata", "expires_after")
    return {name: store[name] for name in (*names, "embedding_model", "embedding_dimension")}


def _open(path: Path, suffix: str, store: VectorStore) -> Writer:
    return WRITERS[suffix](path, store)


class _JsonLinesWriter:
    """The store in the first line, then a chunk a line; what a chunk has not is left out."""

    def __init__(self, path: Path, store: VectorStore) -> None:
        self._file = path.open("wb")
        self._file.write(orjson.dumps(_described(store)) + b"\n")

    def write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            line = {name: row[name] for name in COLUMNS if row[name] is not None}
            self._file.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class _ParquetWriter:
    """The store in the file's metadata; JSON columns are text, vectors lists of float32."""

    def __init__(self, path: Path, store: VectorStore) -> None:
        arrow = pyarrow("pyarrow")
        text = arrow.string()
        types = {
            "embedding": arrow.list_(arrow.float32()),
            "created_at": arrow.timestamp("us", tz="UTC"),
            "chunk_index": arrow.int32(),
        }
        schema = arrow.schema([(name, types.get(name, text)) for name in COLUMNS])
        self._arrow = arrow
        self._schema = schema.with_metadata({STORE_KEY: orjson.dumps(_described(store))})
        self._writer = pyarrow("pyarrow.parquet").ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: list[dict[str, Any]]) -> None:
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        for name in ("metadata", "chunking_strategy"):
            columns[name] = [None if value is None else orjson.dumps(value).decode() for value in columns[name]]
        columns["embedding"] = [None if value is None else np.asarray(value) for value in columns["embedding"]]
        self._writer.write_table(self._arrow.Table.from_pydict(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


WRITERS: Final = {".jsonl": _JsonLinesWriter, ".parquet": _ParquetWriter}
