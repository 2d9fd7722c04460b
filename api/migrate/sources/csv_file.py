"""CSV with a line of names. The position is the byte behind the last row, which may span lines."""

import csv
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import IO, Any, Final

from api.errors import ConfigurationError
from api.migrate.fields import Fields, Kind, guess, read_record
from api.migrate.records import BATCH_BYTES, BATCH_ROWS, Batch, Record, StoreSettings
from api.migrate.sources.files import FileOfRows

DELIMITERS: Final = ",;\t|"
FIELD_BYTES: Final = 64 * 1024 * 1024  # csv's own limit is less than the text of a long vector


class CsvFile(FileOfRows):
    """One file; its delimiter is the commonest in the line of names.

    Raises:
        ConfigurationError: it has no names, or lacks a field that was named.
    """

    def __init__(self, path: Path, wanted: Fields) -> None:
        csv.field_size_limit(FIELD_BYTES)
        self._path = path
        self.store = StoreSettings(name=path.stem)
        with path.open("rb") as file:
            first = file.readline().decode("utf-8-sig", errors="replace")
        self._delimiter = max(DELIMITERS, key=first.count)
        with path.open("rb") as file:
            lines = _Lines(file)
            names = next(csv.reader(lines, delimiter=self._delimiter), list[str]())
            self._start = lines.offset
        self._names = [name.encode(errors="surrogateescape").decode(errors="replace") for name in names]
        if not self._names or not any(self._names):
            raise ConfigurationError(f"{path} has no line of names.")
        columns: dict[str, Kind] = dict.fromkeys(self._names, "text")
        self._fields = guess(columns, wanted, what=str(path))

    async def count(self) -> int | None:
        return None

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        offset, number = position or (self._start, 0)
        with self._path.open("rb") as file:
            file.seek(offset)
            lines = _Lines(file, offset)
            records: list[Record] = []
            started = offset
            for values in csv.reader(lines, delimiter=self._delimiter):
                if not values:
                    continue
                number += 1
                records.append(self._record(values, number))
                if len(records) == BATCH_ROWS or lines.offset - started > BATCH_BYTES:
                    yield Batch(records, [lines.offset, number])
                    records, started = [], lines.offset
            if records:
                yield Batch(records, [lines.offset, number])

    def _record(self, values: list[str], number: int) -> Record:
        id = f"{self._path.stem}_{number:09}"
        if len(values) != len(self._names):
            return Record(id, None, None, flaw=f"row {number} has {len(values)} fields, not {len(self._names)}")
        row = {name: value or None for name, value in zip(self._names, values, strict=True)}
        return read_record(row, self._fields, id=id)


class _Lines:
    """The lines of a file as text, knowing how far they are. What is not in UTF-8 can be told, and is rejected."""

    def __init__(self, file: IO[bytes], offset: int = 0) -> None:
        self._file = file
        self.offset = offset

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            encoding = "utf-8-sig" if self.offset == 0 else "utf-8"
            self.offset += len(line)
            yield line.decode(encoding, errors="surrogateescape")
