"""How much longer `quiver migrate` takes than PostgreSQL's own COPY of the same columns, and how much memory.

    make bench-migrate            a million rows of 384 dimensions
    make bench-migrate ROWS=20000
    make bench-migrate ARGS=--together    builds the two indexes at the same time, which takes half as long

Two PostgreSQL servers. First psql pipes `COPY ... TO STDOUT` of the source, in binary, into `COPY ... FROM STDIN`
of a table with Quiver's columns and indexes; then the real command fills Quiver's own, which has the same. Then an HNSW
index is built on either, there by CREATE INDEX, here by what the worker does behind the writes: the ratio is that of
the sums. The two tables are compared in the end. `--kills` kills the command (-9) so many times at random before it may
finish, and measures nothing.
"""

import argparse
import asyncio
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from api.services import vector_indexes
from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres, find_binaries
from bench.stack import opened_at

ROWS = 1_000_000
DIMENSION = 384
ROOT = Path(__file__).parents[1]
MAX_RATIO = 1.5
MAX_MEGABYTES = 300

SOURCE = """
    CREATE EXTENSION vector;
    CREATE TABLE documents (id text PRIMARY KEY, content text, embedding vector({dimension}), metadata jsonb);
    ALTER TABLE documents ALTER embedding SET STORAGE PLAIN;
"""

# Vectors that differ, made from one of random numbers by turning it: random numbers for each would take minutes.
FILL = """
    INSERT INTO documents
    SELECT 'row-' || lpad(i::text, 9, '0'), repeat(md5(i::text) || ' ', 15),
           l2_normalize((numbers[1 + mod(i, {dimension}):] || numbers[:mod(i, {dimension})])::vector({dimension})
               + (array_fill(0::real, ARRAY[{dimension} - 1]) || ARRAY[i::real / 100000])::vector({dimension})),
           jsonb_build_object('n', i, 'group', mod(i, 100))
    FROM generate_series(%(first)s::int, %(last)s::int) AS i,
         (SELECT array_agg((random() - 0.5)::real) AS numbers FROM generate_series(1, {dimension})) AS base
"""

COPY_OUT = (
    "COPY (SELECT 'vs_baseline'::text, id, content, embedding::halfvec, metadata, now() FROM documents) "
    "TO STDOUT (FORMAT BINARY)"
)
COPY_IN = "COPY baseline (vector_store_id, id, content, embedding, metadata, created_at) FROM STDIN (FORMAT BINARY)"

BUILD_INDEX = (
    "CREATE INDEX ON baseline USING hnsw ((embedding::halfvec({dimension})) halfvec_cosine_ops) "
    "WITH (m = 16, ef_construction = 64)"
)
INDEX_MEGABYTES = 2048  # `maintenance_work_mem` of either build: a million rows' graph

COUNT = "SELECT count(*) FROM embeddings"

# Half precision may round the last bit another way: each vector is divided by its length once more.
COMPARE = """
    SELECT count(*) AS rows,
           count(*) FILTER (WHERE (b.content, b.metadata) = (e.content, e.metadata)
                              AND b.embedding <-> e.embedding < 0.001) AS equal
    FROM baseline AS b FULL JOIN embeddings AS e USING (id)
"""


def fill(url: str, rows: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(SOURCE).format(dimension=DIMENSION))
        for first in range(1, rows + 1, 50_000):
            last = min(first + 49_999, rows)
            statement = sql.SQL(FILL).format(dimension=DIMENSION)
            connection.execute(statement, {"first": first, "last": last})
        connection.execute("VACUUM ANALYZE documents")
        connection.execute("CHECKPOINT")


def pipe(source: str, target: str) -> float:
    """Seconds of `psql -c 'COPY ... TO STDOUT' | psql -c 'COPY ... FROM STDIN'`."""
    psql = find_binaries() / "psql"
    started = time.perf_counter()
    reading = subprocess.Popen([psql, source, "-qc", COPY_OUT], stdout=subprocess.PIPE)
    subprocess.run([psql, target, "-qc", COPY_IN], stdin=reading.stdout, check=True)
    assert reading.wait() == 0
    return time.perf_counter() - started


def command(source: str, target: str, directory: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "api.cli", "migrate", source, "--table", "documents", "--yes"),
        *("--database-url", target, "--rejects", str(directory / "rejects.jsonl"), *options),
    ]


def run(arguments: list[str]) -> tuple[float, float, int]:
    """Seconds, most megabytes, and the exit status."""
    started, most = time.perf_counter(), 0.0
    process = start(arguments)
    seen = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            most = max(most, seen.memory_info().rss / 1e6)
        time.sleep(0.05)
    return time.perf_counter() - started, most, process.returncode


