"""Chunks on disk between embedding and the transaction that writes them: any number of them, in little memory."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Self

import numpy as np
import orjson

from api.vectors import Vectors


class Spool:
    """A file without a name, gone when it is closed or its process dies."""

    def __init__(self) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(prefix="quiver-")  # noqa: SIM115  # closed by close()
        self.chunks = 0
        self.usage_bytes = 0  # of the texts in UTF-8
        self.dimension: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep the next chunks of the file; shape of vectors (texts, dimension)."""
        np.save(self._file, vectors, allow_pickle=False)
        encoded = orjson.dumps(list(texts))
        self._file.write(len(encoded).to_bytes(8, "little"))
        self._file.write(encoded)
        self.chunks += len(texts)
        self.usage_bytes += sum(len(text.encode()) for text in texts)
        self.dimension = vectors.shape[1]

    def read(self) -> Iterator[tuple[list[str], Vectors]]:
        """What was appended, in the same portions."""
        self._file.seek(0)
        left = self.chunks
        while left:
            vectors: Vectors = np.load(self._file, allow_pickle=False)
            size = int.from_bytes(self._file.read(8), "little")
            texts: list[str] = orjson.loads(self._file.read(size))
            left -= len(texts)
            yield texts, vectors
