"""JSON in and out, and vectors as they travel: lists of numbers or base64 of little-endian float32."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from api.errors import InvalidRequest

Vector = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.float32]  # one a row


def dump_json(value: object) -> str:
    return orjson.dumps(value).decode()


def decode_base64_vector(text: str) -> Vector:
    """Decode base64 of little-endian float32.

    Raises:
        ValueError: it is not base64, or not a whole number of floats.
    """
    # The standard library's decoder takes twenty times as long.
    return np.frombuffer(pybase64.b64decode(text, validate=True), dtype="<f4").astype(np.float32, copy=False)


def read_vector(value: Sequence[float] | str, *, param: str) -> Vector:
    """Read a caller's vector.

    Raises:
        InvalidRequest: it is not base64 of float32, is empty, zero, or has a number that float32 cannot hold.
    """
    vector = _decode(value, param=param)
    _require_direction(vector, param=param)
    return vector


def read_vectors(values: Sequence[Sequence[float] | str], *, params: Sequence[str]) -> list[Vector]:
    """Read a caller's vectors, each as `read_vector` does; they may differ in size."""
    vectors = [_decode(value, param=param) for value, param in zip(values, params, strict=True)]
    if not _have_directions(vectors):  # one by one is slower than decoding them was
        for vector, param in zip(vectors, params, strict=True):
            _require_direction(vector, param=param)
    return vectors


def as_rows(vectors: Sequence[Vector]) -> Vectors:
    return np.stack(vectors)


def have_same_direction(left: Vector | None, right: Vector) -> bool:
    """Whether two vectors are one but for what half precision takes away."""
    if left is None or left.size != right.size:
        return False
    wide_left, wide_right = left.astype(np.float64), right.astype(np.float64)
    cosine = wide_left @ wide_right / (np.linalg.norm(wide_left) * np.linalg.norm(wide_right))
    return bool(cosine > 0.99999)


def _decode(value: Sequence[float] | str, *, param: str) -> Vector:
    try:
        return decode_base64_vector(value) if isinstance(value, str) else _from_numbers(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{param!r} must be a list of numbers or base64 of little-endian float32.", param=param
        ) from error


def _have_directions(vectors: Sequence[Vector]) -> bool:
    if len({vector.size for vector in vectors}) != 1:
        return False
    rows = np.stack(vectors)
    return bool(np.isfinite(rows).all() and rows.any(axis=1).all())


def _require_direction(vector: Vector, *, param: str) -> None:
    if not vector.size:
        raise InvalidRequest(f"{param!r} is empty.", param=param)
    if not np.isfinite(vector).all():
        raise InvalidRequest(
            f"{param!r} has a number that is not finite (NaN, infinite, or beyond float32).", param=param
        )
    if not vector.any():
        raise InvalidRequest(f"{param!r} is the zero vector, which has no direction to compare.", param=param)


def _from_numbers(numbers: Sequence[float]) -> Vector:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which the caller refuses
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)
