"""Chunks whose nearest are known, the indexes that PostgreSQL has of them, and what it does for a search."""

from typing import Any

import httpx
import numpy as np
import psycopg
from psycopg.rows import dict_row

from api.resources import Resources
from api.schemas.filters import Filter
from api.tables import keyword_search, scope, searches
from api.tables.chunks import storable
from api.tables.filter_samples import Sample
from api.tables.searches import Leg, Search

DIMENSION = 16
LARGE = 300


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


async def indexes(database: str) -> dict[str, bool]:
    """Whether each index of a segment is valid, by its name."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute(
            "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE relname LIKE 'quiver_hnsw_%' ORDER BY relname"
        )
        return dict(await rows.fetchall())


async def filter_indexes(database: str) -> list[str]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        rows = await connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'quiver_filter_%' ORDER BY 1")
        return [name for (name,) in await rows.fetchall()]


async def index_of(chunks: Chunks) -> dict[str, Any]:
    return (await chunks.http.get(f"/v1/vector_stores/{chunks.store}/index")).json()


async def explain(
    resources: Resources,
    chunks: Chunks,
    leg: Leg = "vector",
    *,
    filter: Filter | None = None,
    sample: Sample | None = None,
    ef_search: int = 100,
) -> dict[str, Any]:
    """What PostgreSQL does for a search, and how much."""
    table = await resources.database.chunk_table()
    query = chunks.random.normal(size=DIMENSION).astype(np.float32)
    async with resources.database.connection() as connection:
        known = await searches.find_store(connection, chunks.store)
        assert known is not None
        statement, params = searches.statement(
            table, known, Search(leg, filter, limit=10, ef_search=ef_search, sample=sample), scope.EVERYTHING.kind
        )
        params |= {"vector_store_id": known.id, "store": known.id, "limit": 10, **keyword_search.BOUNDS}
        params |= {"question": "text of c00001", "query": storable(table, query), "dimension": DIMENSION}
        cursor = psycopg.AsyncRawCursor(connection, row_factory=dict_row)
        text = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement.text
        row = await (await cursor.execute(text, statement.values(params))).fetchone()
    assert row is not None
    return row["QUERY PLAN"][0]["Plan"]


def scanned(plan: dict[str, Any]) -> list[str]:
    """The indexes that were looked into."""
    own = [plan["Index Name"]] if "Index Name" in plan and plan["Actual Loops"] else []
    return own + [name for part in plan.get("Plans", []) for name in scanned(part)]
