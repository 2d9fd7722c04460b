"""How fast chunks with given vectors go in over HTTP, beside raw binary COPY of the same rows into a bare table.

    make bench-insert [ARGS="--chunks 20000"]

Four clients at once, each a process: COPY row by row with psycopg, and batches posted to the API with the vectors as
JSON numbers and as base64. The ways take turns, on the same PostgreSQL and the same cores. What went in is compared
with what was sent; at the end it is measured how long a worker that runs meanwhile needs until the last chunk is found
by its words. `--into 500000` inserts into one store that has so many indexed chunks, and leaves the words out.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psycopg
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from bench import generated, stack
from bench.stack import Filled, processor_seconds
from tests.processes import running

CLIENTS = 4
BATCH = 500
CHECKED = 500  # chunks that are read back and compared
FOUND_SECONDS = 300

BARE_TABLE = """
DROP TABLE IF EXISTS bare;
CREATE TABLE bare (
    vector_store_id text, id text, content text, embedding halfvec, metadata jsonb, created_at timestamptz)
"""
COPY = "COPY bare (vector_store_id, id, content, embedding, metadata, created_at) FROM STDIN (FORMAT BINARY)"
COPIED = ("text", "text", "text", "halfvec", "jsonb", "timestamptz")
LAST = "SELECT coalesce(max(seq), 0) FROM embeddings"
SAMPLE = "SELECT content, embedding FROM embeddings WHERE vector_store_id = %s AND seq > %s AND content = ANY(%s)"

Insertion = Callable[[range], None]


@dataclass(frozen=True)
class Chunks:
    texts: list[str]
    vectors: Any  # a row each


def make_chunks(count: int, dimension: int) -> Chunks:
    """The last text of each client has a word of its own."""
    blocks = list(generated.blocks(count, dimension))
    texts = [text for block in blocks for text in block.texts]
    for part in shares(count):
        texts[part[-1]] += f" {marker(part)}"
    return Chunks(texts, np.concatenate([block.vectors for block in blocks]))


def shares(count: int) -> list[range]:
    """What each client inserts."""
    return [range(count * client // CLIENTS, count * (client + 1) // CLIENTS) for client in range(CLIENTS)]


def marker(share: range) -> str:
    return f"lastword{share[-1]}"


def copy_straight(url: str, chunks: Chunks) -> Insertion:
    def insert(share: range) -> None:
        now = datetime.now(UTC)
        with psycopg.connect(url) as connection:
            register_vector(connection)
            with connection.cursor() as cursor, cursor.copy(COPY) as rows:
                rows.set_types(COPIED)
                for number in share:
                    vector = HalfVector(chunks.vectors[number])
                    rows.write_row(("bare", f"{number:07}", chunks.texts[number], vector, None, now))

    return insert


def post_batches(url: str, store: str, bodies: Sequence[bytes]) -> Insertion:
    """`bodies` are those of all batches in their order; they were made before, so that making them costs nothing."""

    def insert(share: range) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port))
        headers = {"Content-Type": "application/json", **stack.AUTHORIZATION}
        for number in range(share.start // BATCH, share.stop // BATCH):
            connection.request("POST", f"/v1/vector_stores/{store}/embeddings/batch", bodies[number], headers)
            answer = connection.getresponse()
            data = orjson.loads(answer.read())
            if answer.status != 200 or len(data["data"]) != BATCH:
                raise SystemExit(f"The API answered {answer.status}: {data}")
        connection.close()

    return insert


def bodies(chunks: Chunks, encode: Callable[[Any], Any]) -> list[bytes]:
    return [
        orjson.dumps(
            {
                "embeddings": [
                    {"content": chunks.texts[number], "embedding": encode(chunks.vectors[number])}
                    for number in range(start, start + BATCH)
                ]
            }
        )
        for start in range(0, len(chunks.texts), BATCH)
    ]


def as_numbers(vector: Any) -> list[float]:
    return vector.tolist()


def as_base64(vector: Any) -> str:
    return b64encode(vector.astype("<f4").tobytes()).decode()


@dataclass(frozen=True)
class Measured:
    """One round of one way."""

    rate: float  # rows a second, by all clients together, from the start of the first to the end of the last
    processor: float  # microseconds a row, of clients and servers


def measure_one(insert: Insertion, count: int, servers: Sequence[int]) -> Measured:
    context = multiprocessing.get_context("fork")  # so that the rows need not be handed over
    barrier = context.Barrier(CLIENTS + 1)

    def client(share: range) -> None:
        barrier.wait()
        insert(share)

    clients = [context.Process(target=client, args=(share,)) for share in shares(count)]
    before = processor_seconds(servers) + seconds_of_ended()
    for process in clients:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    for process in clients:
        process.join()
    seconds = time.perf_counter() - started
    if any(process.exitcode for process in clients):
        raise SystemExit("A client failed.")
    spent = processor_seconds(servers) + seconds_of_ended() - before
    return Measured(count / seconds, spent / count * 1e6)


def seconds_of_ended() -> float:
    """Of processors, of the processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def worker(postgres: EmbeddedPostgres, directory: Path) -> Generator[None]:
    environment = {"DATABASE_URL": postgres.url, "QUIVER_DATA_DIR": str(directory), "PYTHONPATH": str(stack.ROOT)}
    command = [sys.executable, "-m", "api.cli", "worker"]
    with running(command, env=environment, health=None, log=directory / "worker.log"):
        yield


