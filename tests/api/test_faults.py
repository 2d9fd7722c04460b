"""What others depend on fails: a clear answer meanwhile, and all is well again when it returns."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError
from psycopg import sql
from starlette.responses import JSONResponse, Response

from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from tests.conftest import Serve, raw
from tests.fake_embedder import FakeEmbedder

RECOVERY_SECONDS = 15


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient, embedder: FakeEmbedder) -> str:
    store = await openai.vector_stores.create(name="kept")
    await http.post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": "Bread is baked"})
    embedder.reset()
    return store.id


async def put(http: httpx.AsyncClient, store: str, content: str = "new") -> httpx.Response:
    return await http.post(f"/v1/vector_stores/{store}/embeddings", json={"content": content})


async def test_a_database_that_stops_is_a_503_and_is_found_again(
    tmp_path: Path, serve: Serve, settings: dict[str, Any]
) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    try:
        await migrations.apply(server.url)
        async with serve(**settings | {"database_url": server.url}) as client:
            store = await client.vector_stores.create(name="before")
            server.stop()
            with pytest.raises(InternalServerError, match="database") as stopped:
                await client.vector_stores.retrieve(store.id)
            unready = await raw(client).get("/ready")

            server.start()

            assert stopped.value.status_code == 503
            assert stopped.value.response.headers["retry-after"] == "1"
            assert (unready.status_code, unready.json()["checks"]["embedding_service"]) == (503, "ok")
            assert "database" in unready.json()["checks"]["database"]
            assert (await until_found(client, store.id)).name == "before"
    finally:
        server.stop()


async def test_a_request_under_way_when_the_database_stops_is_a_503(
    tmp_path: Path, serve: Serve, settings: dict[str, Any]
) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    try:
        await migrations.apply(server.url)
        async with serve(**settings | {"database_url": server.url}) as client:
            store = await client.vector_stores.create(name="before")
            async with waiting_insertion(server.url, raw(client), store.id) as insertion:
                server.stop()
                answer = await asyncio.wait_for(insertion, RECOVERY_SECONDS)
            server.start()

            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
            assert (await until_found(client, store.id)).file_counts.total == 0
            assert (await put(raw(client), store.id)).status_code == 200
    finally:
        server.stop()


@asynccontextmanager
async def waiting_insertion(
    url: str, http: httpx.AsyncClient, store: str
) -> AsyncGenerator[asyncio.Task[httpx.Response]]:
    """An insertion that has begun its transaction and waits for a lock that only the server's end takes away."""
    blocker = await psycopg.AsyncConnection.connect(url)
    await blocker.execute("LOCK TABLE embeddings IN EXCLUSIVE MODE")
    insertion = asyncio.create_task(put(http, store))
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(RECOVERY_SECONDS):
        while await (await blocker.execute(waiting)).fetchone() is None:  # noqa: ASYNC110  # nobody would tell us
            await asyncio.sleep(0.02)
    yield insertion
    await blocker.close()


async def until_found(client: AsyncOpenAI, store: str) -> Any:
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            try:
                return await client.vector_stores.retrieve(store)
            except InternalServerError:
                await asyncio.sleep(0.1)


async def test_the_api_starts_before_its_database(tmp_path: Path, serve: Serve, settings: dict[str, Any]) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    url = server.url
    await migrations.apply(url)
    server.stop()
    async with serve(**settings | {"database_url": url, "database_timeout_seconds": 0.2}) as client:
        with pytest.raises(InternalServerError):
            await client.vector_stores.list()
        server.start()
        try:
            async with asyncio.timeout(RECOVERY_SECONDS):
                while (await raw(client).get("/ready")).status_code != 200:  # noqa: ASYNC110  # nobody would tell us
                    await asyncio.sleep(0.1)

            assert (await client.vector_stores.list()).data == []
        finally:
            server.stop()


