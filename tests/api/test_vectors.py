"""The two ways to do arithmetic on vectors, held against each other."""

import math
import struct
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgvector import HalfVector

from api.vectors import arrays, plain

BOTH = pytest.mark.parametrize("vectors", [arrays, plain], ids=["numpy", "plain"])
NUMBERS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3).filter(
    lambda numbers: math.hypot(*numbers) > 1e-3
)


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.booleans())
def test_rows_are_packed_alike(rows: list[list[float]], is_half: bool) -> None:
    by_numpy = arrays.packed(arrays.as_rows([arrays.from_numbers(row) for row in rows]), is_half=is_half)
    plainly = plain.packed(plain.as_rows([plain.from_numbers(row) for row in rows]), is_half=is_half)

    alone = [arrays.pack(arrays.from_numbers(row), is_half=is_half) for row in rows]
    layout = ">HH3e" if is_half else ">HH3f"
    for one, *others in zip(by_numpy, plainly, alone, strict=True):
        for other in others:
            assert struct.unpack(layout, one) == pytest.approx(struct.unpack(layout, other), rel=1e-3, abs=1e-7)


@given(NUMBERS, NUMBERS)
def test_cosines_are_alike(left: list[float], right: list[float]) -> None:
    by_numpy = arrays.cosine(arrays.from_numbers(left), arrays.from_numbers(right))

    assert plain.cosine(plain.from_numbers(left), plain.from_numbers(right)) == pytest.approx(by_numpy, abs=1e-9)


@BOTH
@pytest.mark.parametrize(
    ("numbers", "is_finite", "is_zero"),
    [
        ([1.0, 2.0], True, False),
        ([0.0, -0.0], True, True),
        ([1.0, math.nan], False, False),
        ([math.inf, -math.inf], False, False),
        ([3e38] * 5, True, False),
        ([1e300, 1.0], False, False),
    ],
)
def test_a_vector_without_a_direction_is_seen(
    vectors: Any, numbers: list[float], is_finite: bool, is_zero: bool
) -> None:
    vector = vectors.from_numbers(numbers)

    length = vectors.norm(vector)
    assert (math.isfinite(length), length == 0) == (is_finite, is_zero)
    assert vectors.have_directions(vectors.as_rows([vector])) == (is_finite and not is_zero)


@BOTH
def test_bytes_are_little_endian_floats(vectors: Any) -> None:
    vector = vectors.from_bytes(np.array([1.5, -2.0], dtype="<f4").tobytes())

    assert (list(vector), vector.size, vector.nbytes, list(vector.copy())) == ([1.5, -2.0], 2, 8, [1.5, -2.0])
    with pytest.raises(ValueError, match=r"."):
        vectors.from_bytes(b"12345")


@BOTH
@pytest.mark.parametrize("numbers", ["text", 5, [[1.0]], ["a"], None, {"a": 1.0}])
def test_what_is_no_list_of_numbers_is_refused(vectors: Any, numbers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        vectors.from_numbers(numbers)


@BOTH
def test_rows_are_of_one_size(vectors: Any) -> None:
    rows = vectors.as_rows([vectors.from_numbers([n, 1.0]) for n in range(3)])

    assert rows.shape == (3, 2)
    assert [list(row) for row in rows[[2, 0]]] == [[2.0, 1.0], [0.0, 1.0]]
    assert vectors.joined([rows, rows[[1]]]).shape == (4, 2)
    for different in ([], [rows[0], vectors.from_numbers([1.0])]):
        with pytest.raises(ValueError, match=r"."):
            vectors.as_rows(different)


@BOTH
def test_bytes_and_doubles_become_rows(vectors: Any) -> None:
    floats = np.array([1.5, -2.0, 0.0, 3.0], dtype="<f4").tobytes()
    doubles = [memoryview(array("d", row)) for row in ([1.5, -2.0], [1e300, 3.0])]

    assert [list(row) for row in vectors.rows_from_bytes(floats, 2)] == [[1.5, -2.0], [0.0, 3.0]]
    assert [list(row) for row in vectors.rows_from_doubles(doubles)] == [[1.5, -2.0], [math.inf, 3.0]]


@BOTH
@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"", 2), (b"12345", 1), (b"12345" * 4, 4), (b"12345678", 3)])
def test_bytes_that_are_no_rows_are_refused(vectors: Any, data: bytes, count: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        vectors.rows_from_bytes(data, count)


@BOTH
@pytest.mark.parametrize("parts", [[], [[]], [[], []], [[1.0], [1.0, 2.0]]])
def test_doubles_that_are_no_rows_are_refused(vectors: Any, parts: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"."):
        vectors.rows_from_doubles([memoryview(array("d", part)) for part in parts])


@BOTH
def test_what_is_stored_comes_back(vectors: Any) -> None:
    assert list(vectors.from_stored(HalfVector([0.5, -1.0]))) == [0.5, -1.0]
