"""What was answered is there once, and what was refused not twice, whatever happens to the database meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from tests.api.synced_tables import execute, fetch
from tests.conftest import Serve, raw
from tests.postgres_tools import own_server, replica_of

SECONDS = 30
WRITERS = 4
ENOUGH = 20  # writes before the fault, and again after it

CUT_ALL_CONNECTIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'quiver' AND datname = current_database()
"""


class Writes:
    """Texts that several writers put into a store until it is over, each once, and what was answered to each."""

    def __init__(self, client: AsyncOpenAI, store: str) -> None:
        self.client, self.store = client, store
        self.statuses: dict[str, int] = {}
        self.is_over = False

    async def run(self, writer: int) -> None:
        url = f"/v1/vector_stores/{self.store}/embeddings"
        number = 0
        while not self.is_over:
            number += 1
            text = f"{writer}/{number}"
            answer: httpx.Response = await raw(self.client).post(url, json={"content": text, "embedding": [1.0, 2.0]})
            self.statuses[text] = answer.status_code

    @property
    def done(self) -> set[str]:
        return {text for text, status in self.statuses.items() if status == 200}

    async def go_on(self) -> None:
        """Wait for some more to succeed."""
        before = len(self.done)
        async with asyncio.timeout(SECONDS):
            while len(self.done) < before + ENOUGH:  # noqa: ASYNC110  # they write
                await asyncio.sleep(0.02)

    async def require_none_lost_or_doubled(self, url: str) -> None:
        contents = await fetch(url, "SELECT content FROM embeddings")
        stored = Counter(content for (content,) in contents)

        assert set(self.statuses.values()) == {200, 503}
        assert self.done - stored.keys() == set()
        assert set(stored.values()) == {1}
        counted = (await self.client.vector_stores.retrieve(self.store)).file_counts.total
        assert counted == len(stored)


@asynccontextmanager
async def writing(client: AsyncOpenAI) -> AsyncGenerator[Writes]:
    """Writers at work, before which some have been done; what they are at in the end is waited for."""
    writes = Writes(client, (await client.vector_stores.create(extra_body={"embedding_dimension": 2})).id)
    writers = [asyncio.create_task(writes.run(number)) for number in range(WRITERS)]
    try:
        await writes.go_on()
        yield writes
    finally:
        writes.is_over = True
        await asyncio.gather(*writers)


async def test_a_database_that_crashes_and_comes_back_loses_and_doubles_no_write(
    tmp_path: Path, serve: Serve, settings: dict[str, Any]
) -> None:
    with EmbeddedPostgres(tmp_path / "data") as server:
        await migrations.apply(server.url)
        async with serve(**settings | {"database_url": server.url}) as client:
            async with writing(client) as writes:
                server.request_stop(at_once=True)
                await asyncio.to_thread(server.stop)
                server.start()
                await writes.go_on()
            await writes.require_none_lost_or_doubled(server.url)


async def test_a_failover_to_a_synchronous_replica_loses_and_doubles_no_write(
    tmp_path: Path, serve: Serve, settings: dict[str, Any]
) -> None:
    async with own_server(tmp_path / "one") as primary:
        with replica_of(primary, tmp_path / "two") as replica:
            await replicate_synchronously(primary)
            both = ",".join(url.partition("host=")[2] for url in (primary.url, replica.url))
            url = f"postgresql://postgres@/quiver?host={both}&target_session_attrs=read-write"
            async with serve(**settings | {"database_url": url}) as client:
                async with writing(client) as writes:
                    primary.request_stop(at_once=True)
                    await asyncio.to_thread(primary.stop)
                    await execute(replica.url, "SELECT pg_promote()")
                    await writes.go_on()
                await writes.require_none_lost_or_doubled(replica.url)


async def replicate_synchronously(primary: EmbeddedPostgres) -> None:
    await execute(primary.url, "ALTER SYSTEM SET synchronous_commit = 'on'")
    await execute(primary.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    await execute(primary.url, "SELECT pg_reload_conf()")
    async with asyncio.timeout(SECONDS):
        while not await fetch(primary.url, "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"):  # noqa: ASYNC110  # it reloads
            await asyncio.sleep(0.05)


async def test_connections_that_are_cut_lose_and_double_no_write(openai: AsyncOpenAI, database: str) -> None:
    async with writing(openai) as writes:
        async with asyncio.timeout(SECONDS):
            while set(writes.statuses.values()) != {200, 503}:
                await execute(database, CUT_ALL_CONNECTIONS)
                await asyncio.sleep(0.05)
        await writes.go_on()
    await writes.require_none_lost_or_doubled(database)
