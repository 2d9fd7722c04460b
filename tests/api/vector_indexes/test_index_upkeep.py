"""The segments of an index follow what is put into a store and deleted from it."""

from typing import LiteralString

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg import sql

from api.resources import Resources
from api.services import vector_indexes
from tests.api.vector_indexes.indexed_chunks import LARGE, Chunks, filter_indexes, index_of, indexes


async def test_young_chunks_are_found_beside_the_index_and_indexed_when_they_are_many(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    young = await chunks.put(LARGE // 2 - 1)
    found = [await chunks.find(chunks.vectors[id], max_num_results=1) for id in young[:5]]

    assert await vector_indexes.care(resources) == 0
    await chunks.put(1)
    assert await vector_indexes.care(resources) == 1
    assert found == [[id] for id in young[:5]]
    assert len(await indexes(database)) == 2
    assert await chunks.recall() >= 0.95


async def test_small_segments_become_one(chunks: Chunks, resources: Resources, database: str) -> None:
    for count in (LARGE, LARGE // 2, LARGE // 2):
        await chunks.put(count)
        await vector_indexes.care(resources)

    assert [segment["chunk_count"] for segment in (await index_of(chunks))["segments"]] == [2 * LARGE]
    assert list((await indexes(database)).values()) == [True]
    assert await chunks.recall() >= 0.95


async def test_an_index_of_which_much_was_deleted_is_built_anew(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    ids = await chunks.put(LARGE)
    await vector_indexes.care(resources)
    before = await indexes(database)
    await chunks.delete(ids[: LARGE // 4])
    recall = await chunks.recall()
    await vector_indexes.count(resources)

    assert await vector_indexes.care(resources) == 1
    assert (await indexes(database)).keys().isdisjoint(before)
    assert (await index_of(chunks))["indexed_count"] == len(chunks.vectors)
    assert min(recall, await chunks.recall()) >= 0.95


async def test_a_store_that_has_become_small_is_searched_exactly_again(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    ids = await chunks.put(LARGE)
    await vector_indexes.care(resources)
    await chunks.delete(ids[20:])
    await vector_indexes.count(resources)

    await vector_indexes.care(resources)

    assert (await index_of(chunks))["status"] == "exact"
    assert await indexes(database) == {}
    assert await chunks.find(chunks.vectors[ids[0]]) == chunks.nearest(chunks.vectors[ids[0]])


async def test_a_deleted_stores_index_is_dropped(
    chunks: Chunks, resources: Resources, database: str, openai: AsyncOpenAI
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    await openai.vector_stores.delete(chunks.store)

    await vector_indexes.care(resources)

    assert await indexes(database) == {}


@pytest.mark.parametrize(
    "harm", ["DROP INDEX {}", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{}'::regclass"]
)
async def test_an_index_that_is_gone_or_invalid_is_made_again(
    chunks: Chunks, resources: Resources, database: str, harm: LiteralString
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    [name] = await indexes(database)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(sql.SQL(harm).format(sql.Identifier(name)))
    recall = await chunks.recall()

    assert await vector_indexes.care(resources) == 1
    assert list((await indexes(database)).values()) == [True]
    assert min(recall, await chunks.recall()) >= 0.95


async def test_an_index_of_attributes_goes_with_its_segment(
    chunks: Chunks, openai: AsyncOpenAI, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    made = await filter_indexes(database)
    await openai.vector_stores.delete(chunks.store)
    await vector_indexes.care(resources)

    assert (len(made), await filter_indexes(database)) == (1, [])


async def test_an_index_of_attributes_that_a_killed_build_left_is_dropped(resources: Resources, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE INDEX quiver_filter_99 ON embeddings USING gin (metadata jsonb_path_ops)")
    await vector_indexes.care(resources)

    assert await filter_indexes(database) == []


async def test_the_index_of_a_store_is_told(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(10)
    small = await index_of(chunks)
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    large = await index_of(chunks)
    [segment] = large["segments"]

    assert (small["status"], small["dimension"], small["chunk_count"], small["segments"]) == ("exact", 16, 10, [])
    assert (large["status"], large["chunk_count"], large["build"]) == ("ready", LARGE + 10, None)
    assert segment["chunk_count"] == large["indexed_count"] == LARGE + 10
    assert segment["bytes"] > 0


async def test_the_index_of_no_store_is_not_there(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/vector_stores/vs_none/index")

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "vector_store_id")
