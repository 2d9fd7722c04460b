"""A search reads the index of its store, as much of it as it asks for; without one it is exact."""

from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
from psycopg import sql

from api.resources import Resources
from api.services import vector_indexes
from api.tables import searches
from api.tables.searches import Asked, Leg, Search
from tests.api.vector_indexes.indexed_chunks import DIMENSION, LARGE, Chunks, explain, index_of, indexes, scanned
from tests.conftest import Serve, raw
from tests.working import opened


async def test_chunks_that_were_adopted_without_a_number_have_an_index_of_their_own(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE embeddings SET seq = NULL")
    await chunks.put(LARGE)

    assert await vector_indexes.care(resources) == 2
    assert [segment["chunk_count"] for segment in (await index_of(chunks))["segments"]] == [LARGE, LARGE]
    assert await chunks.recall() >= 0.95
    assert await chunks.recall(filters={"type": "lt", "key": "number", "value": 10_000}) >= 0.95


@pytest.mark.parametrize("vector_type", ["vector", "vector(16)", "halfvec(16)"])
async def test_a_table_of_another_vector_type_is_indexed_too(
    chunks: Chunks, settings: dict[str, Any], serve: Serve, database: str, vector_type: LiteralString
) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(sql.SQL("ALTER TABLE embeddings ALTER embedding TYPE {}").format(sql.SQL(vector_type)))
    async with opened(settings) as resources:
        assert await vector_indexes.care(resources) == 1
    async with serve(**settings) as client:
        chunks.http = raw(client)

        assert await chunks.recall() >= 0.95


async def test_a_table_without_the_column_is_searched_exactly(
    chunks: Chunks, settings: dict[str, Any], serve: Serve, database: str
) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("ALTER TABLE embeddings DROP COLUMN seq")
    async with opened(settings) as resources:
        assert await vector_indexes.care(resources) == 0
    async with serve(**settings) as client:
        chunks.http = raw(client)

        assert await chunks.recall() == 1
        assert (await index_of(chunks))["status"] == "exact"


@pytest.mark.parametrize("leg", ["vector", "both"])
async def test_a_search_reads_the_index_and_not_all_chunks(
    chunks: Chunks, resources: Resources, database: str, leg: Leg
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    [name] = await indexes(database)

    assert name in scanned(await explain(resources, chunks, leg))


async def test_a_statement_that_is_prepared_reads_the_index_too(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    table = await resources.database.chunk_table()
    asked = Asked(None, chunks.random.normal(size=DIMENSION).astype(np.float32))
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for _ in range(7):
            await searches.search(connection, table, known, Search("vector", None, limit=10), [asked])
        await connection.execute("SELECT pg_stat_force_next_flush()")
        rows = await connection.execute(
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE 'quiver_hnsw_%'"
        )

        assert await rows.fetchone() == {"idx_scan": 7}


async def test_ef_search_says_how_much_of_the_index_is_read(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(3 * LARGE)
    await vector_indexes.care(resources)

    read = [(await explain(resources, chunks, ef_search=ef))["Shared Hit Blocks"] for ef in (10, 100, 500)]

    assert read == sorted(read)
    assert read[0] < read[1] / 2 < read[2]


@pytest.mark.parametrize("ef_search", [0, 1001, "many"])
async def test_an_ef_search_that_pgvector_does_not_take_is_refused(chunks: Chunks, ef_search: Any) -> None:
    body = {"query_embedding": [1.0] * DIMENSION, "ranking_options": {"ef_search": ef_search}}
    answer = await chunks.http.post(f"/v1/vector_stores/{chunks.store}/search", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "ranking_options.ef_search")


async def test_more_is_found_than_ef_search_says(chunks: Chunks, resources: Resources) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    query = chunks.random.normal(size=DIMENSION)

    assert len(await chunks.find(query, max_num_results=50, ranking_options={"ef_search": 1})) == 50
