"""JSON in and out, and vectors as they travel: lists of numbers or base64 of little-endian float32."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import orjson

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
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float32)
    except binascii.Error as error:
        raise ValueError("is not base64 of little-endian float32") from error


def read_vector(value: Sequence[float] | str, *, param: str) -> Vector:
    """Read a caller's vector.

    Raises:
        InvalidRequest: it is not base64 of float32, is empty, zero, or has a number that float32 cannot hold.
    """
    try:
        vector = decode_base64_vector(value) if isinstance(value, str) else _from_numbers(value)
    except ValueError as error:
        raise InvalidRequest(
            f"{param!r} must be a list of numbers or base64 of little-endian float32.", param=param
        ) from error
    if not vector.size:
        raise InvalidRequest(f"{param!r} is empty.", param=param)
    if not np.isfinite(vector).all():
        raise InvalidRequest(
            f"{param!r} has a number that is not finite (NaN, infinite, or beyond float32).", param=param
        )
    if not vector.any():
        raise InvalidRequest(f"{param!r} is the zero vector, which has no direction to compare.", param=param)
    return vector


def _from_numbers(numbers: Sequence[float]) -> Vector:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which the caller refuses
        return np.asarray(numbers, dtype=np.float64).astype(np.float32)
