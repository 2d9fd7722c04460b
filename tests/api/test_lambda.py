"""The API and the queue as AWS Lambda runs them, by its own runtime client: frozen, thawed, timed out, four at once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.conftest import KEY
from tests.fake_embedder import FakeEmbedder
from tests.lambda_environments import Function, needs_emulator, running_function
from tests.openai_contract import verify

pytestmark = needs_emulator

HANDLER = "api.lambda_handler.handler"
WORKER = "api.lambda_worker.handler"
TIMEOUT_SECONDS = 6


@pytest.fixture
def environment(database: str, embedder: FakeEmbedder, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database,
        "SERVER_API_KEY": KEY,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "FILES_DIR": str(tmp_path / "blobs"),
    }


@pytest.fixture
def function(environment: dict[str, str], tmp_path: Path) -> Iterator[Function]:
    with running_function(HANDLER, environment, tmp_path, timeout_seconds=TIMEOUT_SECONDS, concurrency=4) as function:
        yield function


@pytest.fixture
async def client(function: Function) -> Any:
    http = httpx.AsyncClient(timeout=60, event_hooks={"response": [verify]})
    async with AsyncOpenAI(base_url=f"{function.base_url}/v1", api_key=KEY, max_retries=0, http_client=http) as client:
        yield client


async def cut_connections(database: str) -> int:
    """End those of the API in the server, as a failover or an idle timeout does; how many there were."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        cursor = await connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE application_name = 'quiver' AND datname = current_database()"
        )
        return cursor.rowcount


async def insert(client: AsyncOpenAI, store_id: str, content: str) -> None:
    await client.post(f"/vector_stores/{store_id}/embeddings", body={"content": content}, cast_to=object)


async def kept_files(client: AsyncOpenAI, *, count: int) -> str:
    """A store in which files wait to be ingested."""
    files = [
        await client.files.create(file=(f"{n}.txt", f"text {n}".encode()), purpose="assistants") for n in range(count)
    ]
    return (await client.vector_stores.create(file_ids=[file.id for file in files])).id


async def test_an_environment_starts_once_and_answers_like_the_api(client: AsyncOpenAI, function: Function) -> None:
    store = await client.vector_stores.create(name="first")
    again = await client.vector_stores.retrieve(store.id)

    assert again == store
    assert len(function.cold_starts()) == 1


async def test_connections_that_broke_while_frozen_fail_no_request(
    client: AsyncOpenAI, function: Function, database: str
) -> None:
    store = await client.vector_stores.create(name="kept")
    await asyncio.sleep(1.1)  # more than FROZEN_SECONDS, frozen
    cut = await cut_connections(database)

    assert (await client.vector_stores.retrieve(store.id)).id == store.id
    assert cut > 0
    assert len(function.cold_starts()) == 1


async def test_a_request_that_takes_too_long_is_told_so_and_the_environment_lives_on(
    client: AsyncOpenAI, function: Function, embedder: FakeEmbedder
) -> None:
    store = await client.vector_stores.create()
    embedder.delay_seconds = TIMEOUT_SECONDS

    with pytest.raises(APIStatusError) as refusal:
        await insert(client, store.id, "text")

    assert (refusal.value.status_code, refusal.value.code) == (504, "request_timeout")
    assert (await client.vector_stores.retrieve(store.id)).id == store.id
    assert len(function.cold_starts()) == 1


async def test_four_environments_answer_at_once(
    client: AsyncOpenAI, function: Function, embedder: FakeEmbedder
) -> None:
    embedder.delay_seconds = 1.0
    store = await client.vector_stores.create()
    await insert(client, store.id, "text")

    pages = await asyncio.gather(*[client.vector_stores.search(store.id, query=f"text {n}") for n in range(4)])

    assert [[found.content[0].text for found in page.data] for page in pages] == [["text"]] * 4
    assert len(function.cold_starts()) == 4


async def test_the_queue_is_drained_by_an_event_and_the_rest_is_left_to_the_next(
    client: AsyncOpenAI, environment: dict[str, str], embedder: FakeEmbedder, tmp_path: Path
) -> None:
    store_id = await kept_files(client, count=4)
    slow = environment | {"WORKER_CONCURRENCY": "1"}
    embedder.delay_seconds = 2.0

    with running_function(WORKER, slow, tmp_path, timeout_seconds=14) as worker:
        async with httpx.AsyncClient(base_url=worker.base_url, timeout=60) as events:
            first = (await events.post("/")).json()
            begun = (await client.vector_stores.retrieve(store_id)).file_counts
            embedder.delay_seconds = 0.0
            second = (await events.post("/")).json()

    assert 0 < first["left"] == begun.in_progress < 4
    assert second == {"left": 0, "batchItemFailures": []}
    assert (await client.vector_stores.retrieve(store_id)).file_counts.completed == 4
