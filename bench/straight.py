"""A search's own SQL as fast as psycopg sends it: what the API is measured against. A process of its own.

python bench/straight.py FILE --clients N --seconds S   prints one JSON object, as bench/load.py does

FILE is a pickle of what `Asked` has; every client has a connection, and sends statements one after another.
"""

import argparse
import asyncio
import json
import pickle
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import uvloop
from pgvector import HalfVector, Vector
from pgvector.psycopg import register_vector_async


@dataclass(frozen=True)
class Asked:
    """Statements to send each time, with the names and values of their parameters; of `query`, one for each turn."""

    url: str
    statements: list[tuple[bytes, list[tuple[str, Any]]]]
    queries: list[HalfVector | Vector | str]
    is_binary: bool = True


async def client(asked: Asked, turns: "count[int]", until: float, latencies: list[float]) -> None:
    async with await psycopg.AsyncConnection.connect(asked.url, autocommit=True, prepare_threshold=0) as connection:
        await register_vector_async(connection)
        cursor = psycopg.AsyncRawCursor(connection)
        while time.perf_counter() < until:
            query = asked.queries[next(turns) % len(asked.queries)]
            started = time.perf_counter()
            for statement, params in asked.statements:
                values = [query if name == "query" else value for name, value in params]
                await cursor.execute(statement, values, binary=asked.is_binary)
                if cursor.description is not None:
                    await cursor.fetchall()
            latencies.append(time.perf_counter() - started)


async def run(asked: Asked, *, clients: int, seconds: float, skip: int) -> dict[str, Any]:
    latencies: list[float] = []
    turns = count(skip)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(asked, turns, started + seconds, latencies))
    return {"elapsed": time.perf_counter() - started, "latencies": latencies, "statuses": {}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    asked = Asked(**pickle.loads(options.file.read_bytes()))  # noqa: S301  # of the bench that started this
    print(json.dumps(uvloop.run(run(asked, clients=options.clients, seconds=options.seconds, skip=options.skip))))


if __name__ == "__main__":
    main()
