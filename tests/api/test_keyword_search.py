"""Search by words: BM25 over an index that the worker keeps behind the writes."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg import sql

from api.resources import Resources
from api.services import keywords
from api.services.keywords import young_segments
from api.tables.keyword_index import Segment
from tests.working import opened, work_off

CHUNKS: list[dict[str, Any]] = [
    {"id": "returns", "content": "Returns are accepted within 30 days", "metadata": {"lang": "en"}},
    {"id": "shipping", "content": "Shipping is free for orders over 50, returns are not", "metadata": {"lang": "en"}},
    {"id": "rueckgabe", "content": "Rückgabe innerhalb von 30 Tagen", "metadata": {"lang": "de"}},
    {"id": "bread", "content": "Bread is baked at dawn"},
]


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources) -> str:
    store = (await openai.vector_stores.create()).id
    await put(http, store, CHUNKS)
    await keywords.index(resources, seconds=60)
    return store


async def put(http: httpx.AsyncClient, store: str, chunks: list[dict[str, Any]]) -> None:
    answer = await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
    assert answer.status_code == 200, answer.text


async def find(http: httpx.AsyncClient, store: str, query: str, **body: Any) -> dict[str, float]:
    """Scores by id, best first."""
    body = {"query": query, "ranking_options": {"search_mode": "keyword"}, **body}
    answer = await http.post(f"/v1/vector_stores/{store}/search", json=body)
    assert answer.status_code == 200, answer.text
    return {result["file_id"]: result["score"] for result in answer.json()["data"]}


async def count(database: str, table: str) -> int:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        row = await (await connection.execute(statement)).fetchone()
    assert row is not None
    return row[0]


async def test_only_chunks_with_a_word_of_the_question_are_found(http: httpx.AsyncClient, store: str) -> None:
    assert list(await find(http, store, "are RETURNS accepted?")) == ["returns", "shipping"]
    assert await find(http, store, "nothing of it") == {}


async def test_no_text_is_embedded_for_a_search_by_words(http: httpx.AsyncClient, store: str, embedder: Any) -> None:
    embedder.reset()

    assert list(await find(http, store, "dawn")) == ["bread"]
    assert embedder.calls == []


async def test_the_score_is_the_share_of_what_the_words_could_give(http: httpx.AsyncClient, store: str) -> None:
    scores = await find(http, store, "bread baked at dawn")
    diluted = await find(http, store, "bread baked at dawn in vladivostok")

    assert 0.3 < scores["bread"] <= 1
    assert diluted["bread"] < scores["bread"]


async def test_the_threshold_cuts_by_the_score_that_is_shown(http: httpx.AsyncClient, store: str) -> None:
    scores = await find(http, store, "are returns accepted")
    border = sum(scores.values()) / 2

    found = await find(
        http, store, "are returns accepted", ranking_options={"search_mode": "keyword", "score_threshold": border}
    )

    assert found == {"returns": scores["returns"]}


async def test_filters_hold_for_words(http: httpx.AsyncClient, store: str) -> None:
    found = await find(http, store, "30", filters={"type": "eq", "key": "lang", "value": "de"})

    assert list(found) == ["rueckgabe"]


async def test_the_order_and_the_scores_are_those_of_bm25(
    openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources
) -> None:
    random = np.random.default_rng(5)
    words = np.array([f"w{i}" for i in range(60)])
    texts = [" ".join(random.choice(words, size=random.integers(3, 40))) for _ in range(80)]
    store = (await openai.vector_stores.create()).id
    await put(http, store, [{"id": str(i), "content": text} for i, text in enumerate(texts)])
    await keywords.index(resources, seconds=60)
    asked = ["w1", "w7", "w30", "w30"]

    found = await find(http, store, " ".join(asked), max_num_results=50)

    expected = bm25([text.split() for text in texts], asked)
    best = max(expected)
    assert len(found) == min(50, sum(score > 0 for score in expected))
    assert found == pytest.approx({id: expected[int(id)] * max(found.values()) / best for id in found}, rel=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def bm25(texts: list[list[str]], asked: list[str]) -> list[float]:
    mean = sum(map(len, texts)) / len(texts)
    counts = [sum(word in text for text in texts) for word in asked]
    weights = [math.log(1 + (len(texts) - count + 0.5) / (count + 0.5)) for count in counts]
    return [
        sum(
            weight * text.count(word) * 2.2 / (text.count(word) + 1.2 * (0.25 + 0.75 * len(text) / mean))
            for word, weight in zip(asked, weights, strict=True)
        )
        for text in texts
    ]


async def test_a_chunk_is_found_once_the_worker_has_been(
    http: httpx.AsyncClient, store: str, settings: dict[str, Any], database: str
) -> None:
    await put(http, store, [{"id": "late", "content": "vladivostok"}])
    before = await find(http, store, "vladivostok")
    await defer(database, "index_keywords")

    await work_off(settings)

    assert (before, list(await find(http, store, "vladivostok"))) == ({}, ["late"])


async def defer(database: str, task: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('default', %s, '{\"timestamp\": 0}')",
            (task,),
        )


async def test_a_chunk_that_is_committed_late_is_not_missed(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute(
            "INSERT INTO embeddings (vector_store_id, id, content, embedding) "
            "SELECT vector_store_id, 'slow', 'vladivostok', embedding FROM embeddings WHERE id = 'bread'"
        )
        await put(http, store, [{"id": "fast", "content": "kamchatka"}])
        await keywords.index(resources, seconds=60)
        await slow.commit()
    await keywords.index(resources, seconds=60)

    assert list(await find(http, store, "vladivostok kamchatka")) == ["fast", "slow"]


async def is_settling(database: str) -> bool:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        statement = "SELECT count(*) FROM keyword_stores WHERE settling_seq IS NOT NULL"
        row = await (await connection.execute(statement)).fetchone()
    return row == (1,)


async def test_what_is_being_written_when_a_pass_begins_is_in_the_index_when_it_ends(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keywords, "PAUSE_SECONDS", 2.0)  # is longer than the commit takes
    async with await psycopg.AsyncConnection.connect(database) as slow:
        await slow.execute(
            "INSERT INTO embeddings (vector_store_id, id, content, embedding) "
            "SELECT vector_store_id, 'slow', 'vladivostok', embedding FROM embeddings WHERE id = 'bread'"
        )
        await put(http, store, [{"id": "fast", "content": "kamchatka"}])
        indexing = asyncio.create_task(keywords.index(resources, seconds=60))
        async with asyncio.timeout(30):
            while not await is_settling(database):  # noqa: ASYNC110  # the table is polled
                await asyncio.sleep(0.01)
        await slow.commit()

    assert await indexing == 2
    assert list(await find(http, store, "vladivostok kamchatka")) == ["fast", "slow"]


async def test_a_deleted_chunk_is_found_no_more_and_its_place_goes_to_another(
    http: httpx.AsyncClient, store: str
) -> None:
    await http.delete(f"/v1/vector_stores/{store}/embeddings/returns")

    assert list(await find(http, store, "are returns accepted", max_num_results=1)) == ["shipping"]


async def test_a_chunk_put_in_anew_under_its_id_is_found_by_its_own_words_only(
    http: httpx.AsyncClient, store: str, resources: Resources
) -> None:
    await http.delete(f"/v1/vector_stores/{store}/embeddings/bread")
    await put(http, store, [{"id": "bread", "content": "kamchatka"}])
    between = await find(http, store, "dawn kamchatka")
    await keywords.index(resources, seconds=60)

    assert between == {}
    assert await find(http, store, "dawn") == {}
    assert list(await find(http, store, "kamchatka")) == ["bread"]


async def test_the_sweep_takes_the_words_of_deleted_chunks_away(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str
) -> None:
    for id in ("returns", "shipping", "rueckgabe"):
        await http.delete(f"/v1/vector_stores/{store}/embeddings/{id}")

    await keywords.sweep(resources)

    assert await count(database, "keyword_chunks") == 1
    assert await count(database, "keyword_postings") == len(CHUNKS[3]["content"].split())
    assert list(await find(http, store, "dawn")) == ["bread"]


async def test_the_sweep_takes_the_index_of_a_deleted_store_away(
    openai: AsyncOpenAI, store: str, resources: Resources, database: str
) -> None:
    await openai.vector_stores.delete(store)

    await keywords.sweep(resources)

    tables = ["keyword_stores", "keyword_chunks", "keyword_segments", "keyword_postings"]
    assert [await count(database, table) for table in tables] == [0, 0, 0, 0]


async def test_small_batches_become_few_segments_and_lose_nothing(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str
) -> None:
    for i in range(20):
        await put(http, store, [{"id": f"n{i}", "content": f"number n{i}"}])
        await keywords.index(resources, seconds=60)

    assert await count(database, "keyword_segments") <= 7
    assert len(await find(http, store, "number", max_num_results=50)) == 20
    assert list(await find(http, store, "n7")) == ["n7"]


async def chunks_with(database: str, term: str) -> int:
    async with await psycopg.AsyncConnection.connect(database) as connection:
        statement = "SELECT sum(cardinality(numbers)) FROM keyword_postings WHERE term = %s"
        row = await (await connection.execute(statement, (term,))).fetchone()
    assert row is not None
    return row[0]


async def test_a_merge_leaves_out_what_was_deleted(
    http: httpx.AsyncClient, store: str, resources: Resources, database: str
) -> None:
    await put(http, store, [{"id": f"old{i}", "content": f"number old{i}"} for i in range(6)])
    await keywords.index(resources, seconds=60)
    await http.delete(f"/v1/vector_stores/{store}/embeddings/old3")
    await keywords.sweep(resources)
    for i in range(3):
        await put(http, store, [{"id": f"new{i}", "content": f"number new{i}"}, {"id": f"more{i}", "content": "more"}])
        await keywords.index(resources, seconds=60)

    assert await count(database, "keyword_segments") == 1
    assert await chunks_with(database, "number") == 8
    assert set(await find(http, store, "number")) == {"old0", "old1", "old2", "old4", "old5", "new0", "new1", "new2"}


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ([], 0),
        ([5] * 3, 0),
        ([5] * 4, 4),
        ([5, 5, 5, 20], 0),
        ([5, 5, 5, 5, 20], 5),
        ([1, 1, 2, 3, 9], 4),
        ([1] * 4, 4),
    ],
)
def test_as_many_segments_merge_as_the_younger_ones_outweigh(sizes: list[int], merged: int) -> None:
    segments: list[Segment] = [
        {"segment": number, "chunk_count": size, "deleted_count": 0} for number, size in enumerate(sizes)
    ]

    assert young_segments(segments) == list(range(merged))


async def test_a_store_in_english_takes_a_word_in_all_its_forms(
    openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources
) -> None:
    store = (await openai.vector_stores.create(metadata={"language": "English"})).id
    await put(http, store, CHUNKS)
    await keywords.index(resources, seconds=60)

    assert list(await find(http, store, "is it returned? accept it!")) == ["returns", "shipping"]


async def test_a_store_that_changes_its_language_is_indexed_anew(
    openai: AsyncOpenAI, http: httpx.AsyncClient, store: str, resources: Resources
) -> None:
    before = await find(http, store, "bake")

    await openai.vector_stores.update(store, metadata={"language": "english"})
    await keywords.index(resources, seconds=60)

    assert (before, list(await find(http, store, "bake"))) == ({}, ["bread"])


async def test_a_language_that_postgresql_does_not_know_is_none(
    openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources
) -> None:
    store = (await openai.vector_stores.create(metadata={"language": "klingon"})).id
    await put(http, store, CHUNKS)
    await keywords.index(resources, seconds=60)

    assert list(await find(http, store, "baked")) == ["bread"]


async def test_adopted_chunks_without_a_number_are_indexed_too(
    http: httpx.AsyncClient, openai: AsyncOpenAI, resources: Resources, database: str
) -> None:
    store = (await openai.vector_stores.create()).id
    await put(http, store, CHUNKS[:3])
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE embeddings SET seq = NULL")
    await put(http, store, CHUNKS[3:])

    await keywords.index(resources, seconds=60)

    assert sorted(await find(http, store, "returns accepted dawn")) == ["bread", "returns", "shipping"]


async def test_a_table_without_the_column_is_searched_by_vector_only(
    http: httpx.AsyncClient, openai: AsyncOpenAI, serve: Any, settings: dict[str, Any], database: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("ALTER TABLE embeddings DROP COLUMN seq")
    async with serve(**settings) as client:
        store = (await client.vector_stores.create()).id

        with pytest.raises(Exception, match="has no keyword index") as caught:
            await client.vector_stores.search(store, query="x", ranking_options={"ranker": "rrf"})
        page = await client.vector_stores.search(store, query="x", ranking_options={"ranker": "auto"})

    assert getattr(caught.value, "status_code", None) == 400
    assert page.data == []


async def test_a_text_beyond_what_a_tsvector_holds_is_indexed_as_far_as_it_goes(
    http: httpx.AsyncClient, store: str, resources: Resources
) -> None:
    text = " ".join(f"wort{i}ÄÖÜ" for i in range(90_000))
    await put(http, store, [{"id": "long", "content": text}])

    await keywords.index(resources, seconds=60)

    assert list(await find(http, store, "wort77ÄÖÜ")) == ["long"]
