"""The HNSW indexes of large stores: built behind the writes, and never the reason for a wrong answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, LiteralString, cast

import httpx
import numpy as np
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import TypeAdapter

from api.resources import Resources
from api.schemas.filters import Filter
from api.services import vector_indexes
from api.services.vector_indexes import MAX_SEGMENT_CHUNKS, dropped_segments, renewed_segment
from api.tables import keyword_search, scope, searches
from api.tables.chunks import storable
from api.tables.filter_samples import Sample
from api.tables.searches import Asked, Leg, Search
from api.tables.vector_index import Known, Segment
from api.tables.vector_search import disjoint, is_looked_up, remaining_parts
from api.worker import INDEXES
from tests.conftest import Serve, raw
from tests.working import opened, worker_process

SECONDS = 60
DIMENSION = 16
LARGE = 300


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"vector_index": {"min_chunks": LARGE}}


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


class Chunks:
    """What was put into a store, and what a search of it must find."""

    def __init__(self, http: httpx.AsyncClient, store: str) -> None:
        self.http, self.store = http, store
        self.random = np.random.default_rng(1)
        self.vectors: dict[str, Any] = {}

    async def put(self, count: int) -> list[str]:
        ids = [f"c{len(self.vectors) + i:05}" for i in range(count)]
        vectors = self.random.normal(size=(count, DIMENSION)).astype(np.float16).astype(np.float32)
        rows = [
            {"id": id, "content": f"text of {id}", "embedding": vector.tolist(), "metadata": {"number": int(id[1:])}}
            for id, vector in zip(ids, vectors, strict=True)
        ]
        answer = await self.http.post(f"/v1/vector_stores/{self.store}/embeddings/batch", json={"embeddings": rows})
        assert answer.status_code == 200, answer.text
        self.vectors |= dict(zip(ids, vectors, strict=True))
        return ids

    async def delete(self, ids: list[str]) -> None:
        for id in ids:
            await self.http.delete(f"/v1/vector_stores/{self.store}/embeddings/{id}")
            del self.vectors[id]

    async def find(self, query: Any, **body: Any) -> list[str]:
        body = {"query_embedding": query.tolist(), **body}
        answer = await self.http.post(f"/v1/vector_stores/{self.store}/search", json=body)
        assert answer.status_code == 200, answer.text
        return [result["file_id"] for result in answer.json()["data"]]

    def nearest(self, query: Any, count: int = 10) -> list[str]:
        def similarity(id: str) -> float:
            return float(self.vectors[id] @ query / np.linalg.norm(self.vectors[id]))

        return sorted(self.vectors, key=similarity, reverse=True)[:count]

    async def recall(self, **body: Any) -> float:
        queries = self.random.normal(size=(20, DIMENSION))
        found = [len(set(self.nearest(query)) & set(await self.find(query, **body))) for query in queries]
        return sum(found) / (10 * len(queries))


@pytest.fixture
async def chunks(openai: AsyncOpenAI, http: httpx.AsyncClient) -> Chunks:
    store = await openai.vector_stores.create(extra_body={"embedding_dimension": DIMENSION})
    return Chunks(http, store.id)


async def indexes(database: str) -> dict[str, bool]:
    """Whether each index of a segment is valid, by its name."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relname LIKE 'quiver_hnsw_%' ORDER BY relname"
        )
        return dict(await rows.fetchall())


async def test_a_store_gets_an_index_when_it_is_large(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE - 1)
    before = await vector_indexes.care(resources), await indexes(database)
    await chunks.put(1)

    assert await vector_indexes.care(resources) == 1
    assert before == (0, {})
    assert list((await indexes(database)).values()) == [True]
    assert await chunks.recall() >= 0.95


async def test_longer_vectors_are_indexed_sooner(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    store = await openai.vector_stores.create(extra_body={"embedding_dimension": 1536})
    rows = [{"content": "x", "embedding": [1.0] * 1535 + [float(number)]} for number in range(100)]
    await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json={"embeddings": rows})

    async with opened(settings | {"vector_index": {"min_chunks": 201}}) as resources:
        assert await vector_indexes.care(resources) == 0
    async with opened(settings | {"vector_index": {"min_chunks": 200}}) as resources:
        assert await vector_indexes.care(resources) == 1


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


async def index_of(chunks: Chunks) -> dict[str, Any]:
    return (await chunks.http.get(f"/v1/vector_stores/{chunks.store}/index")).json()


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


