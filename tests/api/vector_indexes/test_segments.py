"""Which segments are merged, dropped and searched, by their sizes and bounds alone."""

from typing import Any, cast

import pytest

from api.services.vector_indexes import MAX_SEGMENT_CHUNKS, dropped_segments, renewed_segment
from api.tables.vector_index import Known, Segment
from api.tables.vector_search import disjoint, remaining_parts


def segment(id: int, chunks: int, *, living: int | None = None, **more: Any) -> Known:
    facts: dict[str, Any] = {"after_seq": 1000 * id, "until_seq": 1000 * (id + 1), "dimension": 16, "large": 10}
    flags = {"is_ready": True, "is_paused": False, "is_built": True, "is_wanted": True}
    counts = {"chunk_count": chunks, "living_count": chunks if living is None else living}
    return cast("Known", {"vector_store_id": "vs_1", "id": id, **facts, **flags, **counts, **more})


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([10], None),
        ([10, 10], 20),
        ([20, 10], None),
        ([20, 10, 10], 40),
        ([90, 20, 10, 10], 40),
        ([10, 90], 100),
        ([MAX_SEGMENT_CHUNKS, MAX_SEGMENT_CHUNKS], None),
    ],
)
def test_segments_are_merged_while_the_younger_ones_are_as_large(sizes: list[int], merged: int | None) -> None:
    renewed = renewed_segment([segment(id, size) for id, size in enumerate(sizes)])

    assert (renewed and renewed["chunk_count"]) == merged


def test_nothing_is_merged_while_a_segment_is_not_ready() -> None:
    assert renewed_segment([segment(0, 10), segment(1, 10, is_ready=False)]) is None


def test_a_worker_with_little_time_renews_no_more_than_it_can_build() -> None:
    sizes = [segment(0, 1000, living=500), segment(1, 20), segment(2, 10), segment(3, 10)]
    renewed, worn = renewed_segment(sizes, 30), renewed_segment(sizes[:1], 30)

    assert (renewed and renewed["chunk_count"], worn) == (20, None)


def test_a_merged_segment_has_the_whole_range() -> None:
    renewed = renewed_segment([segment(0, 10, after_seq=None), segment(1, 10)])

    assert renewed is not None
    assert (renewed["after_seq"], renewed["until_seq"]) == (None, 2000)


def test_an_empty_segment_is_dropped_and_the_others_are_kept() -> None:
    assert dropped_segments([segment(0, 10, living=0), segment(1, 10)]) == [0]


@pytest.mark.parametrize(
    ("segments", "parts"),
    [
        ([(None, 5)], ["seq IS NULL", "seq > 5"]),
        ([(None, None)], ["seq IS NOT NULL"]),
        ([(None, None), (None, 5)], ["seq > 5"]),
        ([(None, 5), (5, 9)], ["seq IS NULL", "seq > 9"]),
        ([(None, 5), (7, 9)], ["seq IS NULL", "seq > 5 AND seq <= 7", "seq > 9"]),
        ([(3, 5)], ["seq IS NULL", "seq <= 3", "seq > 5"]),
        ([(None, 5), (3, 9)], ["seq IS NULL", "seq > 5"]),
        ([(None, 5), (None, 5)], ["seq IS NULL", "seq > 5"]),
    ],
)
def test_what_no_segment_has_is_searched_exactly(segments: list[Any], parts: list[str]) -> None:
    between = remaining_parts(disjoint([Segment(*bounds) for bounds in segments]))

    assert [part.as_string() for part in between] == parts
