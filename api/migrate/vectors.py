"""Vectors as people keep them: arrays, lists, JSON, pgvector's or PostgreSQL's text, base64 of float32."""

from typing import Any, cast

import numpy as np
import orjson

from api.vectors import Vector
from api.wire import decode_base64_vector


def read_vector(value: Any) -> Vector | None:
    """One vector as float32; None is None. Numbers that float32 cannot hold become infinite.

    Raises:
        ValueError: it is no vector.
    """
    match value:
        case None:
            return None
        case np.ndarray():
            return _flat(cast("Vector", value))
        case list() | tuple():
            return _flat(_numbers(cast("list[Any]", value)))
        case bytes() | bytearray() | memoryview():
            return _from_bytes(bytes(cast("bytes", value)))
        case str():
            return _from_text(value.strip())
        case _:
            raise ValueError(f"a vector cannot be {type(value).__name__}")


def _from_text(text: str) -> Vector | None:
    if not text:
        return None
    if text[0] == "{" and text[-1] == "}":  # PostgreSQL's array
        text = f"[{text[1:-1]}]"
    if text[0] == "[":
        try:
            return _flat(_numbers(orjson.loads(text)))
        except orjson.JSONDecodeError:  # NaN and Infinity are no JSON, and numpy writes no commas
            return _separated(text.strip("[]"))
    if text[0] in "+-.0123456789" and any(separator in text for separator in ", \t\n;"):
        return _separated(text)
    try:
        return decode_base64_vector(text)
    except ValueError as error:
        raise ValueError("the vector is neither a list of numbers nor base64 of float32") from error


def _separated(text: str) -> Vector:
    try:
        return np.array([float(part) for part in text.replace(",", " ").replace(";", " ").split()], dtype=np.float32)
    except ValueError as error:
        raise ValueError("the vector has something that is no number") from error


def _from_bytes(data: bytes) -> Vector:
    if len(data) % 4:
        raise ValueError("the vector's bytes are not a whole number of float32")
    return np.frombuffer(data, dtype="<f4")


def _numbers(values: Any) -> Vector:
    try:
        with np.errstate(over="ignore"):
            # None becomes NaN, which is refused later with the row's other flaws.
            return np.asarray(values, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError("the vector has something that is no number") from error


def _flat(vector: Vector) -> Vector:
    if vector.dtype.kind not in "fiu":
        raise ValueError("the vector has something that is no number")
    if vector.ndim != 1:
        raise ValueError("the vector is no flat list of numbers")
    if vector.dtype.kind == "f" and vector.dtype.itemsize == np.float32().itemsize:  # of either byte order
        return vector
    with np.errstate(over="ignore"):
        return vector.astype(np.float32)
