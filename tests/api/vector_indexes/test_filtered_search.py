"""A filter of any selectivity costs no result: its chunks are sampled, then looked up or searched for."""

from collections.abc import Callable

import numpy as np
import pytest
from pydantic import TypeAdapter

from api.resources import Resources
from api.schemas.filters import Filter
from api.services import vector_indexes
from api.tables import searches
from api.tables.filter_samples import Sample
from api.tables.searches import Asked, Search
from api.tables.vector_search import is_looked_up
from tests.api.vector_indexes.indexed_chunks import DIMENSION, Chunks, explain, filter_indexes, indexes, scanned

FILTER: TypeAdapter[Filter] = TypeAdapter(Filter)
UPPER_HALF = FILTER.validate_python({"type": "gte", "key": "number", "value": 500})
SHARES = {
    "half": {"type": "lt", "key": "number", "value": 500},
    "a tenth": {"type": "gte", "key": "number", "value": 900},
    "a hundredth": {"type": "lt", "key": "number", "value": 10},
    "one": {"type": "eq", "key": "number", "value": 77},
    "some": {"type": "in", "key": "number", "value": list(range(0, 1000, 70))},
    "none": {"type": "eq", "key": "number", "value": -1},
    "all but one": {"type": "ne", "key": "number", "value": 5},
    "both": {
        "type": "and",
        "filters": [
            {"type": "in", "key": "number", "value": list(range(100))},
            {"type": "gt", "key": "number", "value": 80},
        ],
    },
}


async def test_a_filter_of_any_selectivity_finds_the_nearest_that_fit(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    fits: dict[str, Callable[[int], bool]] = {
        "half": lambda number: number < 500,
        "a tenth": lambda number: number >= 900,
        "a hundredth": lambda number: number < 10,
        "one": lambda number: number == 77,
        "some": lambda number: number % 70 == 0,
        "none": lambda _: False,
        "all but one": lambda number: number != 5,
        "both": lambda number: 80 < number < 100,
    }
    found: dict[str, list[str]] = {}
    nearest: dict[str, list[str]] = {}
    query = chunks.random.normal(size=DIMENSION)
    for name, filter in SHARES.items():
        found[name] = await chunks.find(query, filters=filter)
        nearest[name] = [id for id in chunks.nearest(query, 1000) if fits[name](int(id[1:]))][:10]

    assert found == nearest


async def test_a_filter_is_sampled_once_for_many_searches(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        sampled = [
            await resources.known_stores.sampled(connection, table, known, Search("vector", UPPER_HALF, limit=limit))
            for limit in (10, 20)
        ]

    assert sampled[0].sample is sampled[1].sample
    assert sampled[0].sample is not None
    assert sampled[0].sample.share == pytest.approx(0.5, abs=0.02)


async def test_a_store_without_an_index_is_not_sampled(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(10)
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        search = Search("vector", UPPER_HALF, limit=10)

        assert await resources.known_stores.sampled(connection, table, known, search) is search


@pytest.mark.parametrize(
    ("share", "chunks", "segments", "expected"),
    [
        (0, 1_000_000, 1, True),
        (0.01, 1_000_000, 1, True),
        (0.03, 20_000, 1, True),
        (0.03, 1_000_000, 1, False),
        (0.1, 20_000, 1, False),
        (0.1, 20_000, 5, True),
        (1, 400, 1, True),
        (1, 100_000, 1, False),
    ],
)
def test_what_few_chunks_fit_is_looked_up(share: float, chunks: float, segments: int, expected: bool) -> None:
    assert is_looked_up(share, chunks=chunks, segments=segments, limit=10) is expected


@pytest.mark.parametrize(("share", "is_read"), [(0.5, True), (0.001, False)])
async def test_an_index_is_read_where_many_chunks_fit(
    chunks: Chunks, resources: Resources, database: str, share: float, is_read: bool
) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    [name] = await indexes(database)

    plan = await explain(resources, chunks, filter=UPPER_HALF, sample=Sample(share, 100_000))

    assert (name in scanned(plan)) is is_read


async def test_what_few_chunks_fit_is_looked_up_among_those_of_the_segment(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    [name] = await filter_indexes(database)
    rare = FILTER.validate_python({"type": "in", "key": "number", "value": [77, 78]})

    plan = await explain(resources, chunks, filter=rare, sample=Sample(0.002, 1000))

    assert name in scanned(plan)


async def test_many_values_of_a_filter_share_a_plan(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    table = await resources.database.chunk_table()
    asked = Asked(None, chunks.random.normal(size=DIMENSION).astype(np.float32))
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        for number in range(20):
            filter = FILTER.validate_python({"type": "eq", "key": "number", "value": number})
            search = Search("vector", filter, limit=10, sample=Sample(0.001, 1000))
            await searches.search(connection, table, known, search, [asked])
        rows = await connection.execute("SELECT count(*) AS kept FROM pg_prepared_statements WHERE generic_plans > 0")

        assert await rows.fetchone() == {"kept": 1}


async def test_a_sample_that_is_off_costs_no_result(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    table = await resources.database.chunk_table()
    rare = FILTER.validate_python({"type": "lt", "key": "number", "value": 3})
    asked = Asked(None, chunks.random.normal(size=DIMENSION).astype(np.float32))
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        search = Search("vector", rare, limit=10, sample=Sample(0.9, 1000))
        _, [found] = await searches.search(connection, table, known, search, [asked])

    assert sorted(one.id for one in found) == ["c00000", "c00001", "c00002"]
