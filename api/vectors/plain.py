"""Vectors without numpy: the same functions as in `arrays`, of which each says what it does."""

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, SupportsIndex, cast, overload

import pgvector
from pgvector import HalfVector

if TYPE_CHECKING:
    Floats = array[float]  # pyright: ignore[reportIndexIssue]  # this does not run
else:
    Floats = array  # takes no type before Python 3.12


class Vector(Floats):
    """An array of float32."""

    @property
    def size(self) -> int:
        return len(self)

    @property
    def nbytes(self) -> int:
        return len(self) * self.itemsize

    def copy(self) -> "Vector":
        return _vector(self)


class Vectors(list[Vector]):
    @property
    def shape(self) -> tuple[int, int]:
        return len(self), len(self[0]) if self else 0

    @overload
    def __getitem__(self, index: SupportsIndex) -> Vector: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> "Vectors": ...
    def __getitem__(self, index: SupportsIndex | slice | list[int]) -> "Vector | Vectors":
        if isinstance(index, list):
            return Vectors(self[position] for position in index)
        return Vectors(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)


def from_bytes(data: bytes) -> Vector:
    vector = _vector(())
    vector.frombytes(data)
    if sys.byteorder == "big":
        vector.byteswap()
    return vector


def from_numbers(numbers: Sequence[float]) -> Vector:
    if isinstance(numbers, str | bytes):  # of which an array would take the bytes
        raise TypeError("is no list of numbers")
    return _vector(numbers)


def rows_from_bytes(data: bytes, count: int) -> Vectors:
    size, rest = divmod(len(data), count)
    if not size or rest:
        raise ValueError("there are no vectors, or of different sizes")
    return as_rows([from_bytes(data[start : start + size]) for start in range(0, len(data), size)])


def rows_from_doubles(parts: Sequence[memoryview]) -> Vectors:
    return _filled(as_rows([_vector(part) for part in parts]))


def from_stored(stored: HalfVector | pgvector.Vector) -> Vector:
    return _vector(stored.to_list())


def as_rows(vectors: Sequence[Vector] | Vectors) -> Vectors:
    if len({len(vector) for vector in vectors}) != 1:
        raise ValueError("there are no vectors, or of different sizes")
    return vectors if isinstance(vectors, Vectors) else Vectors(vectors)


def joined(parts: Sequence[Vectors]) -> Vectors:
    return as_rows(list(chain.from_iterable(parts)))


def norm(vector: Vector) -> float:
    return math.hypot(*vector)


def have_directions(rows: Vectors) -> bool:
    return all(0 < norm(vector) < math.inf for vector in rows)


def cosine(left: Vector, right: Vector) -> float:
    product = math.fsum(one * other for one, other in zip(left, right, strict=True))
    return product / (norm(left) * norm(right))


def packed(rows: Vectors, *, is_half: bool) -> list[bytes]:
    return [pack(vector, is_half=is_half) for vector in rows]


def pack(vector: Vector, *, is_half: bool) -> bytes:
    length = norm(vector)
    scale = length if is_half or not 1e-6 < length < 1e6 else 1.0
    numbers = vector if scale == 1.0 else [number / scale for number in vector]
    return struct.pack(f">HH{len(vector)}{'e' if is_half else 'f'}", len(vector), 0, *numbers)


def _filled(rows: Vectors) -> Vectors:
    if not rows.shape[1]:
        raise ValueError("there are vectors without numbers")
    return rows


def _vector(numbers: Iterable[float]) -> Vector:
    return cast("Vector", Vector("f", numbers))  # the stub says that it is an array
