"""What may be a key, which requests heed it, whose it is and for how long."""

from typing import Any

import httpx
import pytest

from api.resources import Resources
from api.worker import create_queue
from tests.api.idempotency.keyed_requests import KEYED, STORES, code, create, is_replayed, names, query
from tests.conftest import Serve, raw


async def let_a_day_pass(database: str) -> None:
    await query(database, "UPDATE idempotency_keys SET created_at = created_at - interval '24 hours'")


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


async def test_a_wrong_api_key_claims_nothing(http: httpx.AsyncClient) -> None:
    refused = await create(http, Authorization="Bearer wrong")

    answer = await create(http)

    assert (refused.status_code, answer.status_code, is_replayed(answer)) == (401, 200, False)


async def test_a_key_belongs_to_its_caller(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"server_api_key": None, "quiver_development": True}) as client:
        answers = [await create(raw(client), Authorization=f"Bearer {name}") for name in ("alice", "bob", "alice")]

    assert [is_replayed(answer) for answer in answers] == [False, False, True]
    assert answers[0].json()["id"] == answers[2].json()["id"] != answers[1].json()["id"]


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