def run_and_kill(arguments: list[str], target: str) -> None:
    """Kill the command somewhere within a batch, behind at least one that it has written."""
    wanted = one(target, COUNT)[0] + random.choice((1, 1000, 5000))  # noqa: S311
    process = start(arguments)
    while process.poll() is None and one(target, COUNT)[0] < wanted:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.5))  # noqa: S311
    process.kill()
    is_killed = process.wait() == -signal.SIGKILL
    print(f"{'killed' if is_killed else 'ended'} with {one(target, COUNT)[0]:,} rows", flush=True)


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=environment)


def one(url: str, statement: str) -> tuple[int, ...]:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(sql.SQL(statement)).fetchone()  # pyright: ignore[reportArgumentType]  # of this file
    assert row is not None
    return row


def build_index(url: str) -> float:
    """Seconds of a plain CREATE INDEX, with one process as Quiver's own build has it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("SET maintenance_work_mem = {}").format(f"{INDEX_MEGABYTES}MB"))
        connection.execute("SET max_parallel_maintenance_workers = 0")
        started = time.perf_counter()
        connection.execute(sql.SQL(BUILD_INDEX).format(dimension=DIMENSION))
    return time.perf_counter() - started


async def care(url: str) -> float:
    """Seconds until the worker's care has nothing left to do."""
    async with opened_at(url, vector_index={"memory_mb": INDEX_MEGABYTES}) as resources:
        started = time.perf_counter()
        await vector_indexes.care(resources)
        return time.perf_counter() - started


async def build_both(url: str) -> tuple[float, float]:
    """Either index on a core of its own, in half the time."""
    return await asyncio.gather(asyncio.to_thread(build_index, url), care(url))


def bench(rows: int, kills: int, *, is_together: bool) -> bool:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with EmbeddedPostgres(directory / "source") as source, EmbeddedPostgres(directory / "target") as target:
            print(f"{rows:,} rows of {DIMENSION} dimensions")
            fill(source.url, rows)
            asyncio.run(migrations.apply(target.url))
            print("the source is filled", flush=True)
            with psycopg.connect(target.url, autocommit=True) as connection:
                connection.execute("CREATE TABLE baseline (LIKE embeddings INCLUDING ALL)")
            straight = pipe(source.url, target.url)
            with psycopg.connect(target.url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            print(f"COPY piped into COPY in {straight:.1f} s", flush=True)
            for _ in range(kills):
                run_and_kill(command(source.url, target.url, directory, "--no-verify"), target.url)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds, megabytes, status = run(command(source.url, target.url, directory, "--no-verify"))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            print(f"quiver migrate in {seconds:.1f} s, {megabytes:.0f} MB", flush=True)
            compared, equal = one(target.url, COMPARE)
            verified, verify_megabytes, verify_status = run(command(source.url, target.url, directory, "--verify-only"))
            built, cared = 0.0, 0.0
            if is_together and not kills:
                built, cared = asyncio.run(build_both(target.url))
            elif not kills:
                built, cared = build_index(target.url), asyncio.run(care(target.url))
    is_whole = compared == equal == rows and status == 0 and verify_status == 0
    print(f"rows that are in both tables, equal {equal!s:>8}  {'all of them' if is_whole else 'WRONG'}")
    print(f"memory of quiver migrate            {megabytes:8.0f} MB at most {MAX_MEGABYTES} MB")
    print(f"its verification, apart             {verified:8.1f} s  {verify_megabytes:.0f} MB")
    is_small = max(megabytes, verify_megabytes) <= MAX_MEGABYTES
    if kills:
        return is_whole and is_small
    ratio = (seconds + cared) / (straight + built)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"its own processor time              {busy:8.1f} s")
    print(f"{'':35} {'rows':>8} {'index':>8} {'both':>8}")
    print(f"COPY | COPY, CREATE INDEX           {straight:8.1f} {built:8.1f} {straight + built:8.1f} s")
    print(f"quiver migrate, the worker's index  {seconds:8.1f} {cared:8.1f} {seconds + cared:8.1f} s")
    of_rows, of_index = seconds / straight, cared / built
    print(f"ratio                               {of_rows:8.2f} {of_index:8.2f} {ratio:8.2f}  at most {MAX_RATIO}")
    return is_whole and is_small and ratio <= MAX_RATIO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--together", action="store_true", help="build both indexes at the same time, a core for each")
    options = parser.parse_args()
    sys.exit(0 if bench(options.rows, options.kills, is_together=options.together) else 1)


if __name__ == "__main__":
    main()
