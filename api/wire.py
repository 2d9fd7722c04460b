"""JSON in and out, and vectors as they travel: lists of numbers or base64 of little-endian float32."""

import math
from collections.abc import Callable, Sequence
from typing import cast

import orjson
import pybase64

from api.errors import InvalidRequest
from api.vectors import (
    Vector,
    Vectors,
    as_rows,
    cosine,
    from_bytes,
    from_numbers,
    have_directions,
    norm,
    rows_from_bytes,
    rows_from_doubles,
)


def dump_json(value: object) -> str:
    return orjson.dumps(value).decode()


def decode_base64_vector(text: str) -> Vector:
    """Decode base64 of little-endian float32.

    Raises:
        ValueError: it is not base64, or not a whole number of floats.
    """
    # The standard library's decoder takes twenty times as long.
    return from_bytes(pybase64.b64decode(text, validate=True))


def read_vector(value: Sequence[float] | str, *, param: str) -> Vector:
    """Read a caller's vector.

    Raises:
        InvalidRequest: it is not base64 of float32, is empty, zero, or has a number that float32 cannot hold.
    """
    vector = _decode(value, param=param)
    _require_direction(vector, param=param)
    return vector


def read_vectors(values: Sequence[Sequence[float] | str], *, param_of: Callable[[int], str]) -> list[Vector] | Vectors:
    """Read a caller's vectors, each as `read_vector` does; they may differ in size.

    `param_of` names the one at a place, for an error.
    """
    vectors = _decode_at_once(values)
    if vectors is None:
        vectors = [_decode(value, param=param_of(place)) for place, value in enumerate(values)]
    if not _have_directions(vectors):  # one by one is slower than decoding them was
        for place, vector in enumerate(vectors):
            _require_direction(vector, param=param_of(place))
    return vectors


def have_same_direction(left: Vector | None, right: Vector) -> bool:
    """Whether two vectors are one but for what half precision takes away."""
    if left is None or left.size != right.size:
        return False
    return cosine(left, right) > 0.99999


def _decode_at_once(values: Sequence[Sequence[float] | str]) -> Vectors | None:
    """Decode vectors of one form and size, which one by one takes five times as long; None when they are not."""
    kinds = set(map(type, values))
    try:
        if kinds == {str}:
            return rows_from_bytes(_decode_base64(cast("Sequence[str]", values)), len(values))
        if kinds == {memoryview}:
            return rows_from_doubles(cast("Sequence[memoryview]", values))
    except ValueError:  # one by one it is found which is wrong
        return None
    return None


def _decode_base64(texts: Sequence[str]) -> bytes:
    """Decode texts of one size and put together what comes out. Without padding, together they are base64 as well."""
    if len(set(map(len, texts))) != 1:
        raise ValueError("differ in size")
    whole = "".join(texts)
    if len(texts[0]) % 4 == 0 and "=" not in whole:
        return pybase64.b64decode(whole, validate=True)
    parts = [pybase64.b64decode(text, validate=True) for text in texts]
    if len(set(map(len, parts))) != 1:
        raise ValueError("differ in size")
    return b"".join(parts)


def _decode(value: Sequence[float] | str, *, param: str) -> Vector:
    try:
        return decode_base64_vector(value) if isinstance(value, str) else from_numbers(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{param!r} must be a list of numbers or base64 of little-endian float32.", param=param
        ) from error


def _have_directions(vectors: list[Vector] | Vectors) -> bool:
    if isinstance(vectors, list) and len({vector.size for vector in vectors}) != 1:
        return False
    return have_directions(as_rows(vectors))


def _require_direction(vector: Vector, *, param: str) -> None:
    if not vector.size:
        raise InvalidRequest(f"{param!r} is empty.", param=param)
    length = norm(vector)
    if not math.isfinite(length):
        raise InvalidRequest(
            f"{param!r} has a number that is not finite (NaN, infinite, or beyond float32).", param=param
        )
    if length == 0:
        raise InvalidRequest(f"{param!r} is the zero vector, which has no direction to compare.", param=param)
