"""What others do with the same chunks on the same cores: litellm-pgvector's SQL, chromadb's server, faiss alone."""

import argparse
import asyncio
import json
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg

from api.up.embedded_postgres import EmbeddedPostgres
from api.vectors import Vectors
from bench import generated, stack
from bench.search import CHECKED, QUESTIONS, TOP, body, encoded, exact, path, recall
from bench.stack import Load, Measured
from bench.straight import Asked
from tests.processes import free_port, running

CLIENTS = 16
BATCH = 500
INSERTING = 4  # clients
FILTERS = {"one of 10": ("tenth", "t3"), "one of 100": ("hundredth", "h33")}
HNSW = {"space": "cosine", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16}
CHROMA = "/api/v2/tenants/default_tenant/databases/default_database/collections"

# Its table as its own schema makes it: a `vector` column, and pgvector's storage out of line.
CREATE_PLAIN = """
CREATE TABLE IF NOT EXISTS bench_plain_stores (id text PRIMARY KEY, name text, last_active_at timestamptz);
CREATE TABLE IF NOT EXISTS bench_plain
    (id text PRIMARY KEY, vector_store_id text, content text, embedding vector, metadata jsonb, created_at timestamptz)
"""
FILL_PLAIN = """
INSERT INTO bench_plain
SELECT id, vector_store_id, content, embedding::vector, metadata, created_at FROM embeddings
WHERE vector_store_id = %(store)s ORDER BY id
"""
FIND_PLAIN_STORE = "SELECT id, name, last_active_at FROM bench_plain_stores WHERE id = $1"
SEARCH_PLAIN = """
SELECT id, content, metadata, embedding <=> $2::vector AS distance FROM bench_plain
WHERE vector_store_id = $1 ORDER BY embedding <=> $2::vector LIMIT $3
"""
TOUCH_PLAIN = "UPDATE bench_plain_stores SET last_active_at = now() WHERE id = $1"