class Client:
    """What is asked of the API beside the load."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/v1", headers=stack.AUTHORIZATION, timeout=60)

    def create_store(self) -> str:
        return self._request("POST", "/vector_stores", {})["id"]

    def delete_store(self, id: str) -> None:
        self._request("DELETE", f"/vector_stores/{id}", None)

    def count(self, store: str) -> int:
        return self._request("GET", f"/vector_stores/{store}", None)["file_counts"]["completed"]

    def finds(self, store: str, body: dict[str, Any], text: str) -> bool:
        page = self._request("POST", f"/vector_stores/{store}/search", body)
        return any(result["content"][0]["text"] == text for result in page["data"])

    def _request(self, method: str, path: str, body: Any) -> Any:
        answer = self._http.request(method, path, json=body)
        if answer.is_error:
            raise SystemExit(f"{path}: {answer.text}")
        return answer.json()


def settle(postgres: EmbeddedPostgres, *statements: str) -> None:
    """Have nothing left to write or to clean up of what came before, which the next way would pay for."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for statement in (*statements, "CHECKPOINT"):
            connection.execute(statement)


def last_chunk(postgres: EmbeddedPostgres) -> int:
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute(LAST).fetchone()
    assert row is not None  # an aggregate's result always is a row
    return row[0]


def check(postgres: EmbeddedPostgres, client: Client, store: str, chunks: Chunks, *, after: int) -> None:
    """A sample of what came after a chunk is in the table as it was sent, and one of it is found by its vector."""
    sample = dict.fromkeys(np.random.default_rng(generated.SEED).integers(0, len(chunks.texts), CHECKED).tolist())
    sent = {chunks.texts[number]: chunks.vectors[number] for number in sample}
    with psycopg.connect(postgres.url) as connection:
        register_vector(connection)
        rows = connection.execute(SAMPLE, (store, after, list(sent))).fetchall()
    assert len(rows) == len(sent)
    for text, vector in rows:
        assert np.allclose(vector.to_numpy(), sent[text], atol=1e-3)
    text, vector = next(iter(sent.items()))
    assert client.finds(store, {"query_embedding": as_base64(vector)}, text)


def seconds_until_found(client: Client, store: str, chunks: Chunks) -> float:
    """Until the last chunk of each client is found by its words."""
    started = time.perf_counter()
    for share in shares(len(chunks.texts)):
        asked = {"query": marker(share), "ranking_options": {"search_mode": "keyword"}}
        while not client.finds(store, asked, chunks.texts[share[-1]]):
            if time.perf_counter() - started > FOUND_SECONDS:
                raise SystemExit("The words are not found.")
            time.sleep(0.25)
    return time.perf_counter() - started


def measure(
    postgres: EmbeddedPostgres, chunks: Chunks, directory: Path, *, into: Filled | None, rounds: int, processes: int
) -> None:
    count = len(chunks.texts)
    ways = {"API, JSON numbers": bodies(chunks, as_numbers), "API, base64": bodies(chunks, as_base64)}
    measured: dict[str, list[Measured]] = {"COPY into a bare table": [], **{way: [] for way in ways}}
    with stack.api(postgres, API_PROCESSES=str(processes)) as served:
        servers = [postgres.process.pid, served.pid]
        client = Client(served.url)
        for _ in range(rounds):
            settle(postgres, BARE_TABLE)
            copied = measure_one(copy_straight(postgres.url, chunks), count, servers)
            measured["COPY into a bare table"].append(copied)
            for way, posted in ways.items():
                store = into.id if into else client.create_store()
                before, last = client.count(store), last_chunk(postgres)
                settle(postgres)
                measured[way].append(measure_one(post_batches(served.url, store, posted), count, servers))
                assert client.count(store) == before + count
                check(postgres, client, store, chunks, after=last)
                if into is None:
                    client.delete_store(store)
                    settle(postgres, "VACUUM")
        print_table(measured)
        if into is None:
            with worker(postgres, directory):
                store = client.create_store()
                measure_one(post_batches(served.url, store, posted), count, servers)
                seconds = seconds_until_found(client, store, chunks)
                print(f"\nFound by its words {seconds:.0f} s after it went in: the last of {count}")


def print_table(measured: dict[str, list[Measured]]) -> None:
    """The best round of each way: what others do on the machine makes a round slower, and never faster."""
    print(f"  {'':28}{'rows/s':>9}{'of COPY':>9}{'CPU us/row':>12}{'of COPY':>9}")
    best = {way: max(rounds, key=lambda one: one.rate) for way, rounds in measured.items()}
    base = best["COPY into a bare table"]
    for way, one in best.items():
        print(f"  {way:28}{one.rate:9.0f}{one.rate / base.rate:9.2f}", end="")
        print(f"{one.processor:12.0f}{base.processor / one.processor:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of the API; as many as cores")
    parser.add_argument("--into", type=int, help="the indexed chunks of the store that is inserted into")
    parser.add_argument("--keep", type=Path, help="where the database lies from one run to the next")
    options = parser.parse_args()
    if options.chunks % (BATCH * CLIENTS):
        parser.error(f"--chunks must be a multiple of {BATCH * CLIENTS}")
    stack.print_machine("psycopg", "pgvector", "fastapi", "orjson")
    print(
        f"{options.chunks} chunks of {options.dimension} dimensions, seed {generated.SEED}, {CLIENTS} clients, "
        f"{options.processes} processes of the API"
    )
    chunks = make_chunks(options.chunks, options.dimension)
    with (
        tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory,
        stack.postgres(options.keep) as postgres,
    ):
        asyncio.run(migrations.apply(postgres.url))
        filling = stack.fill(postgres, options.into, options.dimension, has_words=False) if options.into else None
        into = asyncio.run(filling) if filling else None
        measure(postgres, chunks, Path(directory), into=into, rounds=options.rounds, processes=options.processes)


if __name__ == "__main__":
    main()
