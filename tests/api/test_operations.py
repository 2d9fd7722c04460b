"""What operators do while Quiver serves: back up, restart, fail over, pool, replicate, upgrade."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI, InternalServerError

from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from tests.conftest import KEY, Serve, new_database, raw
from tests.fake_embedder import FakeEmbedder
from tests.postgres_tools import own_server, pooler_of, replica_of, run_tool
from tests.processes import free_port
from tests.working import work_off

SECONDS = 30
TEXTS = [f"Bread number {number} is baked with {word}" for number, word in enumerate(("rye", "wheat", "spelt", "oat"))]

MAKE_READ_ONLY = """
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
END $$
"""
DISCONNECT_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
"""
CREATE_NARROW_ROLE = """
CREATE ROLE narrow LOGIN CONNECTION LIMIT 1;
GRANT ALL ON ALL TABLES IN SCHEMA public TO narrow;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO narrow;
"""
# What a later version may do: it adds, and this one goes on.
LATER_MIGRATION = """
ALTER TABLE vector_stores ADD COLUMN colour text NOT NULL DEFAULT 'blue';
ALTER TABLE embeddings ADD COLUMN colour text;
ALTER TABLE files ADD COLUMN colour text;
CREATE TABLE colours (name text PRIMARY KEY);
"""


async def filled_store(client: AsyncOpenAI) -> str:
    """A store of four chunks and a file."""
    store = await client.vector_stores.create(name="bakery")
    for text in TEXTS:
        await raw(client).post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": text})
    file = await client.files.create(file=("rolls.txt", b"Rolls are baked in the morning"), purpose="assistants")
    await client.vector_stores.files.create(store.id, file_id=file.id)
    return store.id


async def found(client: AsyncOpenAI, store: str, query: str = "wheat bread") -> list[tuple[str, float]]:
    page = await client.vector_stores.search(store, query=query)
    return [(result.content[0].text, result.score) for result in page.data]