async def test_a_database_without_our_tables_is_said_to_be_so(
    empty_database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    async with serve(**settings | {"database_url": empty_database}) as client:
        with pytest.raises(InternalServerError, match="quiver db migrate"):
            await client.vector_stores.list()
        ready = (await raw(client).get("/ready")).json()

    assert ready["checks"]["database"] == "ok"
    assert "quiver db migrate" in ready["checks"]["migrations"]


async def test_a_database_that_is_migrated_behind_the_api_works_at_once(
    empty_database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    async with serve(**settings | {"database_url": empty_database}) as client:
        with pytest.raises(InternalServerError, match="quiver db migrate"):
            await client.vector_stores.list()

        await migrations.apply(empty_database)

        store = await client.vector_stores.create()
        assert [(await put(raw(client), store.id)).status_code for _ in range(3)] == [200, 200, 200]


async def test_pgvector_may_live_in_a_schema_of_its_own(
    empty_database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
    await migrations.apply(empty_database)

    async with serve(**settings | {"database_url": empty_database}) as client:
        store = await client.vector_stores.create()
        await put(raw(client), store.id)

        assert len((await client.vector_stores.search(store.id, query="new")).data) == 1


async def test_a_database_that_hangs_is_a_503_in_time(tmp_path: Path, serve: Serve, settings: dict[str, Any]) -> None:
    server = EmbeddedPostgres(tmp_path / "data", durable=False)
    server.start()
    await migrations.apply(server.url)
    async with serve(**settings | {"database_url": server.url, "database_answer_seconds": 1}) as client:
        await client.vector_stores.list()
        try:
            stop_all(server, signal.SIGSTOP)
            async with asyncio.timeout(20):
                ready = await raw(client).get("/ready")
                listed = await raw(client).get("/v1/vector_stores")
        finally:
            stop_all(server, signal.SIGCONT)

        assert (ready.status_code, listed.status_code) == (503, 503)
        async with asyncio.timeout(RECOVERY_SECONDS):
            while (await raw(client).get("/v1/vector_stores")).status_code != 200:  # noqa: ASYNC110  # nobody would tell
                await asyncio.sleep(0.1)
    server.stop()


def stop_all(server: EmbeddedPostgres, number: signal.Signals) -> None:
    """Signal the server and each of its backends."""
    assert server.process is not None
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for pid in (server.process.pid, *map(int, children)):
        os.kill(pid, number)


async def test_what_nobody_foresaw_is_a_500_with_its_request_id(http: httpx.AsyncClient, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
        await connection.execute("CREATE TRIGGER t BEFORE INSERT ON vector_stores FOR EACH ROW EXECUTE FUNCTION fail()")

    answer = await http.post("/v1/vector_stores", json={}, headers={"x-request-id": "trace-7"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server_error")
    assert answer.headers["x-request-id"] == "trace-7"


async def test_a_user_without_the_right_is_a_503_that_says_so(http: httpx.AsyncClient, database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        await connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                                 "AND datname = current_database()")  # fmt: skip
    await http.get("/v1/vector_stores")

    answer = await http.post("/v1/vector_stores", json={})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_refused")


async def test_a_proxy_that_stops_is_a_502_and_is_found_again(
    openai: AsyncOpenAI, http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.stop()
    try:
        search = await http.post(f"/v1/vector_stores/{store}/search", json={"query": "bread"})
        insert = await put(http, store)
        ready = await http.get("/ready")
    finally:
        embedder.start()

    assert (search.status_code, insert.status_code, ready.status_code) == (502, 502, 503)
    assert "cannot be reached" in search.json()["error"]["message"]
    assert ready.json()["checks"]["database"] == "ok"
    assert len((await openai.vector_stores.search(store, query="bread")).data) == 1
    assert (await http.get("/ready")).json() == {
        "status": "ok",
        "checks": {"database": "ok", "migrations": "ok", "embedding_service": "ok"},
    }


GARBAGE: dict[str, Response] = {
    "not JSON": Response("<html>busy</html>"),
    "another object": JSONResponse({"hello": "world"}),
    "no vector": JSONResponse({"data": []}),
    "too many": JSONResponse({"data": [{"index": i, "embedding": [1.0] * 384} for i in range(2)]}),
    "ragged base64": JSONResponse({"data": [{"index": 0, "embedding": "AAAAA"}]}),
    "words": JSONResponse({"data": [{"index": 0, "embedding": ["one", "two"]}]}),
    "NaN": Response('{"data":[{"index":0,"embedding":"AADAfwAAwH8="}]}'),
    "zero": JSONResponse({"data": [{"index": 0, "embedding": [0.0] * 384}]}),
    "no index": JSONResponse({"data": [{"index": None, "embedding": [1.0] * 384}]}),
    "another index": JSONResponse({"data": [{"index": 1, "embedding": [1.0] * 384}]}),
    "no gzip": Response(b"plain", headers={"Content-Encoding": "gzip"}),
    "a number": JSONResponse({"data": [{"index": 0, "embedding": 1.0}]}),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_proxy_that_answers_garbage_is_a_502_and_nothing_is_written(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str, garbage: Response
) -> None:
    embedder.failures = [garbage]

    answer = await put(http, store)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "embedding_garbage")
    assert len((await http.get(f"/v1/vector_stores/{store}/embeddings")).json()["data"]) == 1
    assert (await put(http, store)).status_code == 200


async def test_another_dimension_than_the_stores_is_a_502_and_nothing_is_written(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.dimension = 256

    insert, search = await put(http, store), await http.post(f"/v1/vector_stores/{store}/search", json={"query": "x"})

    assert {insert.status_code, search.status_code} == {502}
    assert "256 dimensions where the vector store has 384" in insert.json()["error"]["message"]
    assert len((await http.get(f"/v1/vector_stores/{store}/embeddings")).json()["data"]) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_a_passing_failure_of_the_proxy_goes_unnoticed(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str, status: int
) -> None:
    embedder.failures = [JSONResponse({"error": {}}, status, headers={"Retry-After": "0"}) for _ in range(2)]

    assert (await put(http, store)).status_code == 200
    assert len(embedder.calls) == 3


async def test_a_lasting_failure_of_the_proxy_is_given_up(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.failures = [JSONResponse({"error": {"message": "upstream secret"}}, 500) for _ in range(3)]

    answer = await put(http, store)

    assert (answer.status_code, len(embedder.calls)) == (502, 3)
    assert "upstream secret" not in answer.text


async def test_a_proxy_that_asks_for_a_long_wait_is_given_up_at_once(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.failures = [JSONResponse({"error": {}}, 429, headers={"Retry-After": "3600"})]

    assert ((await put(http, store)).status_code, len(embedder.calls)) == (502, 1)


@pytest.mark.parametrize("wait", ["nan", "-1", "inf", "soon"])
async def test_an_odd_retry_after_is_no_reason_to_hang(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str, wait: str
) -> None:
    embedder.failures = [JSONResponse({"error": {}}, 429, headers={"Retry-After": wait})]

    assert (await asyncio.wait_for(put(http, store), 10)).status_code == 200


async def test_a_password_in_the_proxys_address_is_nobodys_business(serve: Serve, settings: dict[str, Any]) -> None:
    secret = {"base_url": "http://user:secret@127.0.0.1:1"}
    async with serve(**settings | {"embedding": secret}) as client:
        ready = await raw(client).get("/ready", headers={"Authorization": ""})

    assert "127.0.0.1:1" in ready.text
    assert "secret" not in ready.text


async def test_one_refusal_does_not_change_the_encoding_for_good(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.failures = [JSONResponse({"error": {"message": "too long"}}, 400)]

    answers = [await put(http, store), await put(http, store)]

    assert [answer.status_code for answer in answers] == [400, 200]
    assert [call.get("encoding_format") for call in embedder.calls] == ["base64", "base64"]


async def test_a_key_that_the_proxy_refuses_is_named(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.failures = [JSONResponse({"error": {}}, 401)]

    answer = await put(http, store)

    assert answer.status_code == 502
    assert "EMBEDDING__API_KEY" in answer.json()["error"]["message"]


@pytest.mark.parametrize("way", ["delay_seconds", "drip_seconds"])
async def test_a_slow_proxy_is_a_504(serve: Serve, settings: dict[str, Any], embedder: FakeEmbedder, way: str) -> None:
    setattr(embedder, way, 2.0)
    slow = {"base_url": embedder.base_url, "timeout_seconds": 0.2}
    async with serve(**settings | {"embedding": slow}) as client:
        store = await client.vector_stores.create()
        http = raw(client)

        answer = await put(http, store.id)

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "embedding_timeout")


async def test_a_model_the_proxy_does_not_know_is_the_callers_mistake(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    store = (await http.post("/v1/vector_stores", json={"embedding_model": "no-such-model"})).json()["id"]

    answer = await put(http, store)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_found")
    with pytest.raises(BadRequestError):
        await openai.vector_stores.search(await with_a_vector(http, store), query="x")


async def with_a_vector(http: httpx.AsyncClient, store: str) -> str:
    await http.post(f"/v1/vector_stores/{store}/embeddings", json={"content": "x", "embedding": [1.0, 2.0]})
    return store


async def test_a_service_without_base64_is_asked_for_numbers(
    http: httpx.AsyncClient, embedder: FakeEmbedder, store: str
) -> None:
    embedder.refuses_base64 = True

    answers = [await put(http, store), await put(http, store)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [call.get("encoding_format") for call in embedder.calls] == ["base64", None, None]


async def test_a_model_is_asked_for_a_smaller_dimension_only_when_it_must(
    http: httpx.AsyncClient, embedder: FakeEmbedder
) -> None:
    store = (await http.post("/v1/vector_stores", json={"embedding_dimension": 64})).json()["id"]

    answers = [await put(http, store), await put(http, store)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [call.get("dimensions") for call in embedder.calls] == [None, 64, 64]


async def test_many_texts_go_in_several_calls_and_keep_their_order(
    serve: Serve, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    small = {"base_url": embedder.base_url, "batch_size": 7}
    async with serve(**settings | {"embedding": small}) as client:
        store = await client.vector_stores.create()
        http = raw(client)
        body = {"embeddings": [{"content": f"word{i}"} for i in range(40)]}
        await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json=body)

        found = [(await client.vector_stores.search(store.id, query=f"word{i}")).data[0] for i in (0, 6, 7, 39)]

    assert [result.content[0].text for result in found] == ["word0", "word6", "word7", "word39"]
    assert max(len(call["input"]) for call in embedder.calls) == 7
