"""Row-level security: PostgreSQL itself keeps tenants apart, should a statement's condition be missing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from psycopg import sql

from api.errors import DatabaseUnavailable
from api.resources import Resources
from api.tables.scope import EVERYTHING, Scope
from tests.conftest import Serve, raw
from tests.postgres_tools import own_server, pooler_of
from tests.working import opened, work_off

ROLE = "quiver_api"
STORES = "/v1/vector_stores"
TABLES: tuple[LiteralString, ...] = ("vector_stores", "files", "uploads")
TEXT = {"file": ("a.txt", b"Bread is baked"), "purpose": (None, b"assistants")}
NEW_UPLOAD = {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}

# As docs/keys.md says.
CREATE_ROLE = """
CREATE ROLE quiver_api LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO quiver_api;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO quiver_api;
"""


@pytest.fixture
async def policed(database: str) -> AsyncIterator[str]:
    """The address of the database for a role that policies bind."""
    await execute(database, CREATE_ROLE)
    yield database.replace("postgres@", f"{ROLE}@")
    await execute(database, "DROP OWNED BY quiver_api; DROP ROLE quiver_api")


async def execute(url: str, statement: LiteralString) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def furnish(http: httpx.AsyncClient, tenant: str) -> str:
    """Give a tenant a store, a file in it and an upload; the store's id."""
    headers = {"x-quiver-tenant": tenant}
    file = (await http.post("/v1/files", files=TEXT, headers=headers)).json()["id"]
    store = (await http.post(STORES, json={"file_ids": [file]}, headers=headers)).json()["id"]
    answer = await http.post("/v1/uploads", json=NEW_UPLOAD, headers=headers)
    assert answer.status_code == 200, answer.text
    return store


async def counts(resources: Resources, scope: Scope) -> list[int]:
    """How many rows of each table statements see that have no condition."""
    async with resources.within(scope).database.connection() as connection:
        rows = [
            await (
                await connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
            ).fetchone()
            for table in TABLES
        ]
    return [row["count"] for row in rows if row is not None]


async def test_a_statement_without_its_condition_sees_only_the_tenants_rows(
    serve: Serve, settings: dict[str, Any], policed: str
) -> None:
    settings |= {"database_url": policed}
    async with serve(**settings) as client, opened(settings) as resources:
        for tenant in ("acme", "rival", "rival"):
            await furnish(raw(client), tenant)
        seen = [await counts(resources, scope) for scope in (Scope("acme"), Scope("rival"), Scope("x"), EVERYTHING)]

    assert seen == [[1] * 3, [2] * 3, [0] * 3, [3] * 3]


async def test_the_owner_of_the_tables_is_not_bound(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings) as client, opened(settings) as resources:
        await furnish(raw(client), "acme")

        assert await counts(resources, Scope("rival")) == [1] * 3


async def test_nothing_can_be_given_to_another_tenant(settings: dict[str, Any], policed: str) -> None:
    async with opened(settings | {"database_url": policed}) as resources:
        database = resources.within(Scope("acme")).database
        with pytest.raises(DatabaseUnavailable, match="does not let"):
            async with database.connection() as connection:
                await connection.execute("INSERT INTO vector_stores (id, tenant) VALUES ('vs_1', 'rival')")


async def test_everything_works_for_such_a_role(serve: Serve, settings: dict[str, Any], policed: str) -> None:
    async with serve(**settings | {"database_url": policed}) as client:
        http = raw(client)
        store = await furnish(http, "acme")
        await work_off(settings)
        key = (await http.post("/v1/keys", json={"name": "a", "role": "write", "tenant": "acme"})).json()["value"]
        headers = {"Authorization": f"Bearer {key}"}
        found = await http.post(f"{STORES}/{store}/search", json={"query": "bread"}, headers=headers)
        added = await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"}, headers=headers)
        deleted = await http.delete(f"{STORES}/{store}", headers=headers)

    assert [result["filename"] for result in found.json()["data"]] == ["a.txt"]
    assert (added.status_code, deleted.status_code) == (200, 200)


async def test_the_worker_sees_everything_as_such_a_role_too(
    serve: Serve, settings: dict[str, Any], policed: str
) -> None:
    async with serve(**settings) as client:
        store = await furnish(raw(client), "acme")
        await work_off(settings | {"database_url": policed})

        assert (await client.vector_stores.retrieve(store)).file_counts.completed == 1


async def test_behind_a_pooler_no_request_has_another_ones_tenant(
    serve: Serve, settings: dict[str, Any], open_directory: Path
) -> None:
    async with own_server(open_directory / "data") as server:
        await execute(server.url, CREATE_ROLE)
        with pooler_of(server, open_directory, user=ROLE) as address:
            pooled = settings | {"database_url": address}
            async with serve(**pooled) as client, opened(pooled) as resources:
                for tenant in ("acme", "rival"):
                    await furnish(raw(client), tenant)
                seen = [await counts(resources, scope) for scope in (Scope("acme"), EVERYTHING, Scope("x"), EVERYTHING)]

    assert seen == [[1] * 3, [2] * 3, [0] * 3, [2] * 3]
