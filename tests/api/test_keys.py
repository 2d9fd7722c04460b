"""Callers' keys: shown once, kept as hashes, refused when they are revoked, expired or not known."""

import asyncio
import time
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from api.services import keys
from tests.conftest import KEY, Serve, raw
from tests.processes import free_port

KEYS = "/v1/keys"
STORES = "/v1/vector_stores"
SECONDS = 30


async def make(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post(KEYS, json={"name": "app", "role": "write", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def status_with(http: httpx.AsyncClient, key: str, method: str = "GET", path: str = STORES) -> int:
    return (await http.request(method, path, headers={"Authorization": f"Bearer {key}"})).status_code


async def wait_for_refusal(http: httpx.AsyncClient, key: str) -> None:
    async with asyncio.timeout(SECONDS):
        while await status_with(http, key) != 401:  # noqa: ASYNC110  # it is refused when its time has come
            await asyncio.sleep(0.05)


async def listed(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    return (await http.get(KEYS)).json()["data"]


async def test_a_key_is_shown_once_and_told_by_its_ending(http: httpx.AsyncClient) -> None:
    made = await make(http, tenant="acme", requests_per_minute=60)

    key = made.pop("value")
    [shown] = await listed(http)
    assert key.startswith("qv_") and len(key) == 46
    assert shown == made
    assert shown["redacted_value"] == f"qv_...{key[-4:]}"
    assert shown["last_used_at"] is None
    assert abs(shown["created_at"] - time.time()) < 30


async def test_nothing_in_the_database_has_the_key(http: httpx.AsyncClient, database: str) -> None:
    answer = await http.post(KEYS, json={"name": "a", "role": "read"}, headers={"Idempotency-Key": "order-66"})

    key = answer.json()["value"]
    with psycopg.connect(database) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        texts = [
            str(connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name))).fetchall())
            for (name,) in tables
        ]
    assert "api_keys" in {name for (name,) in tables}
    assert not [text for text in texts if key in text or key.encode().hex() in text]


async def test_every_request_for_a_key_makes_another(http: httpx.AsyncClient) -> None:
    body, header = {"name": "a", "role": "read"}, {"Idempotency-Key": "order-66"}
    values = {(await http.post(KEYS, json=body, headers=header)).json()["value"] for _ in range(2)}

    assert len(values) == 2


async def test_a_revoked_key_is_refused_soon(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.1)
    made = await make(http)
    before = await status_with(http, made["value"])

    revoked = await http.delete(f"{KEYS}/{made['id']}")

    assert revoked.json() == {"id": made["id"], "object": "api_key.deleted", "deleted": True}
    assert before == 200
    await wait_for_refusal(http, made["value"])
    assert (await http.delete(f"{KEYS}/{made['id']}")).status_code == 404


async def test_a_key_in_use_is_not_looked_up_for_every_request(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 1000.0)
    made = await make(http)
    await status_with(http, made["value"])
    await http.delete(f"{KEYS}/{made['id']}")

    assert await status_with(http, made["value"]) == 200


async def test_an_expired_key_is_refused_even_while_it_is_remembered(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 1000.0)
    made = await make(http, expires_at=int(time.time()) + 2)

    await wait_for_refusal(http, made["value"])
    assert (await listed(http))[0]["expires_at"] <= time.time()


async def test_the_last_use_is_noted(http: httpx.AsyncClient) -> None:
    made = await make(http)
    await status_with(http, made["value"])

    [shown] = await listed(http)
    assert abs(shown["last_used_at"] - time.time()) < 30


@pytest.mark.parametrize("key", ["qv_unknown", "qv_", f"qv_{KEY}"])
async def test_a_key_that_there_is_not_is_refused(http: httpx.AsyncClient, key: str) -> None:
    assert await status_with(http, key) == 401


async def test_a_key_is_not_refused_for_want_of_a_database(serve: Serve, settings: dict[str, Any]) -> None:
    nowhere = {"database_url": f"postgresql://127.0.0.1:{free_port()}/none", "database_timeout_seconds": 0.2}
    async with serve(**settings | nowhere) as client:
        answers = [await status_with(raw(client), key) for key in ("qv_unknown", "wrong")]

    assert answers == [503, 401]


async def test_a_database_that_can_only_be_read_lets_keys_in(
    serve: Serve, settings: dict[str, Any], http: httpx.AsyncClient, database: str
) -> None:
    made = await make(http)
    read_only = f"{database}&options=-c%20default_transaction_read_only%3Don"
    async with serve(**settings | {"database_url": read_only}) as client:
        assert await status_with(raw(client), made["value"]) == 200


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"role": "owner"}, "role", "'admin', 'write' or 'read'"),
        ({"name": ""}, "name", "at least 1 character"),
        ({"tenant": "a b"}, "tenant", "pattern"),
        ({"tenant": ""}, "tenant", "pattern"),
        ({"vector_store_ids": []}, "vector_store_ids", "at least 1 item"),
        ({"role": "admin", "vector_store_ids": ["vs_1"]}, None, "leave vector_store_ids out"),
        ({"expires_at": 1}, "expires_at", "in the future"),
        ({"requests_per_minute": 0}, "requests_per_minute", "greater than or equal to 1"),
        ({"scopes": []}, "scopes", "Unknown parameter"),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str | None, message: str
) -> None:
    answer = await http.post(KEYS, json={"name": "a", "role": "read", **fields})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert message in answer.json()["error"]["message"]
    assert await listed(http) == []


async def test_a_tenants_admin_makes_keys_for_that_tenant_only(http: httpx.AsyncClient) -> None:
    admin = await make(http, role="admin", tenant="acme")
    headers = {"Authorization": f"Bearer {admin['value']}"}
    own = await http.post(KEYS, json={"name": "a", "role": "admin"}, headers=headers)
    foreign = await http.post(KEYS, json={"name": "a", "role": "read", "tenant": "rival"}, headers=headers)

    assert own.json()["tenant"] == "acme"
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (403, "tenant")


async def test_keys_are_listed_in_pages(http: httpx.AsyncClient) -> None:
    made = [(await make(http, name=name))["id"] for name in "abc"]
    first = (await http.get(KEYS, params={"limit": 2})).json()
    second = (await http.get(KEYS, params={"limit": 2, "after": first["last_id"]})).json()

    assert [key["id"] for key in first["data"] + second["data"]] == made[::-1]
    assert (first["has_more"], second["has_more"]) == (True, False)


async def test_development_without_a_server_key_still_knows_keys(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"server_api_key": None, "quiver_development": True}) as client:
        http = raw(client)
        made = await make(http, role="read")

        assert await status_with(http, made["value"], "POST") == 403
        assert await status_with(http, "qv_unknown") == 401


async def test_the_log_says_whose_request_it_was_and_never_the_key(http: httpx.AsyncClient) -> None:
    made = await make(http, tenant="acme")
    with capture_logs() as logged:
        await status_with(http, made["value"])
        await status_with(http, f"{made['value']}x")

    first, second = [entry for entry in logged if entry["event"] == "request"]
    assert (first["tenant"], first["api_key_id"], second["status"]) == ("acme", made["id"], 401)
    assert made["value"] not in str(logged)