async def test_a_chunk_that_is_committed_late_is_in_the_index(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    [first, *_] = await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute(
            "INSERT INTO embeddings (vector_store_id, id, content, embedding) "
            "SELECT vector_store_id, 'slow', '', embedding FROM embeddings WHERE id = %s",
            (first,),
        )
        await chunks.put(1)
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        await slow.commit()
        await building
    ids = await chunks.find(chunks.vectors[first], max_num_results=2)

    assert sorted(ids) == [first, "slow"]


async def is_building(database: str) -> bool:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute(
            "SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database()"
        )
        return bool(await rows.fetchall())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():  # noqa: ASYNC110  # it is another process's
            await asyncio.sleep(0.05)


async def test_writes_and_searches_go_on_while_an_index_is_built(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        young = await chunks.put(LARGE)
        recall = await chunks.recall()
        state = await index_of(chunks)
    await building

    assert (state["status"], state["build"]["attempts"]) == ("building", 1)
    assert "waiting" in state["build"]["phase"]
    assert recall == 1
    assert await chunks.find(chunks.vectors[young[-1]], max_num_results=1) == young[-1:]


async def test_a_build_that_was_broken_off_is_made_good(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE)
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        building = asyncio.create_task(vector_indexes.care(resources))
        await until(lambda: is_building(database))
        building.cancel()
        with pytest.raises(asyncio.CancelledError):
            await building
    broken = len(await filter_indexes(database)), await indexes(database)
    recall = await chunks.recall()

    assert await vector_indexes.care(resources) == 1
    assert (broken, list((await indexes(database)).values())) == ((1, {}), [True])
    assert (recall, await chunks.recall()) == (1, pytest.approx(1, abs=0.05))


async def test_a_build_whose_worker_is_killed_is_made_good(
    chunks: Chunks, settings: dict[str, Any], resources: Resources, database: str, tmp_path: Path
) -> None:
    await chunks.put(LARGE)
    environment = {"DATABASE_URL": database, "VECTOR_INDEX__MIN_CHUNKS": str(LARGE), "FILES_DIR": str(tmp_path)}
    async with await psycopg.AsyncConnection.connect(database) as holding_up:
        await holding_up.execute("UPDATE embeddings SET content = 'x' WHERE id = 'c00000'")
        await defer(database, "care_for_vector_indexes", queue=INDEXES)
        async with worker_process(environment, tmp_path) as process:
            await until(lambda: is_building(database))
            process.kill()
            await process.wait()
        still_building = await vector_indexes.care(resources), await is_building(database)
    await until(lambda: is_resting(database))

    await vector_indexes.care(resources)

    assert still_building == (0, True)
    assert (await index_of(chunks))["status"] == "ready"
    assert len(await indexes(database)) == 1


async def is_resting(database: str) -> bool:
    return not await is_building(database)


async def test_an_index_that_was_finished_without_its_worker_is_used(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(LARGE)
    await vector_indexes.care(resources)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vector_indexes SET is_ready = false")
    before = (await index_of(chunks))["status"]

    assert await vector_indexes.care(resources) == 0
    assert (before, (await index_of(chunks))["status"]) == ("building", "ready")


async def defer(database: str, task: str, *, queue: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES (%s, %s, '{\"timestamp\": 0}')",
            (queue, task),
        )


async def test_a_build_that_fails_is_said_and_tried_again(
    chunks: Chunks, settings: dict[str, Any], database: str
) -> None:
    await chunks.put(LARGE)
    await spoil(database, "'[1, 2]'")
    async with opened(settings | {"vector_index": {"min_chunks": LARGE, "retry_seconds": 3600}}) as resources:
        first, second = await vector_indexes.care(resources), await vector_indexes.care(resources)
    failed = await index_of(chunks)
    await spoil(database, "(SELECT embedding FROM embeddings WHERE id = 'c00001')")
    async with opened(settings | {"vector_index": {"min_chunks": LARGE, "retry_seconds": 0}}) as resources:
        third = await vector_indexes.care(resources)

    assert (first, second, third) == (0, 0, 1)
    assert (failed["status"], failed["build"]["attempts"]) == ("failed", 1)
    assert failed["build"]["last_error"] == "expected 16 dimensions, not 2"
    assert (await index_of(chunks))["status"] == "ready"


async def spoil(database: str, vector: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        statement = sql.SQL("UPDATE embeddings SET embedding = {} WHERE id = 'c00000'").format(sql.SQL(vector))
        await connection.execute(statement)


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


async def test_only_one_index_is_built_at_a_time(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE)

    built = await asyncio.gather(*(vector_indexes.care(resources) for _ in range(3)))

    assert sum(built) == 1
    assert len(await indexes(database)) == 1


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


async def explain(
    resources: Resources,
    chunks: Chunks,
    leg: Leg = "vector",
    *,
    filter: Filter | None = None,
    sample: Sample | None = None,
    ef_search: int = 100,
) -> dict[str, Any]:
    """What PostgreSQL does for a search, and how much."""
    table = await resources.database.chunk_table()
    query = chunks.random.normal(size=DIMENSION).astype(np.float32)
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        statement, params = searches.statement(
            table, known, Search(leg, filter, limit=10, ef_search=ef_search, sample=sample), scope.EVERYTHING.kind
        )
        params |= {"vector_store_id": known.id, "store": known.id, "limit": 10, **keyword_search.BOUNDS}
        params |= {"question": "text of c00001", "query": storable(table, query), "dimension": DIMENSION}
        cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
        text = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement.text
        row = await (await cursor.execute(text, statement.values(params))).fetchone()
    assert row is not None
    return row["QUERY PLAN"][0]["Plan"]


def scanned(plan: dict[str, Any]) -> list[str]:
    """The indexes that were looked into."""
    own = [plan["Index Name"]] if "Index Name" in plan and plan["Actual Loops"] else []
    return own + [name for part in plan.get("Plans", []) for name in scanned(part)]


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


FILTER: TypeAdapter[Filter] = TypeAdapter(Filter)
UPPER_HALF = FILTER.validate_python({"type": "gte", "key": "number", "value": 500})


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


async def filter_indexes(database: str) -> list[str]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'quiver_filter_%' ORDER BY 1")
        return [name for (name,) in await rows.fetchall()]


async def test_what_few_chunks_fit_is_looked_up_among_those_of_the_segment(
    chunks: Chunks, resources: Resources, database: str
) -> None:
    await chunks.put(1000)
    await vector_indexes.care(resources)
    [name] = await filter_indexes(database)
    rare = FILTER.validate_python({"type": "in", "key": "number", "value": [77, 78]})

    plan = await explain(resources, chunks, filter=rare, sample=Sample(0.002, 1000))

    assert name in scanned(plan)


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