def plain(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """Three round trips, vectors as text, all rows compared: its SQL alone, without its HTTP."""
    store = asyncio.run(stack.fill(postgres, options.chunks, options.dimension))
    queries = generated.questions(QUESTIONS, options.dimension)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(CREATE_PLAIN)
        connection.execute("TRUNCATE bench_plain, bench_plain_stores")
        connection.execute("INSERT INTO bench_plain_stores VALUES (%s, '', now())", (store.id,))
        connection.execute(FILL_PLAIN, {"store": store.id})
        connection.execute("VACUUM ANALYZE bench_plain")
    of_store = [("store", store.id)]
    statements = [
        (FIND_PLAIN_STORE.encode(), of_store),
        (SEARCH_PLAIN.encode(), [*of_store, ("query", None), ("limit", TOP)]),
        (TOUCH_PLAIN.encode(), of_store),
    ]
    texts = [json.dumps(query.tolist()) for query in queries]
    with stack.api(postgres) as served:
        load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
        asked = Asked(postgres.url, statements, texts, is_binary=False)
        load.add_straight("litellm-pgvector's SQL", asked, clients=CLIENTS)
        load.add_http("API", served.url, path(store), [body(encoded(query)) for query in queries], clients=CLIENTS)
        print(f"\nAgainst litellm-pgvector's way, {store.count} chunks, {CLIENTS} clients")
        stack.print_table(load.run(), base="litellm-pgvector's SQL")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP TABLE bench_plain, bench_plain_stores")


@contextmanager
def chroma(venv: Path) -> Generator[tuple[str, int]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        known = {process.pid for process in psutil.Process().children()}
        command = [str(venv / "bin" / "chroma"), "run", "--path", f"{directory}/data", "--port", str(port)]
        environment = {"ANONYMIZED_TELEMETRY": "False"}
        health = f"{url}/api/v2/heartbeat"
        with running(command, env=environment, health=health, log=Path(directory) / "chroma.log"):
            (started,) = {process.pid for process in psutil.Process().children()} - known
            yield url, started


def peers(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """Chromadb's server over HTTP, searches without a filter and with one, and insertion; faiss as the ceiling."""
    store = asyncio.run(stack.fill(postgres, options.chunks, options.dimension))
    queries = generated.questions(QUESTIONS, options.dimension)
    nearest = exact(store.count, options.dimension, queries[:CHECKED])
    with stack.api(postgres) as served, chroma(options.peers) as (chroma_url, chroma_pid):
        created = httpx.post(f"{chroma_url}{CHROMA}", json={"name": "bench", "configuration": {"hnsw": HNSW}})
        collection = f"{CHROMA}/{created.raise_for_status().json()['id']}"
        print(f"\nInsertion, {store.count} chunks, batches of {BATCH}, {INSERTING} clients")
        load = Load(seconds=3600, rounds=1, servers=[served.pid, postgres.process.pid])
        empty = stack.post(served.url, "/v1/vector_stores", {"embedding_dimension": options.dimension})["id"]
        inserts = list(own_batches(store.count, options.dimension))
        own = load.insert(served.url, f"/v1/vector_stores/{empty}/embeddings/batch", inserts, clients=INSERTING)
        load = Load(seconds=3600, rounds=1, servers=[chroma_pid])
        inserts = list(chroma_batches(store.count, options.dimension))
        others = load.insert(chroma_url, f"{collection}/add", inserts, clients=INSERTING)
        print_inserts({"chromadb": others, "API": own}, store.count)

        servers = [served.pid, postgres.process.pid, chroma_pid]
        for name, filter in {"no filter": None, **FILTERS}.items():
            load = Load(seconds=options.seconds, rounds=options.rounds, servers=servers)
            bodies = [chroma_body(query, filter) for query in queries]
            load.add_http("chromadb", chroma_url, f"{collection}/query", bodies, clients=CLIENTS)
            bodies = [own_body(query, filter) for query in queries]
            load.add_http("API", served.url, path(store), bodies, clients=CLIENTS)
            print(f"\nSearch, {name}, {CLIENTS} clients")
            stack.print_table(load.run(), base="chromadb")
        found = [ids(chroma_url, f"{collection}/query", chroma_body(query, None)) for query in queries[:CHECKED]]
        own_recall = recall(served, store, options.dimension, queries)
        print(f"\nrecall@10 without a filter: chromadb {shared(found, nearest):.3f}, API {own_recall:.3f}")
    faiss(options, store.count, queries, nearest)


def own_body(query: Any, filter: tuple[str, str] | None) -> dict[str, Any]:
    if filter is None:
        return body(encoded(query))
    return body(encoded(query), filters={"type": "eq", "key": filter[0], "value": filter[1]})


def chroma_body(query: Any, filter: tuple[str, str] | None) -> dict[str, Any]:
    wanted = {
        "query_embeddings": [query.tolist()],
        "n_results": TOP,
        "include": ["documents", "metadatas", "distances"],
    }
    return wanted if filter is None else wanted | {"where": {filter[0]: filter[1]}}


def own_batches(count: int, dimension: int) -> Generator[bytes]:
    for block in generated.blocks(count, dimension):
        rows = [
            {"content": text, "embedding": vector.tolist(), "metadata": attributes}
            for text, vector, attributes in zip(block.texts, block.vectors, block.attributes, strict=True)
        ]
        for start in range(0, len(rows), BATCH):
            yield json.dumps({"embeddings": rows[start : start + BATCH]}).encode()


def chroma_batches(count: int, dimension: int) -> Generator[bytes]:
    for block in generated.blocks(count, dimension):
        for start in range(0, len(block.texts), BATCH):
            part = slice(start, start + BATCH)
            numbers = range(block.first + start, block.first + start + len(block.texts[part]))
            yield json.dumps(
                {
                    "ids": [f"{number:07}" for number in numbers],
                    "embeddings": block.vectors[part].tolist(),
                    "documents": block.texts[part],
                    "metadatas": block.attributes[part],
                }
            ).encode()


def print_inserts(measured: dict[str, Measured], count: int) -> None:
    slowest = measured["chromadb"].rate
    for name, one in measured.items():
        ratio = one.rate / slowest
        failed = f"{one.failed} of {count // BATCH}"
        print(f"  {name:34}{one.rate * BATCH:11.0f} chunks/s   ratio {ratio:.2f}   failed {failed}")


def ids(url: str, path: str, wanted: dict[str, Any]) -> list[int]:
    return [int(id) for id in httpx.post(f"{url}{path}", json=wanted).raise_for_status().json()["ids"][0]]


def shared(found: Sequence[Sequence[int]], nearest: Sequence[Sequence[int]]) -> float:
    return float(np.mean([len(set(one) & set(other)) / TOP for one, other in zip(found, nearest, strict=True)]))


FAISS = """
import sys, time, faiss, numpy as np
vectors, queries, nearest = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("vectors", "queries", "nearest"))
faiss.omp_set_num_threads(1)
index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
index.hnsw.efConstruction = 64
started = time.perf_counter()
index.add(vectors)
print(f"  built in {time.perf_counter() - started:.0f} s on one core")
for ef in (40, 60, 100, 150):
    index.hnsw.efSearch = ef
    started = time.perf_counter()
    found = np.concatenate([index.search(query[None], 10)[1] for query in queries])
    rate = len(queries) / (time.perf_counter() - started)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found[: len(nearest)], nearest)])
    print(f"  efSearch {ef}: {rate:.0f} searches/s, recall@10 {recall:.3f}")
"""


def faiss(options: argparse.Namespace, count: int, queries: Vectors, nearest: Sequence[Sequence[int]]) -> None:
    """The ceiling: in process, vectors alone, one query after another on one core."""
    print("\nThe ceiling: faiss HNSW in process, one core, no texts", flush=True)
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        vectors = [block.vectors for block in generated.blocks(count, options.dimension)]
        for name, rows in {
            "vectors": np.concatenate(vectors),
            "queries": queries,
            "nearest": np.array(nearest),
        }.items():
            np.save(f"{directory}/{name}.npy", rows)
        subprocess.run([str(options.peers / "bin" / "python"), "-c", FAISS, directory], check=True)
