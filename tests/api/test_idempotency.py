"""Idempotency-Key: of the same POST sent several times, one is carried out, whatever becomes of its answer."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI

from api.app import create_app
from api.resources import Resources
from api.services import idempotency
from api.tables.idempotency_keys import Claim, Kept
from api.worker import create_queue
from tests.conftest import KEY, Serve, make_settings, raw
from tests.fake_embedder import FakeEmbedder
from tests.processes import free_port
from tests.servers import Server
from tests.working import opened

STORES = "/v1/vector_stores"
FILES = "/v1/files"
KEYED = {"Idempotency-Key": "order-66"}
SECONDS = 30


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    """What another process has, one that may stop at any time."""
    async with opened(settings) as resources:
        yield resources


async def create(http: httpx.AsyncClient, name: str = "a", **headers: str) -> httpx.Response:
    return await http.post(STORES, json={"name": name}, headers=KEYED | headers)


async def put(http: httpx.AsyncClient, store: str, **body: Any) -> httpx.Response:
    return await http.post(f"{STORES}/{store}/embeddings", json={"content": "text", **body}, headers=KEYED)


async def names(http: httpx.AsyncClient) -> list[str]:
    return [store["name"] for store in (await http.get(STORES)).json()["data"]]


async def count_chunks(http: httpx.AsyncClient, store: str) -> int:
    return len((await http.get(f"{STORES}/{store}/embeddings")).json()["data"])


def is_replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def query(database: str, statement: LiteralString) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        cursor = await connection.execute(statement)
        return [] if cursor.description is None else await cursor.fetchall()


async def let_the_lease_run_out(database: str) -> None:
    await query(database, "UPDATE idempotency_keys SET lease_expires_at = now()")


async def let_a_day_pass(database: str) -> None:
    await query(database, "UPDATE idempotency_keys SET created_at = created_at - interval '24 hours'")


def claim_of_the_client(id: str = "another") -> Claim:
    """The claim of a process that was sent what `create` and `put` send."""
    return Claim(caller=idempotency.caller_of(KEY), key=KEYED["Idempotency-Key"], id=id)


async def test_a_retry_gets_the_first_answer_and_makes_nothing(http: httpx.AsyncClient) -> None:
    first, second = await create(http), await create(http)

    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert (is_replayed(first), is_replayed(second)) == (False, True)
    assert await names(http) == ["a"]


async def test_fifty_creations_at_once_with_one_key_make_one_store(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    patient = openai.with_options(max_retries=5)

    made = await asyncio.gather(*[patient.vector_stores.create(name="a", extra_headers=KEYED) for _ in range(50)])

    assert len({store.id for store in made}) == 1
    assert await names(http) == ["a"]


class LosesAnswers(httpx.AsyncBaseTransport):
    """A network on which a request arrives and its answer does not, every other time."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.answers: list[httpx.Response] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.answers.append(await self._transport.handle_async_request(request))
        if len(self.answers) % 2:
            raise httpx.ReadError("connection lost", request=request)
        return self.answers[-1]


@asynccontextmanager
async def losing_answers(settings: dict[str, Any]) -> AsyncGenerator[AsyncOpenAI]:
    """The official client with the option that lets it send a key of its own."""
    app = create_app(make_settings(**settings))
    network = LosesAnswers(httpx.ASGITransport(app))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=network, base_url="http://quiver") as http,
        AsyncOpenAI(base_url="http://quiver/v1", api_key=KEY, max_retries=1, http_client=http) as client,
    ):
        client._idempotency_header = "Idempotency-Key"  # pyright: ignore[reportPrivateUsage]  # there is no other
        yield client


async def test_the_official_client_makes_up_for_a_lost_answer(
    settings: dict[str, Any], http: httpx.AsyncClient
) -> None:
    async with losing_answers(settings) as client:
        made = [await client.vector_stores.create(name=name) for name in "ab"]

    assert [store.name for store in made] == ["a", "b"]
    assert await names(http) == ["b", "a"]


async def test_the_official_client_makes_up_for_the_lost_answer_to_an_upload(
    settings: dict[str, Any], openai: AsyncOpenAI
) -> None:
    content = os.urandom(500_000)

    async with losing_answers(settings) as client:
        file = await client.files.create(file=("a.bin", content), purpose="assistants")

    assert [kept.id for kept in (await openai.files.list()).data] == [file.id]


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


