"""The rows that cannot go: JSON Lines, each with the reason, and a source of their own once they are put right."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from api.errors import ConfigurationError
from api.migrate.records import Record, Reject


class Rejects:
    """Appends to the file, made at the first row; what a killed run wrote behind the checkpoint is cut off.

    Raises:
        ConfigurationError: the file cannot be written.
    """

    def __init__(self, path: Path, *, length: int) -> None:
        self.path = path
        self._length = length
        try:
            if path.exists() and path.stat().st_size > length:
                os.truncate(path, length)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, rejects: Sequence[Reject]) -> int:
        data = b"".join(orjson.dumps(_line(reject)) + b"\n" for reject in rejects)
        try:
            with self.path.open("r+b" if self.path.exists() else "wb") as file:
                file.seek(self._length)  # a transaction that was undone may have left lines behind it
                file.truncate()
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._length += len(data)
        return self._length


def _line(reject: Reject) -> dict[str, Any]:
    record = reject.record
    line = {"reason": reject.reason, **_fields(record)}
    try:
        orjson.dumps(line)
    except orjson.JSONEncodeError:  # half a character, or a number without end: what is left is readable
        return {"reason": reject.reason, "id": _printable(record.id), "content": _printable(record.content)}
    return line


def _fields(record: Record) -> dict[str, Any]:
    vector = None if record.vector is None else np.asarray(record.vector).astype(np.float32).tolist()
    fields = {
        "id": record.id,
        "content": record.content,
        # JSON has no NaN; as a text it is said what was there.
        "embedding": vector and [number if math.isfinite(number) else str(number) for number in vector],
        "metadata": record.metadata,
        "created_at": record.created_at,
        "file_id": record.file_id,
        "filename": record.filename,
        "chunk_index": record.chunk_index,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _printable(text: str | None) -> str | None:
    return text and text.encode(errors="replace").decode()


def _unwritable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"The file of rejected rows, {path}, cannot be written: {error.strerror}. See --rejects.")
