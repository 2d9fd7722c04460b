"""Requests with one Idempotency-Key, how they were answered, and what is kept of them."""

import asyncio
from typing import Any, LiteralString

import httpx
import psycopg

from tests.fake_embedder import FakeEmbedder

STORES = "/v1/vector_stores"
KEYED = {"Idempotency-Key": "order-66"}
SECONDS = 30


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


async def until_embedding(embedder: FakeEmbedder) -> None:
    async with asyncio.timeout(SECONDS):
        while not embedder.calls:  # noqa: ASYNC110  # it is another thread's
            await asyncio.sleep(0.01)
