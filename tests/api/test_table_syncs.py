"""Tables that are kept in stores: what is written to them appears in search, whatever happens meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.api.synced_tables import ARTICLES, declare, execute, fetch, search, state, sync_now, texts
from tests.fake_embedder import FakeEmbedder

SECONDS = 60


@pytest.fixture
async def sync(database: str, http: httpx.AsyncClient, settings: dict[str, Any]) -> dict[str, Any]:
    """A table of three articles, all in their store."""
    await execute(database, ARTICLES)
    sync = await declare(http)
    await sync_now(settings)
    return sync


async def test_the_rows_that_are_there_are_found(sync: dict[str, Any], http: httpx.AsyncClient) -> None:
    found = (await search(http, sync, "items sent back"))[0]

    assert (found["file_id"], found["filename"]) == ("1", "public.articles")
    assert found["attributes"] == {"lang": "en", "views": 10}
    assert found["content"][0]["text"] == "Returns\n\nItems may be sent back within thirty days."


async def test_a_sync_says_how_far_it_is(database: str, http: httpx.AsyncClient, settings: dict[str, Any]) -> None:
    await execute(database, ARTICLES)
    sync = await declare(http)
    await sync_now(settings)
    done = await state(http, sync)

    assert (sync["status"], sync["is_scanned"], sync["key"]) == ("in_progress", False, ["id"])
    assert (done["status"], done["is_scanned"], done["row_counts"]) == ("completed", True, {"waiting": 0, "failed": 0})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("INSERT INTO articles VALUES (4, 'New', 'text')", {"4": "New\n\ntext"}),
        ("INSERT INTO articles VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET title = 'Upserted', body = NULL",
         {"1": "Upserted"}),
        ("UPDATE articles SET body = 'Changed.' WHERE id = 2", {"2": "Delivery\n\nChanged."}),
        ("UPDATE articles SET id = 20 WHERE id = 2", {"20": "Delivery\n\nParcels arrive after two days.", "2": None}),
        ("UPDATE articles SET title = NULL, body = ' ' WHERE id = 2", {"2": None}),
        ("DELETE FROM articles WHERE id = 2", {"2": None}),
        ("TRUNCATE articles", {"1": None, "2": None, "3": None}),
        ("MERGE INTO articles USING (VALUES (1), (9)) AS s (id) ON articles.id = s.id "
         "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, title) VALUES (9, 'Merged')",
         {"1": None, "9": "Merged"}),
    ],
)  # fmt: skip
async def test_a_change_of_the_table_is_followed(
    sync: dict[str, Any],
    database: str,
    settings: dict[str, Any],
    openai: AsyncOpenAI,
    change: Any,
    expected: dict[str, str | None],
) -> None:
    before = await texts(database, sync)
    await execute(database, change)
    await sync_now(settings)

    after = {key: text for key, text in (before | expected).items() if text is not None}
    store = await openai.vector_stores.retrieve(sync["vector_store_id"])
    assert await texts(database, sync) == after
    assert store.file_counts.completed == store.file_counts.total == len(after)
    assert store.usage_bytes == sum(len(text.encode()) for text in after.values())


async def test_a_text_that_did_not_change_is_not_embedded_again(
    sync: dict[str, Any], database: str, settings: dict[str, Any], http: httpx.AsyncClient, embedder: FakeEmbedder
) -> None:
    embedder.calls.clear()
    await execute(database, "UPDATE articles SET views = 99")
    await sync_now(settings)

    assert embedder.calls == []
    assert {result["attributes"]["views"] for result in await search(http, sync, "days")} == {99}


async def test_a_row_grows_and_shrinks_in_chunks(
    database: str, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    await execute(database, ARTICLES)
    static = {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}
    sync = await declare(http, chunking_strategy={"type": "static", "static": static})
    count = "SELECT count(*) FROM embeddings WHERE file_id = '1'"
    counts: list[int] = []
    for words in (1, 1000, 300, 0):
        await execute(database, "UPDATE articles SET title = '', body = repeat('word ', %s) WHERE id = 1", words)
        await sync_now(settings)
        counts.append((await fetch(database, count))[0][0])

    assert counts == [1, 10, 3, 0]
    assert "1" not in await texts(database, sync)


async def test_a_change_while_a_row_is_embedded_is_not_lost(
    sync: dict[str, Any], database: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    await execute(database, "UPDATE articles SET body = 'first' WHERE id = 1")

    async with stalled(embedder, settings):
        await execute(database, "UPDATE articles SET body = 'second' WHERE id = 1")
    await sync_now(settings)

    assert (await texts(database, sync))["1"] == "Returns\n\nsecond"


async def test_nothing_waits_for_a_row_that_is_refused(
    database: str, http: httpx.AsyncClient, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    await execute(database, ARTICLES)
    embedder.refused = "Parcels"
    sync = await declare(http)
    await sync_now(settings)
    failing = await state(http, sync)

    assert sorted(await texts(database, sync)) == ["1", "3"]
    assert failing["row_counts"] == {"waiting": 0, "failed": 1}
    assert [(error["key"], error["attempts"]) for error in failing["errors"]] == [("2", 1)]
    assert "refuses" in failing["errors"][0]["message"]


async def test_a_row_at_which_the_embedder_breaks_down_is_soon_alone(
    database: str, http: httpx.AsyncClient, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    await execute(database, ARTICLES)
    embedder.refused, embedder.refusal = "Parcels", 500
    sync = await declare(http)
    for _ in range(5):
        await sync_now(settings | {"embedding": settings["embedding"] | {"max_attempts": 1}})
        await execute(database, "UPDATE table_sync_rows SET retry_at = now()")

    assert sorted(await texts(database, sync)) == ["1", "3"]


async def test_what_failed_is_tried_again_and_a_change_tries_it_at_once(
    database: str, http: httpx.AsyncClient, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    await execute(database, ARTICLES)
    embedder.refused = "Parcels"
    sync = await declare(http)
    await sync_now(settings)
    await execute(database, "UPDATE articles SET body = 'Letters arrive.' WHERE id = 2")
    await sync_now(settings)

    assert (await texts(database, sync))["2"] == "Delivery\n\nLetters arrive."
    assert (await state(http, sync))["row_counts"] == {"waiting": 0, "failed": 0}


async def test_dropping_removes_every_trace(
    sync: dict[str, Any], database: str, http: httpx.AsyncClient, openai: AsyncOpenAI
) -> None:
    await execute(database, "UPDATE articles SET body = 'waits'")
    answer = await http.delete(f"/v1/table_syncs/{sync['id']}")
    store = await openai.vector_stores.retrieve(sync["vector_store_id"])
    await execute(database, "UPDATE articles SET body = 'on'")

    assert answer.json() == {"id": sync["id"], "object": "table_sync.deleted", "deleted": True}
    assert await traces(database) == {("t", 0), ("f", 0), ("r", 0), ("c", 0), ("s", 0), ("e", 0)}
    assert (store.file_counts.total, store.usage_bytes) == (0, 0)
    assert (await http.get(f"/v1/table_syncs/{sync['id']}")).status_code == 404


@asynccontextmanager
async def stalled(embedder: FakeEmbedder, settings: dict[str, Any]) -> AsyncGenerator[None]:
    """A worker that waits for the embedder; at the end it goes on and comes to an end."""
    embedder.calls.clear()
    embedder.delay_seconds = 1.0
    working = asyncio.create_task(sync_now(settings))
    async with asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
    yield
    embedder.delay_seconds = 0.0
    await working


async def traces(database: str) -> set[tuple[str, int]]:
    return set(
        await fetch(
            database,
            "SELECT 't', count(*) FROM pg_trigger WHERE tgname LIKE 'quiver%' UNION ALL "
            "SELECT 'f', count(*) FROM pg_proc WHERE proname LIKE 'quiver\\_ts%' UNION ALL "
            "SELECT 'r', count(*) FROM table_sync_rows UNION ALL "
            "SELECT 'c', count(*) FROM table_sync_changes UNION ALL "
            "SELECT 's', count(*) FROM table_syncs UNION ALL SELECT 'e', count(*) FROM embeddings",
        )
    )
