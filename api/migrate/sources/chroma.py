"""A directory of Chroma's, read without Chroma: its SQLite database, and vectors from its HNSW file and its queue.

Nothing is written to it. Chroma's own list of ids is one pickle, so that memory grows with it, some 300 bytes a row.
"""

import pickle
import sqlite3
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Final, cast

import numpy as np

from api.errors import ConfigurationError
from api.migrate.records import Batch, Record, StoreSettings, none_found, rows_of
from api.vectors import Vector

DATABASE: Final = "chroma.sqlite3"
DOCUMENT: Final = "chroma:document"

# hnswlib's header as Chroma writes it: version, offset of level 0, capacity, rows, bytes of a row, offset of the label
# in it, offset of the numbers in it, and what only a search needs.
HEADER: Final = struct.Struct("<iQQQQQQ")

LIST_COLLECTIONS = "SELECT id, name, dimension FROM collections ORDER BY name"

FIND_SEGMENT = "SELECT id FROM segments WHERE collection = ? AND scope = ?"

COUNT = "SELECT count(*) FROM embeddings WHERE segment_id = ?"

LIST_ROWS = """
SELECT id, embedding_id, created_at FROM embeddings WHERE segment_id = ? AND id > ? ORDER BY id LIMIT ?
"""

LIST_METADATA = """
SELECT id, key, string_value, int_value, float_value, bool_value FROM {table} WHERE id >= ? AND id <= ?
"""

HAS_TABLE = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?"

FIND_MAX_SEQ = "SELECT seq_id FROM max_seq_id WHERE segment_id = ?"

# What the vector file does not have yet; of several vectors of one row the last counts.
LIST_QUEUED = """
SELECT id, max(seq_id) FROM embeddings_queue
WHERE topic LIKE '%' || ? AND vector IS NOT NULL AND seq_id > ? GROUP BY id
"""

GET_QUEUED = "SELECT vector, encoding FROM embeddings_queue WHERE seq_id = ?"

COLLECTION_METADATA = "SELECT key, str_value, int_value, float_value FROM collection_metadata WHERE collection_id = ?"


@dataclass(frozen=True)
class Collection:
    id: str
    name: str
    dimension: int | None


class ChromaCollection:
    has_vectors = True

    def __init__(self, directory: Path, collection: Collection, metadata: Mapping[str, str]) -> None:
        self._directory = directory
        self._collection = collection
        self.store = StoreSettings(name=collection.name, metadata=dict(metadata) or None)

    @property
    def shown(self) -> str:
        return f"collection {self._collection.name!r} of Chroma in {self._directory}"

    @property
    def identity(self) -> str:
        return f"{self._directory.resolve()} {self._collection.id}"

    @property
    def reading(self) -> dict[str, str]:
        return {"id": "id", "text": "document", "vector": "embedding", "metadata": "metadata"}

    async def count(self) -> int | None:
        with closing(_connect(self._directory)) as connection:
            return connection.execute(COUNT, [self._segment(connection, "METADATA")]).fetchone()[0]

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        last: int = position or 0
        with closing(_connect(self._directory)) as connection:
            segment = self._segment(connection, "METADATA")
            vectors = _Vectors(connection, self._directory, self._collection, self._segment(connection, "VECTOR"))
            limit = rows_of(4 * (self._collection.dimension or 0) + 1000)
            tables = [
                table
                for table in ("embedding_metadata", "embedding_metadata_array")
                if connection.execute(HAS_TABLE, [table]).fetchone()[0]
            ]
            while rows := connection.execute(LIST_ROWS, [segment, last, limit]).fetchall():
                metadata = _metadata(connection, tables, rows[0][0], rows[-1][0])
                last = rows[-1][0]
                yield Batch([_record(id, metadata.get(number, {}), vectors) for number, id, _ in rows], last)

    def _segment(self, connection: sqlite3.Connection, scope: str) -> str:
        row = connection.execute(FIND_SEGMENT, [self._collection.id, scope]).fetchone()
        if row is None:
            raise ConfigurationError(f"{self.shown} has no {scope.lower()} segment; it was made by another Chroma.")
        return row[0]


def open_collections(directory: Path, *, collection: str | None) -> list[ChromaCollection]:
    """One source a collection.

    Raises:
        ConfigurationError: it is no directory of Chroma's, or has no such collection.
    """
    if not (directory / DATABASE).is_file():
        raise ConfigurationError(f"{directory} is no directory of Chroma's: it has no {DATABASE}.")
    with closing(_connect(directory)) as connection:
        collections = [Collection(*row) for row in connection.execute(LIST_COLLECTIONS)]
        chosen = [one for one in collections if collection in (None, one.name, one.id)]
        if not chosen:
            raise none_found("Chroma has there", "collection", collection, [one.name for one in collections])
        return [ChromaCollection(directory, one, _collection_metadata(connection, one)) for one in chosen]