async def until_embedding(embedder: FakeEmbedder) -> None:
    async with asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "body"),
    [(STORES, {"name": "b"}), (STORES, {"name": "a", "metadata": {}}), (f"{STORES}/vs_1", {"name": "a"})],
)
async def test_another_request_with_a_used_key_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    first = await create(http)

    answer = await http.post(path, json=body, headers=KEYED)

    assert code(answer) == (400, "idempotency_key_reused")
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert (await create(http)).content == first.content
    assert await names(http) == ["a"]


async def test_the_query_belongs_to_the_request(http: httpx.AsyncClient) -> None:
    await create(http)

    answer = await http.post(f"{STORES}?colour=red", json={"name": "a"}, headers=KEYED)

    assert code(answer) == (400, "idempotency_key_reused")


async def test_a_retry_may_come_by_another_of_the_clients_bases(http: httpx.AsyncClient) -> None:
    first = await create(http)

    second = await http.post("/vector_stores", json={"name": "a"}, headers=KEYED)

    assert (second.content, is_replayed(second)) == (first.content, True)


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "naïve".encode("latin-1"), "ключ".encode(), "a\tb"])
async def test_a_key_is_short_and_printable(http: httpx.AsyncClient, key: Any) -> None:
    answer = await http.post(STORES, json={}, headers={"Idempotency-Key": key})

    assert code(answer) == (400, "invalid_idempotency_key")
    assert await names(http) == []


