"""What may be declared: which tables, keys, columns and templates; and what a declaration costs its table."""

import asyncio
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI
from psycopg.conninfo import make_conninfo

from api.resources import Resources
from api.services import table_sync_work
from tests.api.synced_tables import ARTICLES, DECLARATION, declare, execute, fetch, search, state, sync_now, texts
from tests.conftest import Serve, raw
from tests.postgres_tools import own_server
from tests.working import opened


@pytest.fixture
async def articles(database: str) -> str:
    await execute(database, ARTICLES)
    return database


SLOWLY_VACUUMED = """
    CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, lang text, views integer) WITH (
        autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_insert_threshold = -1,
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
    INSERT INTO articles SELECT n, repeat('title ', 50) FROM generate_series(1, 20000) AS n;
    DELETE FROM articles WHERE id % 2 = 0
"""
AUTOVACUUMS = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = 'articles'::regclass AND mode = 'ShareUpdateExclusiveLock' AND backend_type = 'autovacuum worker'
"""

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"table": "nowhere"}, 404, "no table 'nowhere'"),
    ({"table": "articles", "table_schema": "other"}, 404, "schema 'other'"),
    ({"table": "vector_stores"}, 404, "Quiver's own"),
    ({"table": "embeddings"}, 404, "Quiver's own"),
    ({"table": "table_sync_rows"}, 404, "Quiver's own"),
    ({"table": "procrastinate_jobs"}, 404, "Quiver's own"),
    ({"table": "_prisma_migrations"}, 404, "Quiver's own"),
    ({"table": "pg_authid", "table_schema": "pg_catalog"}, 404, "catalogues"),
    ({"table": "sql_features", "table_schema": "information_schema"}, 404, "catalogues"),
    ({"table": "article_view"}, 404, "views"),
    ({"table": "articles; DROP TABLE articles"}, 404, "no table"),
    ({"template": "{nope}"}, 400, "no column 'nope'"),
    ({"template": "nothing"}, 400, "1 to 16 columns"),
    ({"template": "{title"}, 400, "brace"),
    ({"template": "{title!r}"}, 400, "names of columns"),
    ({"template": "{}"}, 400, "no column ''"),
    ({"attributes": ["lang", "nope"]}, 400, "no column 'nope'"),
    ({"key": ["nope"]}, 400, "no column 'nope'"),
    ({"key": ["lang"]}, 400, "tell the rows"),
    ({"table": "keyless"}, 400, "no primary key"),
    ({"table": "by_time", "template": "{body}", "attributes": None}, 400, "'at' of the key is timestamptz"),
    ({"text_columns": ["title"]}, 400, "exactly one of"),
    ({"template": None}, 400, "exactly one of"),
    ({"vector_store_id": "vs_none"}, 404, "No vector store"),
    ({"colour": "red"}, 400, "colour"),
]


@pytest.mark.parametrize(("fields", "status", "message"), REFUSED)
async def test_what_cannot_be_synced_is_refused_and_leaves_nothing(
    articles: str, http: httpx.AsyncClient, fields: dict[str, Any], status: int, message: str
) -> None:
    await execute(articles, "CREATE VIEW article_view AS SELECT * FROM articles; CREATE TABLE keyless (title text)")
    await execute(articles, "CREATE TABLE by_time (at timestamptz PRIMARY KEY, body text)")
    answer = await http.post("/v1/table_syncs", json=DECLARATION | fields)

    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
    assert await fetch(articles, "SELECT count(*) FROM table_syncs") == [(0,)]
    assert await fetch(articles, "SELECT count(*) FROM vector_stores") == [(0,)]


@pytest.mark.parametrize("schema", [None, "public", "{database}.public"])
async def test_a_table_of_another_database_is_refused(
    schema: str | None, empty_database: str, database: str, http: httpx.AsyncClient
) -> None:
    await execute(empty_database, ARTICLES)
    [(name,)] = await fetch(empty_database, "SELECT current_database()")
    fields = {"table_schema": schema and schema.format(database=name)}
    answer = await http.post("/v1/table_syncs", json=DECLARATION | fields)

    assert (answer.status_code, "no table 'articles'" in answer.json()["error"]["message"]) == (404, True)
    assert await fetch(database, "SELECT count(*) FROM vector_stores") == [(0,)]


async def test_a_table_is_in_a_store_once(articles: str, http: httpx.AsyncClient) -> None:
    first = await declare(http)
    again = await http.post("/v1/table_syncs", json=DECLARATION | {"vector_store_id": first["vector_store_id"]})

    assert (again.status_code, again.json()["error"]["param"]) == (409, "table")
    assert (await declare(http))["vector_store_id"] != first["vector_store_id"]


async def test_names_are_taken_as_they_are(database: str, http: httpx.AsyncClient, settings: dict[str, Any]) -> None:
    await execute(
        database,
        'CREATE SCHEMA "Häuser 100%"; CREATE TABLE "Häuser 100%"."Ta""ble %s" ("Ke""y %" text PRIMARY KEY, '
        '"Te xt %(x)s" text, "a\'b %" int); INSERT INTO "Häuser 100%"."Ta""ble %s" VALUES (\'a/b %\', \'words\', 1)',
    )
    sync = await declare(
        http,
        table='Ta"ble %s',
        table_schema="Häuser 100%",
        template=None,
        text_columns=["Te xt %(x)s"],
        attributes=["a'b %"],
    )
    await sync_now(settings)
    await execute(database, 'UPDATE "Häuser 100%"."Ta""ble %s" SET "Te xt %(x)s" = \'changed\'')
    await sync_now(settings)
    found = (await search(http, sync, "changed"))[0]

    assert (found["file_id"], found["filename"]) == ("a/b %", 'Häuser 100%.Ta"ble %s')
    assert (found["attributes"], found["content"][0]["text"]) == ({"a'b %": 1}, "changed")


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        ("k uuid PRIMARY KEY", "('6F9619FF-8B86-D011-B42D-00CF4FC964FF')", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ("k char(5) PRIMARY KEY", "('ab')", "ab"),
        ("k numeric PRIMARY KEY", "(1.50)", "1.50"),
        ("k int NOT NULL UNIQUE", "(-7)", "-7"),
        ("k int, l text, PRIMARY KEY (l, k)", "(7, 'en, \"x\"')", '["en, \\"x\\"", "7"]'),
    ],
)
async def test_keys_may_be_of_several_types(
    database: str,
    http: httpx.AsyncClient,
    settings: dict[str, Any],
    columns: LiteralString,
    rows: LiteralString,
    expected: str,
) -> None:
    await execute(database, f"CREATE TABLE notes ({columns}, body text)")
    await execute(database, f"INSERT INTO notes VALUES {rows}")  # noqa: S608  # of this file
    await execute(database, "UPDATE notes SET body = 'before'")
    sync = await declare(http, table="notes", template="{body}", attributes=[])
    await sync_now(settings)
    await execute(database, "UPDATE notes SET body = 'after'")
    await sync_now(settings)

    assert await texts(database, sync) == {expected: "after"}


async def test_a_long_table_is_scanned_in_pages_and_changes_go_first(
    articles: str, http: httpx.AsyncClient, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_sync_work, "SCANNED_ROWS", 7)
    monkeypatch.setattr(table_sync_work, "BATCH_ROWS", 5)
    await execute(articles, "INSERT INTO articles SELECT n, 'Title ' || n FROM generate_series(10, 59) AS n")
    sync = await declare(http)
    async with opened(settings) as resources:
        await one_round(resources)
        await execute(articles, "UPDATE articles SET title = 'Now' WHERE id = 59")
        await one_round(resources)
    early = await texts(articles, sync)
    await sync_now(settings)

    assert (len(early), early["59"]) == (10, "Now")
    assert len(await texts(articles, sync)) == 53


async def one_round(resources: Resources) -> None:
    await table_sync_work.work(resources, seconds=0.001)


async def test_writes_to_a_partition_are_followed(
    database: str, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    await execute(
        database,
        "CREATE TABLE events (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);"
        "CREATE TABLE events_low PARTITION OF events FOR VALUES FROM (0) TO (100);"
        "CREATE TABLE events_high PARTITION OF events FOR VALUES FROM (100) TO (200);"
        "INSERT INTO events VALUES (1, 'one'), (2, 'two')",
    )
    sync = await declare(http, table="events", template="{body}", attributes=[])
    await sync_now(settings)
    await execute(
        database,
        "INSERT INTO events_low VALUES (3, 'three'); UPDATE events SET id = 101 WHERE id = 1;"
        "DELETE FROM events_low WHERE id = 2",
    )
    await sync_now(settings)

    assert await texts(database, sync) == {"101": "one", "3": "three"}


async def test_a_writer_needs_no_rights_on_quivers_tables(
    articles: str, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    sync = await declare(http)
    await execute(
        articles,
        "CREATE ROLE sync_writer LOGIN; GRANT ALL ON articles TO sync_writer;"
        "ALTER ROLE sync_writer SET search_path = nowhere",
    )
    try:
        await execute(make_conninfo(articles, user="sync_writer"), "UPDATE public.articles SET title = 'By others'")
    finally:
        await execute(articles, "DROP OWNED BY sync_writer; DROP ROLE sync_writer")
    await sync_now(settings)

    assert (await texts(articles, sync))["1"].startswith("By others")


async def test_writers_go_on_when_quivers_tables_are_gone(articles: str, http: httpx.AsyncClient) -> None:
    await declare(http)
    await execute(articles, "DROP TABLE table_sync_changes, table_sync_rows, table_syncs")
    await execute(articles, "INSERT INTO articles VALUES (9); UPDATE articles SET title = 'x'; DELETE FROM articles")

    assert await fetch(articles, "SELECT count(*) FROM articles") == [(0,)]


async def test_a_column_that_is_gone_is_said_and_its_return_is_noticed(
    articles: str, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    sync = await declare(http)
    await sync_now(settings)
    await execute(articles, "ALTER TABLE articles RENAME COLUMN id TO number; UPDATE articles SET title = 'Renamed'")
    await sync_now(settings)
    stopped = await state(http, sync)
    await execute(articles, "ALTER TABLE articles RENAME COLUMN number TO id; UPDATE table_syncs SET retry_at = now()")
    await sync_now(settings)

    assert "is gone" in stopped["last_error"]
    assert (await state(http, sync))["last_error"] is None
    assert (await texts(articles, sync))["1"].startswith("Renamed")


async def test_a_declaration_does_not_make_writers_wait(articles: str, http: httpx.AsyncClient) -> None:
    async with await psycopg.AsyncConnection.connect(articles) as writer:
        await writer.execute("UPDATE articles SET views = 0")
        declaring = asyncio.create_task(declare(http))
        for number in range(10, 20):
            await asyncio.sleep(0.1)
            await writer.execute("INSERT INTO articles VALUES (%s)", [number])
        assert not declaring.done()
        await writer.commit()
        sync = await declaring

    assert sync["table"] == "articles"


async def test_a_table_that_stays_in_use_is_a_conflict(
    articles: str, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.services.table_syncs.LOCK_RETRY_SECONDS", 0)
    async with await psycopg.AsyncConnection.connect(articles) as writer:
        await writer.execute("UPDATE articles SET views = 0")
        answer = await http.post("/v1/table_syncs", json=DECLARATION)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "source_table_in_use")


async def test_an_autovacuum_gives_way_to_a_declaration_and_to_a_drop(
    serve: Serve, settings: dict[str, Any], open_directory: Path
) -> None:
    async with (
        own_server(open_directory / "data") as server,
        serve(**settings | {"database_url": server.url}) as openai,
    ):
        await execute(server.url, "ALTER SYSTEM SET autovacuum_naptime = '1s'")
        await execute(server.url, SLOWLY_VACUUMED)
        await execute(server.url, "SELECT pg_reload_conf()")
        http = raw(openai)
        await vacuuming(server.url)
        sync = await declare(http)
        await vacuuming(server.url)
        dropped = await http.delete(f"/v1/table_syncs/{sync['id']}")

    assert dropped.json()["deleted"] is True


async def vacuuming(database: str) -> None:
    """Wait until an autovacuum has the table."""
    async with asyncio.timeout(60):
        while await fetch(database, AUTOVACUUMS) == [(0,)]:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.1)


async def test_the_store_may_be_dropped_with_the_sync(
    articles: str, http: httpx.AsyncClient, openai: AsyncOpenAI
) -> None:
    sync = await declare(http)
    await http.delete(f"/v1/table_syncs/{sync['id']}", params={"delete_vector_store": True})

    assert (await openai.vector_stores.list()).data == []


async def test_a_store_that_is_deleted_takes_its_sync_with_it(
    articles: str, http: httpx.AsyncClient, openai: AsyncOpenAI, settings: dict[str, Any]
) -> None:
    sync = await declare(http)
    await openai.vector_stores.delete(sync["vector_store_id"])
    await sync_now(settings)
    async with opened(settings) as resources:
        assert await table_sync_work.sweep(resources) == [sync["id"]]

    assert await fetch(articles, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'quiver%'") == [(0,)]
    assert (await http.get(f"/v1/table_syncs/{sync['id']}")).status_code == 404


async def test_two_tables_with_the_same_keys_share_a_store(
    articles: str, http: httpx.AsyncClient, settings: dict[str, Any]
) -> None:
    await execute(
        articles,
        "CREATE TABLE notes AS SELECT id, 'Note' AS body FROM articles; ALTER TABLE notes ADD PRIMARY KEY (id)",
    )
    first = await declare(http)
    second = await declare(
        http, table="notes", template="{body}", attributes=[], vector_store_id=first["vector_store_id"]
    )
    await sync_now(settings)
    await http.delete(f"/v1/table_syncs/{second['id']}")

    assert (len(await texts(articles, first)), len(await texts(articles, second))) == (3, 0)


async def test_syncs_are_listed_in_pages(articles: str, http: httpx.AsyncClient) -> None:
    made = [(await declare(http))["id"] for _ in range(3)]
    first = (await http.get("/v1/table_syncs", params={"limit": 2, "order": "asc"})).json()
    second = (await http.get("/v1/table_syncs", params={"after": first["last_id"], "order": "asc"})).json()

    assert [sync["id"] for sync in first["data"] + second["data"]] == made
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("POST", "/from_pgai"), ("GET", "/ts_1"), ("DELETE", "/ts_1")],
)
async def test_syncs_are_for_admins_over_all_tenants(http: httpx.AsyncClient, method: str, path: str) -> None:
    key = (await http.post("/v1/keys", json={"name": "writer", "role": "write"})).json()["value"]
    body = DECLARATION if (method, path) == ("POST", "") else {}
    address = f"/v1/table_syncs{path}"
    of_writer = await http.request(method, address, json=body, headers={"Authorization": f"Bearer {key}"})
    for_tenant = await http.request(method, address, json=body, headers={"x-quiver-tenant": "acme"})

    assert (of_writer.status_code, for_tenant.status_code) == (403, 403)
