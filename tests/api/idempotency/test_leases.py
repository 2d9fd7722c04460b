"""A request holds its key while it is under way, and no longer than its lease once its process is gone."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from api.resources import Resources
from api.services import idempotency
from api.tables.idempotency_keys import Claim, Kept
from tests.api.idempotency.keyed_requests import (
    KEYED,
    SECONDS,
    code,
    count_chunks,
    create,
    is_replayed,
    let_the_lease_run_out,
    names,
    put,
    query,
    until_embedding,
)
from tests.conftest import KEY
from tests.fake_embedder import FakeEmbedder
from tests.processes import free_port


def claim_of_the_client(id: str = "another") -> Claim:
    """The claim of a process that was sent what `create` and `put` send."""
    return Claim(caller=idempotency.caller_of(KEY), key=KEYED["Idempotency-Key"], id=id)


async def test_while_the_first_is_under_way_a_retry_is_asked_to_come_again(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder
) -> None:
    embedder.delay_seconds = 0.5
    first = asyncio.create_task(put(http, store))
    await until_embedding(embedder)

    second = await put(http, store)

    assert code(second) == (409, "idempotency_key_in_use")
    assert (second.headers["retry-after"], second.headers["x-should-retry"]) == ("1", "true")
    assert (await first).content == (await put(http, store)).content
    assert await count_chunks(http, store) == 1


async def test_a_request_that_lost_its_key_to_a_retry_is_undone(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str
) -> None:
    embedder.delay_seconds = 1
    first = asyncio.create_task(put(http, store))
    await until_embedding(embedder)
    await let_the_lease_run_out(database)
    second = await put(http, store)

    assert [second.status_code, (await first).status_code] == [200, 409]
    assert (await put(http, store)).content == second.content
    assert await count_chunks(http, store) == 1


async def test_a_process_that_died_blocks_the_key_for_its_lease_and_no_longer(
    http: httpx.AsyncClient, resources: Resources, database: str
) -> None:
    await idempotency.claim(resources, claim_of_the_client())

    blocked = await create(http)
    await let_the_lease_run_out(database)
    answers = [await create(http) for _ in range(2)]

    assert code(blocked) == (409, "idempotency_key_in_use")
    assert [(answer.status_code, is_replayed(answer)) for answer in answers] == [(200, False), (200, True)]
    assert await names(http) == ["a"]


async def test_a_lease_is_renewed_while_the_request_is_under_way(
    http: httpx.AsyncClient, resources: Resources, database: str
) -> None:
    await idempotency.claim(resources, claim_of_the_client())
    await let_the_lease_run_out(database)

    async with idempotency.renewed(resources, claim_of_the_client(), every_seconds=0.01), asyncio.timeout(SECONDS):
        while not await query(database, "SELECT FROM idempotency_keys WHERE lease_expires_at > now()"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert (await create(http)).status_code == 409


async def test_a_process_that_comes_back_too_late_changes_nothing(
    http: httpx.AsyncClient, resources: Resources, database: str
) -> None:
    late = claim_of_the_client()
    await idempotency.claim(resources, late)
    await let_the_lease_run_out(database)
    first = await create(http)

    await idempotency.keep(resources, late, Kept(fingerprint=b"", request_bytes=0, status=200, headers=[], body=b""))
    await idempotency.release(resources, late)

    assert (await create(http)).content == first.content


async def test_a_request_that_is_cut_off_gives_its_key_back(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder
) -> None:
    embedder.delay_seconds = 1
    cut_off = asyncio.create_task(put(http, store))
    await until_embedding(embedder)
    cut_off.cancel()
    await asyncio.wait({cut_off})
    embedder.reset()

    assert (await put(http, store)).status_code == 200
    assert await count_chunks(http, store) == 1


async def test_a_killed_server_blocks_the_key_for_its_lease_and_leaves_nothing_behind(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str, tmp_path: Path
) -> None:
    embedder.delay_seconds = 1
    async with process(database, embedder, tmp_path) as (pid, base_url), httpx.AsyncClient(base_url=base_url) as other:
        other.headers["Authorization"] = f"Bearer {KEY}"
        request = asyncio.create_task(put(other, store))
        await until_embedding(embedder)
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait({request})
    embedder.reset()

    blocked = await put(http, store)
    await let_the_lease_run_out(database)

    assert isinstance(request.exception(), httpx.TransportError)
    assert (blocked.status_code, (await put(http, store)).status_code) == (409, 200)
    assert await count_chunks(http, store) == 1


@asynccontextmanager
async def process(database: str, embedder: FakeEmbedder, directory: Path) -> AsyncGenerator[tuple[int, str]]:
    """`quiver api` as a process of its own: its pid and address."""
    port = free_port()
    environment = {
        "DATABASE_URL": database,
        "SERVER_API_KEY": KEY,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "PORT": str(port),
        "FILES_DIR": str(directory),
        "PATH": "",
    }
    command = (sys.executable, "-m", "api.cli", "api")
    api = await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.DEVNULL)
    try:
        base_url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(SECONDS), httpx.AsyncClient(base_url=base_url) as http:
            while not await is_healthy(http):  # noqa: ASYNC110  # it starts
                await asyncio.sleep(0.05)
        yield api.pid, base_url
    finally:
        if api.returncode is None:
            api.kill()
        await api.wait()


async def is_healthy(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health")).status_code == 200
    except httpx.TransportError:
        return False
