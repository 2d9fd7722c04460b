"""Parquet, by pyarrow: a row group at a time. The position is the number of the row."""

import importlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson

from api.errors import ConfigurationError
from api.migrate.fields import Fields, Kind, guess, read_record
from api.migrate.records import Batch, Record, StoreSettings, rows_of
from api.migrate.sources.files import FileOfRows, read_store

LOOKED_AT_ROWS = 100  # tell how large the rows are
STORE_KEY = b"quiver_vector_store"  # of an export of ours: the store in the file's metadata


def pyarrow(module: str) -> Any:
    """A module of pyarrow's, which is an extra.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError("Parquet needs its own package: pip install 'quiver[migrate]'") from error


class Parquet(FileOfRows):
    """One file.

    Raises:
        ConfigurationError: it is no Parquet, or lacks a field that was named.
    """

    def __init__(self, path: Path, wanted: Fields) -> None:
        self._path = path
        arrow = pyarrow("pyarrow")
        try:
            with pyarrow("pyarrow.parquet").ParquetFile(path) as file:
                schema, self._rows = file.schema_arrow, file.metadata.num_rows
        except (arrow.ArrowInvalid, OSError) as error:
            raise ConfigurationError(f"{path} is no Parquet file: {str(error).rstrip('.')}.") from error
        self._fields = guess({field.name: _kind(arrow.types, field.type) for field in schema}, wanted, what=str(path))
        described: bytes | None = (schema.metadata or cast("dict[bytes, bytes]", {})).get(STORE_KEY)
        self.store = read_store(orjson.loads(described)) if described else StoreSettings(name=path.stem)

    async def count(self) -> int | None:
        return self._rows

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        done: int = position or 0
        columns = [name.partition(".")[0] for name in (*self._fields.named.values(), *self._fields.attributes)]
        with pyarrow("pyarrow.parquet").ParquetFile(self._path) as file:
            groups, skipped = self._groups(file, done)
            batch_rows = rows_of(self._path.stat().st_size * 2 // max(self._rows, 1))
            for table in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=columns):
                kept = table.slice(min(skipped, table.num_rows))
                skipped -= table.num_rows - kept.num_rows
                if kept.num_rows:
                    yield Batch(self._records(kept, done), done + kept.num_rows)
                    done += kept.num_rows

    def _groups(self, file: Any, done: int) -> tuple[list[int], int]:
        """The row groups behind some rows, and how many rows of the first of them are done."""
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        first = 0
        while first < len(sizes) and done >= sizes[first]:
            done -= sizes[first]
            first += 1
        return list(range(first, len(sizes))), done

    def _records(self, table: Any, done: int) -> list[Record]:
        vectors = self._fields.vector
        names = [name for name in table.schema.names if name != vectors]
        columns = {name: table.column(name).to_pylist() for name in names}
        if vectors in table.schema.names:
            columns[vectors] = _vectors(table.column(vectors))
        return [
            read_record(
                {name: values[number] for name, values in columns.items()},
                self._fields,
                id=f"{self._path.stem}_{done + number + 1:09}",
            )
            for number in range(table.num_rows)
        ]


def _vectors(column: Any) -> list[Any]:
    """The values of a column of vectors: arrays where it has lists of numbers."""
    types = pyarrow("pyarrow.types")
    if not (types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)):
        return column.to_pylist()
    if not types.is_floating(column.type.value_type):
        return column.to_pylist()
    return [
        value.values.to_numpy(zero_copy_only=False).astype(np.float32) if value.is_valid else None for value in column
    ]


def _kind(types: Any, column: Any) -> Kind:
    if types.is_list(column) or types.is_large_list(column) or types.is_fixed_size_list(column):
        return "numbers" if types.is_floating(column.value_type) else "other"
    if types.is_dictionary(column):
        return _kind(types, column.value_type)
    tests: dict[Kind, tuple[Any, ...]] = {
        "text": (types.is_string, types.is_large_string),
        "boolean": (types.is_boolean,),
        "number": (types.is_integer, types.is_floating, types.is_decimal),
        "time": (types.is_timestamp,),
        "json": (types.is_struct, types.is_map),
    }
    found: list[Kind] = [kind for kind, those in tests.items() if any(test(column) for test in those)]
    return found[0] if found else "other"
