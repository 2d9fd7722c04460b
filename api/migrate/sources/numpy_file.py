"""NumPy: vectors in an .npy with their texts in a file beside it, or all of it in an .npz. The position is the row."""

import itertools
import zipfile
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson

from api.errors import ConfigurationError
from api.migrate.fields import Fields, Kind, guess, kind_of, read_record
from api.migrate.records import Batch, StoreSettings, rows_of
from api.migrate.sources.files import FileOfRows, file_identity

Array = np.ndarray[Any, Any]
LOOKED_AT_LINES = 1000  # of the texts, for the guess


class NumpyFile(FileOfRows):
    """Arrays of one length, and the rows of a text file of as many.

    Raises:
        ConfigurationError: it is no NumPy file, holds Python objects, or says nothing of the texts.
    """

    def __init__(self, path: Path, texts: Path | None, wanted: Fields) -> None:
        self._path, self._texts = path, texts
        # A number alone, as a version may be, is of no row.
        self._arrays = {name: array for name, array in _load(path).items() if array.ndim}
        if not self._arrays:
            raise ConfigurationError(f"{path} has no arrays with rows.")
        self._rows = len(next(iter(self._arrays.values())))
        if any(len(array) != self._rows for array in self._arrays.values()):
            raise ConfigurationError(f"The arrays of {path} have different lengths.")
        columns: dict[str, Kind] = {name: _kind(array) for name, array in self._arrays.items()}
        if texts is not None:
            self._check_texts(texts)
            for row in itertools.islice(_rows(texts), LOOKED_AT_LINES):
                columns |= {name: kind_of(value) for name, value in row.items() if value is not None}
        elif path.suffix == ".npy" and list(self._arrays) == ["vector"]:
            raise ConfigurationError(
                f"{path} has vectors only; name the file of their texts with --texts: JSON Lines, or a text a line, "
                "in the same order."
            )
        self._fields = guess(columns, wanted, what=str(path))
        self.store = StoreSettings(name=path.stem)

    @property
    def shown(self) -> str:
        return f"{self._path} with {self._texts}" if self._texts else str(self._path)

    @property
    def identity(self) -> str:
        return " ".join(file_identity(path) for path in (self._path, self._texts) if path)

    async def count(self) -> int | None:
        return self._rows

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        done: int = position or 0
        texts = itertools.islice(_rows(self._texts) if self._texts else itertools.repeat({}), done, None)
        step = rows_of(sum(array[:1].nbytes for array in self._arrays.values()) + 1000)
        while done < self._rows:
            arrays = {name: _values(array[done : done + step]) for name, array in self._arrays.items()}
            rows = [
                {**dict(zip(arrays, values, strict=True)), **row}
                for values, row in zip(zip(*arrays.values(), strict=True), texts, strict=False)
            ]
            records = [
                read_record(row, self._fields, id=f"{self._path.stem}_{done + number:09}")
                for number, row in enumerate(rows, 1)
            ]
            done += len(rows)
            yield Batch(records, done)

    def _check_texts(self, texts: Path) -> None:
        with texts.open("rb") as file:
            lines = sum(1 for _ in file)
        if lines != self._rows:
            raise ConfigurationError(f"{texts} has {lines:,} lines, and {self._path} has {self._rows:,} rows.")


def _load(path: Path) -> Mapping[str, Array]:
    """The arrays of a file by name; those of an .npy stay in it until they are asked for."""
    try:
        if path.suffix == ".npz":
            if not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        array = cast("Array", np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigurationError(
            f"{path} cannot be read as a NumPy file: it is broken, or holds Python objects, which are not read."
        ) from error
    if not array.dtype.names and array.ndim != 2:  # rows by dimensions
        raise ConfigurationError(f"{path} has {array.ndim} dimensions; vectors have two, rows and numbers.")
    return {name: array[name] for name in array.dtype.names} if array.dtype.names else {"vector": array}


def _kind(array: Array) -> Kind:
    if array.ndim > 1:
        return "numbers" if array.dtype.kind == "f" else "other"
    return "text" if array.dtype.kind in "US" else "number"


def _values(array: Array) -> list[Any]:
    """One value a row; vectors stay arrays."""
    if array.ndim > 1:
        return list(cast("Any", np.asarray(array)))
    values = array.tolist()
    return [value.decode(errors="surrogateescape") for value in values] if array.dtype.kind == "S" else values


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file beside the vectors: objects, or a text a line."""
    with path.open("rb") as file:
        for line in file:
            if path.suffix not in (".jsonl", ".ndjson"):
                yield {"text": line.decode(errors="surrogateescape").rstrip("\r\n")}
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:  # its vector has no text, and is rejected
                row = {}
            yield cast("dict[str, Any]", row) if isinstance(row, dict) else {}