class _Vectors:
    """The vector of each id: from the queue, else from the HNSW file."""

    def __init__(self, connection: sqlite3.Connection, directory: Path, collection: Collection, segment: str) -> None:
        self._connection = connection
        self._labels: dict[str, int] = {}
        self._rows: dict[int, int] = {}
        index = directory / segment
        max_seq = _number(connection.execute(FIND_MAX_SEQ, [segment]).fetchone())
        if (index / "index_metadata.pickle").is_file():
            described = _unpickle(index / "index_metadata.pickle")
            self._labels = described["id_to_label"]
            max_seq = max(max_seq, described.get("max_seq_id") or 0)
            self._numbers, labels = _read_index(index)
            self._rows = {label: row for row, label in enumerate(labels.tolist())}
        self._queued: dict[str, int] = dict(connection.execute(LIST_QUEUED, [collection.id, max_seq]))

    def get(self, id: str) -> Vector | None:
        if id in self._queued:
            vector, encoding = self._connection.execute(GET_QUEUED, [self._queued[id]]).fetchone()
            return np.frombuffer(vector, dtype="<f4" if encoding == "FLOAT32" else "<i4").astype(np.float32)
        row = self._rows.get(self._labels.get(id, -1))
        return None if row is None else np.array(self._numbers[row])


def _connect(directory: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{directory / DATABASE}?mode=ro", uri=True)


def _record(id: str, metadata: dict[str, Any], vectors: _Vectors) -> Record:
    content = metadata.pop(DOCUMENT, None)
    return Record(id, content, vectors.get(id), metadata or None)


def _metadata(
    connection: sqlite3.Connection, tables: Sequence[str], first: int, last: int
) -> dict[int, dict[str, Any]]:
    """The values of a range of rows by row and key; several of one key are a list."""
    found: dict[int, dict[str, Any]] = {}
    for table in tables:
        for id, key, *values in connection.execute(LIST_METADATA.format(table=table), [first, last]):
            row = found.setdefault(id, {})
            if table.endswith("_array"):
                row.setdefault(key, []).append(_value(*values))
            else:
                row[key] = _value(*values)
    return found


def _value(string: str | None, integer: int | None, real: float | None, boolean: int | None) -> Any:
    if boolean is not None:
        return bool(boolean)
    return next((value for value in (string, integer, real) if value is not None), None)


def _collection_metadata(connection: sqlite3.Connection, collection: Collection) -> dict[str, str]:
    """What the user said of the collection, as far as a store's metadata can hold it; not the index's settings."""
    found: dict[str, str] = {}
    for key, *values in connection.execute(COLLECTION_METADATA, [collection.id]):
        value = next((str(value) for value in values if value is not None), None)
        if value is not None and not key.startswith("hnsw:") and len(key) <= 64 and len(value) <= 512:
            found[key] = value
    return dict(list(found.items())[:16])


def _read_index(index: Path) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.uint64]]]:
    """The vectors of an index, which stay in the file until they are asked for, and their labels."""
    version, level0, _, rows, row_bytes, label, numbers = HEADER.unpack_from((index / "header.bin").read_bytes())
    if version != 1 or level0 != 0:
        raise ConfigurationError(
            f"{index} was written by a Chroma that is not known here (version {version} of its index); "
            "export it with Chroma's own client to JSON Lines and migrate those."
        )
    layout = np.dtype(
        {
            "names": ["numbers", "label"],
            "formats": [("<f4", ((label - numbers) // 4,)), "<u8"],
            "offsets": [numbers, label],
            "itemsize": row_bytes,
        }
    )
    data: Any = np.memmap(index / "data_level0.bin", dtype=layout, mode="r", shape=(rows,))
    return data["numbers"], np.array(data["label"])


class _Unpickler(pickle.Unpickler):
    """Reads maps and numbers, and Chroma's record of them; everything else a pickle could do is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData"):
            return SimpleNamespace
        raise pickle.UnpicklingError(f"{module}.{name} has no place in it")


def _unpickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        try:
            described = _Unpickler(cast("IO[bytes]", file)).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError) as error:
            raise ConfigurationError(f"{path} is not what Chroma writes: {error}.") from error
    return cast("dict[str, Any]", described if isinstance(described, dict) else vars(described))


def _number(row: tuple[Any] | None) -> int:
    value = row[0] if row else 0
    return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value or 0)
