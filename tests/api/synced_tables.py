"""Tables of a user's, syncs of them, and what a store has of their rows."""

from typing import Any, LiteralString

import httpx
import psycopg

from api.services import table_sync_work
from tests.working import opened

ARTICLES = """
    CREATE TABLE articles (
        id bigint PRIMARY KEY,
        title text,
        body text,
        lang text,
        views integer
    );
    INSERT INTO articles VALUES
        (1, 'Returns', 'Items may be sent back within thirty days.', 'en', 10),
        (2, 'Delivery', 'Parcels arrive after two days.', 'en', NULL),
        (3, 'Brot', 'Die Bäckerei öffnet um sechs.', 'de', 30)
"""
DECLARATION = {"table": "articles", "template": "{title}\n\n{body}", "attributes": ["lang", "views"]}


async def execute(database: str, script: LiteralString, *parameters: object) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(script, parameters or None)


async def fetch(database: str, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        return await (await connection.execute(query, parameters or None)).fetchall()


async def declare(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/table_syncs", json=DECLARATION | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def sync_now(settings: dict[str, Any]) -> int:
    """Do everything that is due."""
    async with opened(settings) as resources:
        return await table_sync_work.work(resources, seconds=60)


async def state(http: httpx.AsyncClient, sync: dict[str, Any]) -> dict[str, Any]:
    return (await http.get(f"/v1/table_syncs/{sync['id']}")).json()


async def search(http: httpx.AsyncClient, sync: dict[str, Any], query: str, **body: Any) -> list[dict[str, Any]]:
    body = {"query": query, "ranking_options": {"search_mode": "vector"}, **body}
    answer = await http.post(f"/v1/vector_stores/{sync['vector_store_id']}/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def texts(database: str, sync: dict[str, Any]) -> dict[str, str]:
    """The texts of a sync's rows by key, their chunks put together."""
    rows = await fetch(
        database,
        "SELECT file_id, string_agg(content, ' ' ORDER BY chunk_index) FROM embeddings "
        "WHERE vector_store_id = %s AND filename = %s GROUP BY file_id",
        sync["vector_store_id"],
        f"{sync['table_schema']}.{sync['table']}",
    )
    return dict(rows)