async def test_a_request_has_one_key(http: httpx.AsyncClient) -> None:
    answer = await http.post(STORES, json={}, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")])

    assert code(answer) == (400, "invalid_idempotency_key")


@pytest.mark.parametrize("key", ["x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "a b\\c'd;%s"])
async def test_any_printable_key_serves(http: httpx.AsyncClient, key: str) -> None:
    answers = [await http.post(STORES, json={}, headers={"idempotency-key": key}) for _ in range(2)]

    assert [is_replayed(answer) for answer in answers] == [False, True]


async def test_without_a_key_everything_is_carried_out(http: httpx.AsyncClient, database: str) -> None:
    answers = [await http.post(STORES, json={"name": "a"}) for _ in range(2)]

    assert [is_replayed(answer) for answer in answers] == [False, False]
    assert await names(http) == ["a", "a"]
    assert await query(database, "SELECT FROM idempotency_keys") == []


async def test_only_a_post_heeds_the_key(http: httpx.AsyncClient, store: str, database: str) -> None:
    methods = ["GET", "GET", "DELETE", "DELETE"]

    answers = [await http.request(method, f"{STORES}/{store}", headers=KEYED) for method in methods]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 404]
    assert await query(database, "SELECT FROM idempotency_keys") == []


async def test_whoever_needs_no_key_claims_none(http: httpx.AsyncClient, database: str) -> None:
    await http.post("/health", headers=KEYED | {"Authorization": ""})

    assert await query(database, "SELECT FROM idempotency_keys") == []


async def test_a_search_is_answered_again_without_embedding(
    openai: AsyncOpenAI, http: httpx.AsyncClient, store: str, embedder: FakeEmbedder
) -> None:
    await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"})
    embedder.reset()

    found = [(await openai.vector_stores.search(store, query="new", extra_headers=KEYED)).data for _ in range(2)]

    assert found[0] == found[1] and len(found[0]) == 1
    assert len(embedder.calls) <= 1


async def test_a_final_refusal_is_kept(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    refusals = [await put(http, "vs_none") for _ in range(2)]

    assert [answer.status_code for answer in refusals] == [404, 404]
    assert [is_replayed(answer) for answer in refusals] == [False, True]


async def test_a_failure_is_carried_out_again(http: httpx.AsyncClient, store: str, embedder: FakeEmbedder) -> None:
    embedder.stop()
    failed = await put(http, store)
    embedder.start()

    answer = await put(http, store)

    assert (failed.status_code, answer.status_code, is_replayed(answer)) == (502, 200, False)
    assert await count_chunks(http, store) == 1


async def test_a_conflict_is_carried_out_again(http: httpx.AsyncClient, store: str) -> None:
    chunks = f"{STORES}/{store}/embeddings"
    await http.post(chunks, json={"id": "one", "content": "other"})
    conflict = await put(http, store, id="one")
    await http.delete(f"{chunks}/one")

    answer = await put(http, store, id="one")

    assert (conflict.status_code, conflict.headers["x-should-retry"]) == (409, "false")
    assert (answer.status_code, is_replayed(answer)) == (200, False)


async def test_a_wrong_api_key_claims_nothing(http: httpx.AsyncClient) -> None:
    refused = await create(http, Authorization="Bearer wrong")

    answer = await create(http)

    assert (refused.status_code, answer.status_code, is_replayed(answer)) == (401, 200, False)


async def test_what_nobody_foresaw_is_carried_out_again(http: httpx.AsyncClient, database: str) -> None:
    await query(database, "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
    await query(database, "CREATE TRIGGER t BEFORE INSERT ON vector_stores FOR EACH ROW EXECUTE FUNCTION fail()")
    failed = await create(http)
    await query(database, "DROP TRIGGER t ON vector_stores")

    assert (failed.status_code, (await create(http)).status_code) == (500, 200)
    assert await names(http) == ["a"]


async def test_without_its_database_a_request_is_not_carried_out(serve: Serve, settings: dict[str, Any]) -> None:
    away = {"database_url": "postgresql://127.0.0.1:1/none", "database_timeout_seconds": 0.2}

    async with serve(**settings | away) as client:
        answer = await create(raw(client))

    assert code(answer) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "1"


@asynccontextmanager
async def without_keys(database: str) -> AsyncGenerator[None]:
    """The table of keys out of reach, as in a database that a request's second transaction does not get to."""
    await query(database, "ALTER TABLE idempotency_keys RENAME TO away")
    yield
    await query(database, "ALTER TABLE away RENAME TO idempotency_keys")


async def test_a_search_whose_answer_cannot_be_kept_is_answered_all_the_same(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str
) -> None:
    await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"})
    embedder.reset()
    embedder.delay_seconds = 0.5
    first = asyncio.create_task(search(http, store))
    await until_embedding(embedder)
    async with without_keys(database):
        answer = await first

    assert answer.status_code == 200
    assert code(await search(http, store)) == (409, "idempotency_key_in_use")


async def search(http: httpx.AsyncClient, store: str) -> httpx.Response:
    return await http.post(f"{STORES}/{store}/search", json={"query": "new"}, headers=KEYED)


async def test_a_write_whose_answer_cannot_be_kept_is_undone(
    http: httpx.AsyncClient, store: str, embedder: FakeEmbedder, database: str
) -> None:
    embedder.delay_seconds = 0.5
    first = asyncio.create_task(put(http, store))
    await until_embedding(embedder)
    async with without_keys(database):
        answer = await first

    assert code(answer) == (503, "database_not_migrated")
    assert await count_chunks(http, store) == 0


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


async def test_a_key_belongs_to_its_caller(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"server_api_key": None, "quiver_development": True}) as client:
        answers = [await create(raw(client), Authorization=f"Bearer {name}") for name in ("alice", "bob", "alice")]

    assert [is_replayed(answer) for answer in answers] == [False, False, True]
    assert answers[0].json()["id"] == answers[2].json()["id"] != answers[1].json()["id"]


async def test_an_answer_outlives_the_lease(http: httpx.AsyncClient, database: str) -> None:
    first = await create(http)
    await let_the_lease_run_out(database)

    assert (await create(http)).content == first.content
    assert await names(http) == ["a"]


async def test_after_a_day_a_key_is_new(http: httpx.AsyncClient, database: str) -> None:
    await create(http)
    await let_a_day_pass(database)

    answers = [await create(http, "b") for _ in range(2)]

    assert [is_replayed(answer) for answer in answers] == [False, True]
    assert await names(http) == ["b", "a"]


async def test_the_worker_purges_keys_after_a_day(http: httpx.AsyncClient, database: str, resources: Resources) -> None:
    await create(http)
    await let_a_day_pass(database)
    await http.post(STORES, json={}, headers={"Idempotency-Key": "younger"})

    async with create_queue(resources).open_async() as queue:
        await queue.configure_task("purge_idempotency_keys").defer_async(timestamp=0)
        await queue.run_worker_async(wait=False, install_signal_handlers=False)

    assert await query(database, "SELECT key FROM idempotency_keys") == [("younger",)]


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


def form(boundary: str, content: bytes) -> bytes:
    start = f"--{boundary}\r\nContent-Disposition: form-data; "
    purpose = f'{start}name="purpose"\r\n\r\nassistants\r\n'
    file = f'{start}name="file"; filename="a.txt"\r\n\r\n'
    return (purpose + file).encode() + content + f"\r\n--{boundary}--\r\n".encode()


async def send_form(http: httpx.AsyncClient, content: bytes, *, boundary: str, piece_bytes: int) -> httpx.Response:
    """Upload a file in pieces of some size."""
    body = form(boundary, content)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), piece_bytes):
            yield body[start : start + piece_bytes]

    kind = f"multipart/form-data; boundary={boundary}"
    return await http.post(FILES, content=pieces(), headers=KEYED | {"Content-Type": kind})


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
@pytest.mark.parametrize("boundary", ["----form-3-----", "7MA4YWxkTrZu0gW"])
async def test_an_upload_is_the_same_in_other_pieces_and_with_another_boundary(
    http: httpx.AsyncClient, boundary: str, piece_bytes: int
) -> None:
    content = b"--7MA4YWxkTrZu0g--\r\n----form-3---\r\n" * 3
    first = await send_form(http, content, boundary="----form-3-----4-----form", piece_bytes=50)

    second = await send_form(http, content, boundary=boundary, piece_bytes=piece_bytes)

    assert first.status_code == 200
    assert (second.content, is_replayed(second)) == (first.content, True)
    assert len((await http.get(FILES)).json()["data"]) == 1


@pytest.mark.parametrize("content", [b"hellO", b"hell", b"hello" * 100_000])
async def test_another_file_with_a_used_key_is_refused(http: httpx.AsyncClient, content: bytes) -> None:
    await send_form(http, b"hello", boundary="one", piece_bytes=1000)

    answer = await send_form(http, content, boundary="two", piece_bytes=1000)

    assert code(answer) == (400, "idempotency_key_reused")
    assert len((await http.get(FILES)).json()["data"]) == 1


async def test_an_upload_that_broke_off_can_be_sent_again(server: Server, settings: dict[str, Any]) -> None:
    body = form("one", b"hello" * 1000)
    head = (
        f"POST {FILES} HTTP/1.1\r\nHost: quiver\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: order-66\r\n"
        f"Content-Type: multipart/form-data; boundary=one\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode() + body[:2000])
    await until_claimed(settings["database_url"])
    writer.close()

    async with httpx.AsyncClient(base_url=server.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        answer = await until_not_under_way(http, b"hello" * 1000)

    assert (answer.status_code, answer.json()["bytes"]) == (200, 5000)


async def until_claimed(database: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await query(database, "SELECT FROM idempotency_keys"):  # noqa: ASYNC110  # nobody would tell
            await asyncio.sleep(0.01)


async def until_not_under_way(http: httpx.AsyncClient, content: bytes) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        answer = await send_form(http, content, boundary="two", piece_bytes=1000)
        while answer.status_code == 409:
            await asyncio.sleep(0.01)
            answer = await send_form(http, content, boundary="two", piece_bytes=1000)
    return answer


async def test_a_request_without_a_body_is_answered_again(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    upload = await openai.uploads.create(filename="a", purpose="vision", bytes=1, mime_type="image/png")

    answers = [await http.post(f"/v1/uploads/{upload.id}/cancel", headers=KEYED) for _ in range(2)]

    assert [answer.json()["status"] for answer in answers] == ["cancelled", "cancelled"]
    assert is_replayed(answers[1])


async def test_an_answer_too_large_to_keep_is_not_made_twice(http: httpx.AsyncClient, store: str) -> None:
    content = "x" * (idempotency.MAX_KEPT_BYTES // 2)
    body = {"embeddings": [{"content": content, "embedding": [1.0, 2.0]}] * 2}
    path = f"{STORES}/{store}/embeddings/batch"
    small = (await http.post(STORES, json={"embedding_dimension": 2})).json()["id"]

    first, second = [await http.post(path.replace(store, small), json=body, headers=KEYED) for _ in range(2)]

    assert first.status_code == 200
    assert code(second) == (409, "idempotency_answer_not_kept")
    assert second.headers["x-should-retry"] == "false"
    assert await count_chunks(http, small) == 2
