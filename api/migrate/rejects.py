"""The rows that cannot go: JSON Lines, each with the reason, and a source of their own once they are put right."""

import errno
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

    `length` is the checkpoint's, None once the migration was through: the file may have been edited since. A shorter
    file is another one than then, and is appended to.
    """

    def __init__(self, path: Path, *, length: int | None) -> None:
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        self._length = size if length is None else min(length, size)

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

    def cut(self) -> None:
        """Cut off what a killed run left, when all is written and nothing was rejected any more."""
        try:
            if self.path.is_file() and self.path.stat().st_size > self._length:
                os.truncate(self.path, self._length)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def check_writable(path: Path) -> None:
    """Find out before anything is done what the first rejected row would be lost by.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    is_there = path.exists()
    if not os.access(path if is_there else path.parent, os.W_OK) or path.is_dir():
        number = errno.ENOENT if not path.parent.exists() else errno.EISDIR if path.is_dir() else errno.EACCES
        raise _unwritable(path, OSError(number, os.strerror(number)))


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
