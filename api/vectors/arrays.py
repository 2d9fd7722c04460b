"""Vectors as numpy's arrays of float32."""

import math
from collections.abc import Sequence
from struct import Struct
from typing import Final

import numpy as np
import numpy.typing as npt
import pgvector
from pgvector import HalfVector

Vector = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]  # one a row

SHORTEST: Final = 1e-6  # of vectors whose squares single precision adds up
LONGEST: Final = 1e6

HEADER: Final = Struct(">HH")  # pgvector's: the dimension, and two bytes that are not used


def from_bytes(data: bytes) -> Vector:
    """Read little-endian float32.

    Raises:
        ValueError: it is not a whole number of floats.
    """
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def from_numbers(numbers: Sequence[float]) -> Vector:
    """Read numbers; those beyond float32 become infinite.

    Raises:
        TypeError, ValueError: they are none.
    """
    wide = np.asarray(numbers, dtype=np.float64)
    if wide.ndim != 1:
        raise ValueError("is no list of numbers")
    with np.errstate(over="ignore"):
        return wide.astype(np.float32)


def rows_from_bytes(data: bytes, count: int) -> Vectors:
    """Read little-endian float32 as so many rows of one size.

    Raises:
        ValueError: there are none, or a row is empty or not a whole number of floats.
    """
    if not data:
        raise ValueError("there are no vectors")
    return np.frombuffer(data, dtype="<f4").reshape(count, -1).astype(np.float32, copy=False)


def rows_from_doubles(parts: Sequence[memoryview]) -> Vectors:
    """Read doubles as the rows of one array; those beyond float32 become infinite.

    Raises:
        ValueError: there are none, one is empty, or their sizes differ.
    """
    if len(set(map(len, parts))) != 1 or not len(parts[0]):
        raise ValueError("there are no vectors, or of different sizes")
    with np.errstate(over="ignore"):
        return np.frombuffer(b"".join(parts), dtype=np.float64).reshape(len(parts), -1).astype(np.float32)


def from_stored(stored: HalfVector | pgvector.Vector) -> Vector:
    return stored.to_numpy().astype(np.float32)


def as_rows(vectors: Sequence[Vector] | Vectors) -> Vectors:
    """Put vectors together; rows stay what they are.

    Raises:
        ValueError: there are none, or their sizes differ.
    """
    return vectors if isinstance(vectors, np.ndarray) else np.stack(vectors)


def joined(parts: Sequence[Vectors]) -> Vectors:
    return np.concatenate(parts)


def norm(vector: Vector) -> float:
    """The length: finite just where all numbers are, and 0 of the zero vector only."""
    wide = vector.astype(np.float64)  # where no square of float32 is lost
    return math.sqrt(wide @ wide)


def have_directions(rows: Vectors) -> bool:
    """Whether all are finite and none is zero."""
    return bool(np.isfinite(rows).all() and rows.any(axis=1).all())


def cosine(left: Vector, right: Vector) -> float:
    product = float(left.astype(np.float64) @ right.astype(np.float64))
    return product / (norm(left) * norm(right))


def pack(vector: Vector, *, is_half: bool) -> bytes:
    """Write one vector as `packed` does."""
    length = norm(vector)
    scale = length if is_half or not SHORTEST < length < LONGEST else 1.0
    return HEADER.pack(vector.size, 0) + (vector / scale).astype(">f2" if is_half else ">f4").tobytes()


def packed(rows: Vectors, *, is_half: bool) -> list[bytes]:
    """Write rows as pgvector's binary format has them: the dimension, two bytes that are not used, the numbers.

    Half precision has few exponents, and pgvector sums squares in single precision: there, and where the squares
    would leave its range, a vector is stored at unit length, which no cosine notices.
    """
    count, dimension = rows.shape
    with np.errstate(over="ignore"):
        scales = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # single precision is several times as fast
    if not ((scales > SHORTEST) & (scales < LONGEST)).all():  # and not enough
        scales = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    if not is_half:
        scales[(scales > SHORTEST) & (scales < LONGEST)] = 1
    number = ">f2" if is_half else ">f4"
    values = np.zeros(count, dtype=[("dimension", ">u2"), ("unused", ">u2"), ("numbers", number, (dimension,))])
    values["dimension"] = dimension
    values["numbers"] = rows / scales[:, np.newaxis]
    data, size = values.tobytes(), values.itemsize
    return [data[start : start + size] for start in range(0, len(data), size)]
