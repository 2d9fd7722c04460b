"""How fast searches are: the API beside the same SQL through psycopg, by text, by words, and over sizes.

    make bench-search [ARGS="--chunks 10000 --parts straight"]

Everything runs on the same cores, servers and clients alike. Ratios are of one run, in which the ways take turns.
"""

import argparse
import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pgvector import HalfVector

from api.tables import chunks, scope, searches
from api.tables.searches import Search
from api.up.embedded_postgres import EmbeddedPostgres
from api.vectors import Vectors
from bench import generated, stack
from bench.stack import Filled, Load, Served
from bench.straight import Asked

QUESTIONS = 2_000
CHECKED = 200  # searches whose answers are compared with an exact search in memory
TOP = 10


def body(query: Any, **more: Any) -> dict[str, Any]:
    return {"query_embedding": query, "max_num_results": TOP, **more}


def encoded(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def path(store: Filled) -> str:
    return f"/v1/vector_stores/{store.id}/search"


async def same_sql(postgres: EmbeddedPostgres, store: Filled, queries: Vectors) -> Asked:
    """What the API sends for a search by vector."""
    async with stack.resources(postgres) as opened:
        table = await opened.database.chunk_table()
        async with opened.database.connection() as connection:
            known = await searches.find_store(connection, store.id)
        assert known is not None
        asked = Search("vector", None, limit=TOP)
        statement, _ = searches.statement(table, known, asked, scope.EVERYTHING.kind)
    params = {"vector_store_id": store.id, "store": store.id, "dimension": known.dimension, "query": None, "limit": TOP}
    values = [(name, params[name]) for name in statement.names]
    stored = [HalfVector.from_binary(chunks.storable(table, query)) for query in queries]
    return Asked(postgres.url, [(statement.text, values)], stored)


def recall(served: Served, store: Filled, dimension: int, queries: Vectors) -> float:
    """The share of the ten nearest, found by comparing with all, that the API finds."""
    nearest = exact(store.count, dimension, queries[:CHECKED])
    found = [stack.post(served.url, path(store), body(encoded(query)))["data"] for query in queries[:CHECKED]]
    assert all(len(results) == TOP for results in found)
    same = [
        len({int(one["file_id"]) for one in results} & set(row)) for results, row in zip(found, nearest, strict=True)
    ]
    return sum(same) / TOP / len(found)


def exact(count: int, dimension: int, queries: Vectors) -> list[list[int]]:
    """The numbers of the nearest chunks of each query."""
    best: list[list[tuple[float, int]]] = [[] for _ in queries]
    for block in generated.blocks(count, dimension):
        similarity = queries @ block.vectors.T
        for row, scores in enumerate(similarity):
            places = np.argpartition(-scores, min(TOP, len(scores) - 1))[:TOP]
            best[row] += [(-float(scores[place]), block.first + int(place)) for place in places]
            best[row] = sorted(best[row])[:TOP]
    return [[number for _, number in row] for row in best]


def straight(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """The API beside its own SQL."""
    store = asyncio.run(stack.fill(postgres, options.chunks, options.dimension))
    queries = generated.questions(QUESTIONS, options.dimension)
    asked = asyncio.run(same_sql(postgres, store, queries))
    with stack.api(postgres, API_PROCESSES=str(options.processes)) as served:
        print(f"\nBy vector, {store.count} chunks, recall@10 {recall(served, store, options.dimension, queries):.3f}")
        for clients in (1, 16):
            load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
            load.add_straight("SQL straight", asked, clients=clients)
            numbers = [body(query.tolist()) for query in queries]
            load.add_http("API, numbers", served.url, path(store), numbers, clients=clients)
            texts = [body(encoded(query)) for query in queries]
            load.add_http("API, base64", served.url, path(store), texts, clients=clients)
            print(f" {clients} client(s)")
            stack.print_table(load.run(), base="SQL straight")


def sizes(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """The same search in stores of several sizes."""
    queries = generated.questions(QUESTIONS, options.dimension)
    bodies = [body(encoded(query)) for query in queries]
    stores = [asyncio.run(stack.fill(postgres, count, options.dimension)) for count in options.sizes]
    with stack.api(postgres) as served:
        load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
        for store in stores:
            load.add_http(f"{store.count} chunks", served.url, path(store), bodies, clients=1)
        print("\nOver sizes, 1 client")
        stack.print_table(load.run(), base=f"{stores[0].count} chunks")


def words(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """Questions of many words, by their words alone."""
    store = asyncio.run(stack.fill(postgres, options.chunks, options.dimension))
    with stack.api(postgres) as served:
        load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
        vectors = [body(encoded(query)) for query in generated.questions(QUESTIONS, options.dimension)]
        load.add_http("vector", served.url, path(store), vectors, clients=1)
        for length in (3, 8, 12, 20):
            questions = generated.sentences(QUESTIONS, words=length)
            asked = [
                {"query": one, "max_num_results": TOP, "ranking_options": {"search_mode": "keyword"}}
                for one in questions
            ]
            load.add_http(f"keyword, {length} words", served.url, path(store), asked, clients=1)
        print(f"\nBy words, {store.count} chunks, 1 client")
        stack.print_table(load.run(), base="vector")


PARTS: dict[str, Callable[[EmbeddedPostgres, argparse.Namespace], None]] = {
    "straight": straight,
    "sizes": sizes,
    "words": words,
}


def main() -> None:
    from bench import by_text, peers

    parts = {**PARTS, "text": by_text.by_text, "plain": peers.plain, "peers": peers.peers}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load, in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="of the API, where it stands beside its own SQL")
    parser.add_argument("--parts", default=",".join(parts))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument(
        "--peers", type=Path, default=stack.ROOT / ".venv" / "peers", help="chromadb's and faiss's venv"
    )
    parser.add_argument("--keep", type=Path, help="where the database lies from one run to the next")
    options = parser.parse_args()
    stack.print_machine("psycopg", "pgvector", "fastapi", "uvicorn")
    print(f"seed {generated.SEED}, {options.dimension} dimensions")
    with stack.postgres(options.keep) as postgres:
        for part in options.parts.split(","):
            parts[part](postgres, options)


if __name__ == "__main__":
    main()
