"""Synced tables with real worker processes: they are quick, and may be killed at any time."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg

from api.services.table_syncs import render
from tests.api.synced_tables import ARTICLES, declare, execute, fetch, search, state, texts
from tests.fake_embedder import FakeEmbedder, embed
from tests.working import worker_process

SECONDS = 90
SMALL_CHUNKS = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
KILLS = 3
KEYS = 40

WRITES = (
    "INSERT INTO articles VALUES (%(key)s, %(text)s, NULL, 'en') ON CONFLICT (id) DO UPDATE SET body = %(text)s",
    "INSERT INTO articles VALUES (%(key)s, %(text)s) ON CONFLICT (id) DO NOTHING",
    "UPDATE articles SET title = %(text)s, body = NULL WHERE id % 3 = %(key)s % 3",
    "UPDATE articles SET title = repeat(%(text)s, 200) WHERE id = %(key)s",
    "UPDATE articles SET title = NULL, body = NULL WHERE id = %(key)s",
    "UPDATE articles SET id = %(other)s WHERE id = %(key)s AND NOT EXISTS (SELECT FROM articles WHERE id = %(other)s)",
    "UPDATE articles SET lang = %(text)s WHERE id = %(key)s",
    "DELETE FROM articles WHERE id = %(key)s",
    "TRUNCATE articles",
)
WEIGHTS = (30, 20, 4, 10, 5, 10, 10, 10, 1)


def environment(database: str, embedder: FakeEmbedder, directory: Path) -> dict[str, str]:
    return {"DATABASE_URL": database, "EMBEDDING__BASE_URL": embedder.base_url, "FILES_DIR": str(directory / "files")}


async def test_a_row_is_found_within_seconds(
    database: str, http: httpx.AsyncClient, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    await execute(database, ARTICLES)
    sync = await declare(http)
    async with worker_process(environment(database, embedder, tmp_path), tmp_path), asyncio.timeout(SECONDS):
        await execute(database, "INSERT INTO articles VALUES (4, 'Opening hours')")
        while "4" not in [result["file_id"] for result in await search(http, sync, "opening hours")]:  # noqa: ASYNC110  # it works
            await asyncio.sleep(0.1)


async def test_after_a_write_load_and_killed_workers_the_store_agrees_with_the_table(
    database: str, http: httpx.AsyncClient, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    embedder.delay_seconds = 0.05  # so that most kills come in the middle of something
    await execute(database, ARTICLES)
    sync = await declare(http, chunking_strategy=SMALL_CHUNKS)
    writing = asyncio.create_task(write_without_end(database))
    for number in range(KILLS):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with worker_process(environment(database, embedder, tmp_path), directory):
            await asyncio.sleep(random.Random(number).uniform(1, 2))  # noqa: S311  # and is killed
    assert not writing.done()
    writing.cancel()
    async with worker_process(environment(database, embedder, tmp_path), tmp_path), asyncio.timeout(SECONDS):
        while (await state(http, sync))["status"] != "completed":  # noqa: ASYNC110  # it works
            await asyncio.sleep(0.2)

    rows = await fetch(database, "SELECT id::text, ARRAY[title, body] FROM articles")
    rendered = {key: render(sync["template"], row) for key, row in rows}
    expected = {key: without_blanks(text) for key, text in rendered.items() if text}
    assert {key: without_blanks(text) for key, text in (await texts(database, sync)).items()} == expected
    assert await counters(database, sync) == (len(expected), 0)
    assert await least_similarity(database) > 0.99


def without_blanks(text: str) -> str:
    """What is left of a text wherever it was cut into chunks."""
    return "".join(text.split())


async def write_without_end(database: str) -> None:
    chance = random.Random(7)  # noqa: S311  # the same writes each time
    async with await psycopg.AsyncConnection.connect(database) as connection:
        for number in range(1_000_000):
            for statement in chance.choices(WRITES, WEIGHTS, k=chance.randint(1, 5)):
                keys = {"key": chance.randrange(KEYS), "other": chance.randrange(KEYS), "text": f"text{number} "}
                await connection.execute(statement.encode().replace(b"% 3", b"%% 3"), keys)
            await chance.choice((connection.commit, connection.commit, connection.rollback))()
            await asyncio.sleep(0.005)


async def least_similarity(database: str) -> float:
    """Of a chunk's vector to that of its text."""
    chunks = await fetch(database, "SELECT content, embedding::text FROM embeddings")
    return min((float(np.dot(embed(text), np.array(json.loads(vector)))) for text, vector in chunks), default=1.0)


async def counters(database: str, sync: dict[str, Any]) -> tuple[int, int]:
    """Rows as the store counts them, and by how many bytes it is wrong."""
    [(rows, wrong)] = await fetch(
        database,
        "SELECT (file_counts ->> 'completed')::int, usage_bytes - "
        "(SELECT coalesce(sum(octet_length(content)), 0) FROM embeddings WHERE vector_store_id = vector_stores.id) "
        "FROM vector_stores WHERE id = %s",
        sync["vector_store_id"],
    )
    return rows, int(wrong)