async def execute(url: str, statement: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def test_a_dump_restored_elsewhere_gives_the_same_answers(
    serve: Serve, settings: dict[str, Any], postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with serve(**settings) as client:
        store = await filled_store(client)
        await work_off(settings)
        before = await found(client, store)
        [file] = [file async for file in client.files.list()]
    run_tool("pg_dump", "--format=custom", f"--file={tmp_path / 'quiver.dump'}", settings["database_url"])
    shutil.copytree(settings["files_dir"], tmp_path / "files")

    async with new_database(postgres, "template0") as url:
        run_tool("pg_restore", "--no-owner", f"--dbname={url}", str(tmp_path / "quiver.dump"))
        async with serve(**settings | {"database_url": url, "files_dir": tmp_path / "files"}) as client:
            assert (await raw(client).get("/ready")).status_code == 200
            assert await found(client, store) == before
            assert await (await client.files.content(file.id)).aread() == b"Rolls are baked in the morning"
            await filled_store(client)  # and it goes on: sequences and queue are there, too


async def test_many_clients_share_the_few_connections_of_a_pooler(
    serve: Serve, settings: dict[str, Any], open_directory: Path
) -> None:
    async with own_server(open_directory / "data") as server:
        with pooler_of(server, open_directory) as url:
            pooled = settings | {"database_url": url, "database_direct_url": server.url}
            async with serve(**pooled | {"database_pool_size": 8}) as client:
                stores = await asyncio.gather(*(filled_store(client) for _ in range(8)))
                await work_off(pooled | {"database_url": server.url})
                answers = await asyncio.gather(*(found(client, store) for store in stores for _ in range(5)))

    assert {len(answer) for answer in answers} == {5}
    assert {answer[0][0] for answer in answers} == {TEXTS[1]}


async def test_the_database_may_fail_over_to_another_server(
    serve: Serve, settings: dict[str, Any], tmp_path: Path
) -> None:
    async with own_server(tmp_path / "one") as primary:
        with replica_of(primary, tmp_path / "two") as replica:
            both = ",".join(url.partition("host=")[2] for url in (primary.url, replica.url))
            url = f"postgresql://postgres@/quiver?host={both}&target_session_attrs=read-write"
            async with serve(**settings | {"database_url": url}) as client:
                store = await filled_store(client)
                await until_it_has_all(replica, of=primary)
                primary.stop()
                await execute(replica.url, "SELECT pg_promote()")

                async with asyncio.timeout(SECONDS):
                    while (await put(client, store)).status_code != 200:  # noqa: ASYNC110  # it fails over
                        await asyncio.sleep(0.1)
                assert len(await found(client, store)) == len(TEXTS) + 1


@pytest.fixture
async def replicated(serve: Serve, settings: dict[str, Any], tmp_path: Path) -> AsyncIterator["Replicated"]:
    async with own_server(tmp_path / "one") as primary:
        with replica_of(primary, tmp_path / "two") as replica:
            urls = {"database_url": primary.url, "database_replica_url": replica.url}
            async with serve(**settings | urls | {"database_timeout_seconds": 0.5}) as client:
                yield Replicated(client, primary, replica)


@dataclass(frozen=True)
class Replicated:
    client: AsyncOpenAI
    primary: EmbeddedPostgres
    replica: EmbeddedPostgres


async def test_searches_are_answered_by_a_replica(replicated: Replicated) -> None:
    store = await filled_store(replicated.client)
    await until_it_has_all(replicated.replica, of=replicated.primary)
    before = await found(replicated.client, store)
    replicated.primary.stop()

    assert await found(replicated.client, store) == before
    assert len(before) == len(TEXTS)
    assert (await put(replicated.client, store)).status_code == 503


async def test_what_a_replica_does_not_have_yet_is_found(replicated: Replicated) -> None:
    await execute(replicated.replica.url, "SELECT pg_wal_replay_pause()")
    store = await filled_store(replicated.client)

    assert len(await found(replicated.client, store)) == len(TEXTS)


async def test_a_replica_that_is_away_is_done_without(replicated: Replicated) -> None:
    store = await filled_store(replicated.client)
    replicated.replica.stop()

    assert [len(await found(replicated.client, store)) for _ in range(5)] == [len(TEXTS)] * 5


async def test_a_search_on_a_replica_keeps_its_store_from_expiring(replicated: Replicated) -> None:
    store = await filled_store(replicated.client)
    before = "UPDATE vector_stores SET last_active_at = now() - interval '1 day'"
    await execute(replicated.primary.url, before)
    await until_it_has_all(replicated.replica, of=replicated.primary)
    await found(replicated.client, store)

    last_active_at = (await replicated.client.vector_stores.retrieve(store)).last_active_at
    assert last_active_at is not None
    assert last_active_at > time.time() - 3600


async def until_it_has_all(replica: EmbeddedPostgres, *, of: EmbeddedPostgres) -> None:
    async with await psycopg.AsyncConnection.connect(of.url) as connection:
        [position] = await (await connection.execute("SELECT pg_current_wal_insert_lsn()")).fetchone() or [None]
    arrived = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    async with await psycopg.AsyncConnection.connect(replica.url) as connection, asyncio.timeout(SECONDS):
        while (await (await connection.execute(arrived, [position])).fetchone()) != (True,):  # noqa: ASYNC110  # it streams
            await asyncio.sleep(0.02)


async def put(client: AsyncOpenAI, store: str) -> httpx.Response:
    return await raw(client).post(f"/v1/vector_stores/{store}/embeddings", json={"content": "Cake is baked, too"})


async def test_a_database_that_is_read_only_is_searched_and_not_written(
    openai: AsyncOpenAI, settings: dict[str, Any]
) -> None:
    store = await filled_store(openai)
    before = await found(openai, store)
    await execute(settings["database_url"], "UPDATE vector_stores SET last_active_at = last_active_at - interval '1 h'")
    await execute(settings["database_url"], MAKE_READ_ONLY)
    await execute(settings["database_url"], DISCONNECT_OTHERS)

    async with asyncio.timeout(SECONDS):
        while await try_to_find(openai, store) != before:  # noqa: ASYNC110  # the broken connections are found first
            await asyncio.sleep(0.05)
    refused = await put(openai, store)

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_refused")


async def try_to_find(client: AsyncOpenAI, store: str) -> list[tuple[str, float]] | None:
    try:
        return await found(client, store)
    except InternalServerError:
        return None


@pytest.fixture
async def narrow_role(database: str) -> AsyncIterator[str]:
    """The address of the database for a user who may have but one connection."""
    await execute(database, CREATE_NARROW_ROLE)
    yield database.replace("postgres@", "narrow@")
    await execute(database, "DROP OWNED BY narrow; DROP ROLE narrow")


async def test_few_connections_make_requests_wait_and_none_fail_oddly(
    serve: Serve, settings: dict[str, Any], narrow_role: str
) -> None:
    async with serve(**settings | {"database_url": narrow_role, "database_pool_size": 10}) as client:
        store = await client.vector_stores.create()
        answers = await asyncio.gather(*(put(client, store.id) for _ in range(20)))

        stored = (await client.vector_stores.retrieve(store.id)).file_counts.total

    assert {answer.status_code for answer in answers} <= {200, 503}
    assert stored == [answer.status_code for answer in answers].count(200) > 0


async def test_a_disk_that_is_full_refuses_a_file_and_keeps_nothing_of_it(
    serve: Serve, settings: dict[str, Any], small_disk: Path
) -> None:
    async with serve(**settings | {"files_dir": small_disk}) as client:
        with pytest.raises(InternalServerError, match="storage for files is full") as refused:
            await client.files.create(file=("large.txt", b"x" * 3_000_000), purpose="assistants")
        kept = await client.files.create(file=("small.txt", b"x" * 300_000), purpose="assistants")

        assert refused.value.status_code == 503
        assert [file.id async for file in client.files.list()] == [kept.id]
        assert count_files(small_disk) == 1


def count_files(directory: Path) -> int:
    return len([path for path in directory.rglob("*") if path.is_file()])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a file system: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_a_server_that_is_asked_to_stop_answers_what_it_was_asked_before(
    settings: dict[str, Any], embedder: FakeEmbedder, openai: AsyncOpenAI, tmp_path: Path, processes: str
) -> None:
    store = await openai.vector_stores.create()
    port = free_port()
    environment = {
        "DATABASE_URL": settings["database_url"],
        "SERVER_API_KEY": KEY,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "PORT": str(port),
        "API_PROCESSES": processes,
    }
    embedder.delay_seconds = 1
    command = [sys.executable, "-m", "api.cli", "api"]
    process = await started(command, environment, port, tmp_path / "api.log")
    url = f"http://127.0.0.1:{port}/v1/vector_stores/{store.id}/embeddings"
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as http:
        asked = [asyncio.create_task(http.post(url, json={"content": f"{number}"})) for number in range(20)]
        await until_asked(embedder, times=20)
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)

    assert [answer.status_code for answer in answers] == [200] * 20
    assert await asyncio.to_thread(process.wait, SECONDS) == 0
    assert (await openai.vector_stores.retrieve(store.id)).file_counts.total == 20


async def started(command: list[str], environment: dict[str, str], port: int, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={"PATH": "", **environment}, stdout=output, stderr=output)  # noqa: ASYNC220
    async with asyncio.timeout(SECONDS), httpx.AsyncClient() as http:
        while process.poll() is None:
            try:
                await http.get(f"http://127.0.0.1:{port}/health")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return process
    raise AssertionError(f"the API did not start; see {log}")


async def until_asked(embedder: FakeEmbedder, *, times: int) -> None:
    async with asyncio.timeout(SECONDS):
        while len(embedder.calls) < times:  # noqa: ASYNC110  # it counts
            await asyncio.sleep(0.02)


async def test_an_upgrade_of_the_database_goes_unnoticed_by_the_older_version(
    openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any], tmp_path: Path
) -> None:
    store = await filled_store(openai)
    history = tmp_path / "history"
    shutil.copytree(migrations.MIGRATIONS, history)
    (history / "30000101000000_later").mkdir()
    (history / "30000101000000_later" / "migration.sql").write_text(LATER_MIGRATION)
    async with reading(settings["database_url"]) as until_then:
        migrating = asyncio.create_task(migrations.apply(settings["database_url"], directory=history))
        meanwhile = [await put(openai, store) for _ in range(10)]
        await until_then.rollback()
    applied = await migrating
    afterwards = [await put(openai, store) for _ in range(10)]

    assert applied == ["30000101000000_later"]
    assert {answer.status_code for answer in meanwhile + afterwards} == {200}
    assert (await openai.vector_stores.retrieve(store)).file_counts.total == len(TEXTS) + 1 + 20
    assert (await http.get("/ready")).json()["checks"]["migrations"] == "ok"


@asynccontextmanager
async def reading(url: str) -> AsyncGenerator[psycopg.AsyncConnection]:
    """A report that reads a table for long, for which an ALTER TABLE has to wait."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("SELECT count(*) FROM embeddings")
        yield connection
