"""The HNSW indexes of large stores: built behind the writes, and never the reason for a wrong answer."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from openai import AsyncOpenAI

from api.resources import Resources
from api.services import vector_indexes
from tests.working import opened

DIMENSION = 16
LARGE = 300


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"vector_index": {"min_chunks": LARGE}}


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


class Chunks:
    """What was put into a store, and what a search of it must find."""

    def __init__(self, http: httpx.AsyncClient, store: str) -> None:
        self.http, self.store = http, store
        self.random = np.random.default_rng(1)
        self.vectors: dict[str, Any] = {}

    async def put(self, count: int) -> list[str]:
        ids = [f"c{len(self.vectors) + i:05}" for i in range(count)]
        vectors = self.random.normal(size=(count, DIMENSION)).astype(np.float16).astype(np.float32)
        rows = [
            {"id": id, "content": f"text of {id}", "embedding": vector.tolist(), "metadata": {"number": int(id[1:])}}
            for id, vector in zip(ids, vectors, strict=True)
        ]
        answer = await self.http.post(f"/v1/vector_stores/{self.store}/embeddings/batch", json={"embeddings": rows})
        assert answer.status_code == 200, answer.text
        self.vectors |= dict(zip(ids, vectors, strict=True))
        return ids

    async def delete(self, ids: list[str]) -> None:
        for id in ids:
            await self.http.delete(f"/v1/vector_stores/{self.store}/embeddings/{id}")
            del self.vectors[id]

    async def find(self, query: Any, **body: Any) -> list[str]:
        body = {"query_embedding": query.tolist(), **body}
        answer = await self.http.post(f"/v1/vector_stores/{self.store}/search", json=body)
        assert answer.status_code == 200, answer.text
        return [result["file_id"] for result in answer.json()["data"]]

    def nearest(self, query: Any, count: int = 10) -> list[str]:
        def similarity(id: str) -> float:
            return float(self.vectors[id] @ query / np.linalg.norm(self.vectors[id]))

        return sorted(self.vectors, key=similarity, reverse=True)[:count]

    async def recall(self, **body: Any) -> float:
        queries = self.random.normal(size=(20, DIMENSION))
        found = [len(set(self.nearest(query)) & set(await self.find(query, **body))) for query in queries]
        return sum(found) / (10 * len(queries))


@pytest.fixture
async def chunks(openai: AsyncOpenAI, http: httpx.AsyncClient) -> Chunks:
    store = await openai.vector_stores.create(extra_body={"embedding_dimension": DIMENSION})
    return Chunks(http, store.id)


async def indexes(database: str) -> dict[str, bool]:
    """Whether each index of a segment is valid, by its name."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relname LIKE 'quiver_hnsw_%' ORDER BY relname"
        )
        return dict(await rows.fetchall())


async def test_a_store_gets_an_index_when_it_is_large(chunks: Chunks, resources: Resources, database: str) -> None:
    await chunks.put(LARGE - 1)
    before = await vector_indexes.care(resources), await indexes(database)
    await chunks.put(1)

    assert await vector_indexes.care(resources) == 1
    assert before == (0, {})
    assert list((await indexes(database)).values()) == [True]
    assert await chunks.recall() >= 0.95
