"""JSON Lines: one object a line. The position is the byte behind the last line that was read."""

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import orjson

from api.errors import ConfigurationError
from api.migrate.fields import Fields, Kind, guess, kind_of, read_record
from api.migrate.records import BATCH_BYTES, BATCH_ROWS, Batch, Record, StoreSettings
from api.migrate.sources.files import FileOfRows, read_store

LOOKED_AT_LINES = 1000  # for the guess
# Those of an export, of which a line has only what its chunk has.
EXPORTED: Final[Mapping[str, Kind]] = {
    "id": "text",
    "content": "text",
    "embedding": "numbers",
    "metadata": "json",
    "created_at": "text",
    "file_id": "text",
    "filename": "text",
    "chunk_index": "number",
    "chunking_strategy": "json",
}


class JsonLines(FileOfRows):
    """One file of JSON Lines; an export of Quiver's begins with a line that describes the store.

    Raises:
        ConfigurationError: it has no line with an object, or lacks a field that was named.
    """

    row = "line"

    def __init__(self, path: Path, wanted: Fields) -> None:
        self._path = path
        self.store, columns = _look(path)
        self._fields = guess(columns, wanted, what=str(path))

    async def count(self) -> int | None:
        return None

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        offset, line_number = position or (0, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            records: list[Record] = []
            size = 0
            for line in file:
                offset += len(line)
                line_number += 1
                if (record := self._record(line, line_number)) is not None:
                    records.append(record)
                    size += len(line)
                if len(records) == BATCH_ROWS or size > BATCH_BYTES:
                    yield Batch(records, [offset, line_number])
                    records, size = [], 0
            if records:
                yield Batch(records, [offset, line_number])

    def _record(self, line: bytes, number: int) -> Record | None:
        """The line's record; None for a blank line and for the description of the store."""
        if not line.strip():
            return None
        id = f"{self._path.stem}_{number:09}"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return Record(id, None, None, flaw=f"line {number} is no JSON: {error}")
        if not isinstance(row, dict):
            return Record(id, None, None, flaw=f"line {number} is no JSON object")
        row = cast("dict[str, Any]", row)
        return None if row.get("object") == "vector_store" else read_record(row, self._fields, id=id)


def _look(path: Path) -> tuple[StoreSettings, dict[str, Kind]]:
    store, columns = StoreSettings(name=path.stem), dict[str, Kind]()
    with path.open("rb") as file:
        for line, _ in zip(file, range(LOOKED_AT_LINES), strict=False):
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(row, dict):
                row = cast("dict[str, Any]", row)
                if row.get("object") == "vector_store":
                    return read_store(row), dict(EXPORTED)
                for name, value in row.items():
                    if value is not None and columns.get(name, "other") == "other":
                        columns[name] = kind_of(value)
    if not columns:
        raise ConfigurationError(f"{path} has no JSON objects, one a line.")
    return store, columns
