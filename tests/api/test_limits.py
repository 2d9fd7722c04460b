"""Limits: what is too much is a 429 or a 413 at once, which says when to come again, and changes nothing."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from openai import AsyncOpenAI, RateLimitError

from api import limits
from api.resources import Resources
from api.services.rates import Rates, forget_full
from tests.api.synced_tables import execute, fetch
from tests.conftest import Serve, make_settings, raw
from tests.fake_embedder import FakeEmbedder
from tests.working import opened

STORES = "/v1/vector_stores"
SECONDS = 30


@pytest.fixture
async def limited(serve: Serve, settings: dict[str, Any]) -> AsyncIterator[AsyncOpenAI]:
    """The application with low limits."""
    limits = {
        "max_stores_per_tenant": 2,
        "max_files_per_store": 2,
        "max_batch_texts": 2,
        "max_concurrent_searches": 1,
        "max_request_bytes": 2048,
    }
    async with serve(**settings | limits) as client:
        yield client


@pytest.fixture
async def http(limited: AsyncOpenAI) -> httpx.AsyncClient:
    return raw(limited)


@functools.cache
def without_database() -> Resources:
    return Resources.of(make_settings(database_url="postgresql://127.0.0.1:1/none"))


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["type"], body["code"]


async def test_a_key_may_send_so_many_requests_a_minute(http: httpx.AsyncClient) -> None:
    fields = {"name": "a", "role": "read", "requests_per_minute": 2}
    key = (await http.post("/v1/keys", json=fields)).json()["value"]
    answers = [await http.get(STORES, headers={"Authorization": f"Bearer {key}"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
    assert answers[2].headers["x-ratelimit-reset-requests"].endswith("ms")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert error(answers[2]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert "x-ratelimit-limit-requests" not in (await http.get(STORES)).headers


async def test_the_servers_limit_is_for_keys_that_have_none(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"max_requests_per_minute": 2}) as client:
        http = raw(client)
        fields = {"name": "a", "role": "read", "requests_per_minute": 100}
        own = (await http.post("/v1/keys", json=fields)).json()["value"]
        servers = [(await http.get(STORES)).status_code for _ in range(2)]
        other = await http.get(STORES, headers={"Authorization": f"Bearer {own}"})

    assert servers == [200, 429]
    assert (other.status_code, other.headers["x-ratelimit-remaining-requests"]) == (200, "99")


async def test_probes_are_not_limited(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"max_requests_per_minute": 1}) as client:
        answers = [(await raw(client).get("/health")).status_code for _ in range(3)]

    assert answers == [200, 200, 200]


@examples(deadline=None)
@given(limit=st.integers(1, 1000), pauses=st.lists(st.floats(0, 90), max_size=50))
async def test_without_a_database_no_minute_has_more_than_twice_the_limit_and_who_waits_may_go_on(
    limit: int, pauses: list[float]
) -> None:
    rates, now, allowed = Rates(without_database()), 0.0, list[float]()
    for pause in pauses:
        now += pause
        standing = await rates.take("key", limit, now=now)
        assert 0 <= standing.remaining < limit
        allowed += [now] * standing.is_allowed

    assert all(sum(start <= at < start + 60 for at in allowed) <= 2 * limit for start in allowed)
    wait = (await rates.take("key", limit, now=now)).wait_seconds
    assert (await rates.take("key", limit, now=now + wait + 1e-6)).wait_seconds < 60 / limit


async def test_processes_count_the_requests_of_a_key_together(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings) as one, serve(**settings) as two:
        fields = {"name": "a", "role": "read", "requests_per_minute": 5}
        key = (await raw(one).post("/v1/keys", json=fields)).json()["value"]
        processes = [raw(one), raw(two)] * 4
        answers = [await http.get(STORES, headers={"Authorization": f"Bearer {key}"}) for http in processes]

    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
    assert [int(answer.headers["x-ratelimit-remaining-requests"]) for answer in answers] == [4, 3, 2, 1, 0, 0, 0, 0]


async def test_processes_that_ask_at_once_share_what_there_is(settings: dict[str, Any]) -> None:
    async with opened(settings) as one, opened(settings) as two:
        rates = [Rates(one), Rates(two)]
        taken = await asyncio.gather(*(rates[number % 2].take("key", 300, now=0.0) for number in range(400)))

    assert sum(standing.is_allowed for standing in taken) in range(300, 305)  # and what the bucket gained meanwhile


async def test_a_full_bucket_is_forgotten(settings: dict[str, Any], database: str) -> None:
    async with opened(settings) as resources:
        await Rates(resources).take("key", 300, now=0.0)
        await forget_full(resources)
        [kept] = await fetch(database, "UPDATE request_rates SET filled_at = filled_at - interval '61 s' RETURNING *")
        await forget_full(resources)

    assert kept[0] == "key"
    assert await fetch(database, "SELECT FROM request_rates") == []


async def test_a_key_has_its_requests_back_in_a_minute(settings: dict[str, Any], database: str) -> None:
    async with opened(settings) as resources:
        spent = [await Rates(resources).take("key", 2, now=0.0) for _ in range(3)]
        await fetch(database, "UPDATE request_rates SET filled_at = filled_at - interval '31 s' RETURNING *")
        again = [await Rates(resources).take("key", 2, now=0.0) for _ in range(2)]

    assert [standing.is_allowed for standing in (*spent, *again)] == [True, True, False, True, False]
    assert 0 < again[1].wait_seconds <= 30


async def test_where_rates_cannot_be_written_down_a_process_counts_by_itself(
    serve: Serve, settings: dict[str, Any], http: httpx.AsyncClient, database: str
) -> None:
    store = (await http.post(STORES, json={})).json()["id"]
    async with serve(**settings | {"max_requests_per_minute": 2}) as client:
        await execute(database, "DROP TABLE request_rates")
        answers = [await raw(client).post(f"{STORES}/{store}/search", json={"query": "a"}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_a_tenant_has_so_many_stores(http: httpx.AsyncClient) -> None:
    answers = [await http.post(STORES, json={}) for _ in range(3)]
    other = await http.post(STORES, json={}, headers={"x-quiver-tenant": "acme"})

    assert [answer.status_code for answer in (*answers, other)] == [200, 200, 429, 200]
    assert error(answers[2]) == (429, "rate_limit_error", "quota_exceeded")
    assert answers[2].headers["x-should-retry"] == "false"
    assert "retry-after" in answers[2].headers


async def test_stores_created_at_once_do_not_slip_past_the_limit(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post(STORES, json={}) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 6


async def test_a_store_has_so_many_files(limited: AsyncOpenAI) -> None:
    store = await limited.vector_stores.create()
    files = [(await limited.files.create(file=("a.txt", b"text"), purpose="assistants")).id for _ in range(3)]

    with pytest.raises(RateLimitError, match="has 2 files at most"):
        await limited.vector_stores.file_batches.create(store.id, file_ids=files)
    answers = await asyncio.gather(
        *(raw(limited).post(f"{STORES}/{store.id}/files", json={"file_id": file}) for file in files)
    )
    refused = next(answer for answer in answers if answer.status_code != 200)

    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    assert error(refused) == (429, "rate_limit_error", "quota_exceeded")
    assert "retry-after" in refused.headers
    assert (await limited.vector_stores.retrieve(store.id)).file_counts.total == 2


async def test_a_file_that_a_full_store_has_may_be_sent_again(limited: AsyncOpenAI) -> None:
    files = [(await limited.files.create(file=("a.txt", b"text"), purpose="assistants")).id for _ in range(2)]
    store = await limited.vector_stores.create(file_ids=files)

    assert (await limited.vector_stores.files.create(store.id, file_id=files[0])).id == files[0]


async def test_a_batch_has_so_many_texts(http: httpx.AsyncClient) -> None:
    store = (await http.post(STORES, json={})).json()["id"]
    answer = await http.post(f"{STORES}/{store}/embeddings/batch", json={"embeddings": [{"content": "text"}] * 3})

    assert error(answer) == (413, "invalid_request_error", "request_too_large")
    assert (await http.get(f"{STORES}/{store}/embeddings")).json()["data"] == []


async def test_a_body_has_so_many_bytes(http: httpx.AsyncClient) -> None:
    answer = await http.post(STORES, json={"name": "a" * 3000})

    assert error(answer) == (413, "invalid_request_error", "request_too_large")


async def test_one_search_too_many_is_refused_at_once(http: httpx.AsyncClient, embedder: FakeEmbedder) -> None:
    store = (await http.post(STORES, json={})).json()["id"]
    await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"})
    embedder.delay_seconds = 1
    embedder.calls.clear()
    search = f"{STORES}/{store}/search"
    first = asyncio.create_task(http.post(search, json={"query": "text"}))
    async with asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # another thread writes it
            await asyncio.sleep(0.01)

    second = await http.post(search, json={"query": "text"})

    assert error(second) == (429, "rate_limit_error", "too_many_searches")
    assert second.headers["retry-after"] == "1"
    assert (await first).status_code == 200
    assert (await http.post(search, json={"query": "text"})).status_code == 200


async def stopping(body: bytes) -> AsyncGenerator[bytes]:
    """The beginning of a body, and then nothing more."""
    yield body
    await asyncio.Event().wait()


@pytest.mark.parametrize(("path", "body"), [("/vs_1/search", b'{"query": "te'), ("/vs_1/embeddings", b'{"content"')])
async def test_a_body_that_stops_coming_holds_up_no_other_request(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes
) -> None:
    monkeypatch.setattr(limits, "SILENCE_SECONDS", 0.05)
    headers = {"content-type": "application/json"}
    answer = await http.post(STORES + path, content=stopping(body), headers=headers)
    search = await http.post(f"{STORES}/vs_1/search", json={"query": "text"})

    assert error(answer) == (400, "invalid_request_error", "invalid_value")
    assert search.status_code == 404  # and not 429: nothing else is under way


async def test_who_finds_too_many_waiting_for_the_database_is_refused_at_once(
    serve: Serve, settings: dict[str, Any], database: str
) -> None:
    async with serve(**settings | {"database_pool_size": 1, "database_timeout_seconds": 2 * SECONDS}) as client:
        async with await psycopg.AsyncConnection.connect(database) as other, asyncio.timeout(SECONDS):
            await other.execute("LOCK TABLE vector_stores")
            asked = [asyncio.create_task(raw(client).get(STORES)) for _ in range(110)]
            while sum(task.done() for task in asked) < 9:  # noqa: ASYNC110  # they end by themselves
                await asyncio.sleep(0.01)
        answers = await asyncio.gather(*asked)

    assert Counter(answer.status_code for answer in answers) == {200: 101, 503: 9}
    assert {answer.headers.get("retry-after") for answer in answers} == {None, "1"}
