"""HTTP load from a process of its own, over plain sockets, so that the client is not what is measured.

python bench/load.py HOST PORT PATH --bodies FILE --clients N --seconds S   prints one JSON object
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import uvloop


async def client(
    address: tuple[str, int], requests: list[bytes], turns: Iterator[int], until: float, done: "Done"
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    try:
        for turn in turns:
            if time.perf_counter() >= until:
                break
            number = turn % len(requests)
            started = time.perf_counter()
            writer.write(requests[number])
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(content_length(head))
            done.add(number, seconds=time.perf_counter() - started, status=int(head[9:12]))
    finally:
        writer.close()


class Done:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.numbers: list[int] = []
        self.statuses: Counter[int] = Counter()

    def add(self, number: int, *, seconds: float, status: int) -> None:
        self.statuses[status] += 1
        if 200 <= status < 300:
            self.seconds.append(seconds)
            self.numbers.append(number)


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("The answer does not say how long it is.")


def request(host: str, port: int, path: str, body: bytes, *, key: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def run(options: argparse.Namespace, bodies: list[bytes]) -> dict[str, object]:
    requests = [request(options.host, options.port, options.path, body, key=options.key) for body in bodies]
    done, turns = Done(), iter(range(len(requests))) if options.once else count(options.skip)
    started = time.perf_counter()
    until = started + options.seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(options.clients):
            group.create_task(client((options.host, options.port), requests, turns, until, done))
    seconds = time.perf_counter() - started
    return {"elapsed": seconds, "latencies": done.seconds, "numbers": done.numbers, "statuses": dict(done.statuses)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--bodies", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--key", default="")
    parser.add_argument("--once", action="store_true", help="each body once")
    options = parser.parse_args()
    print(json.dumps(uvloop.run(run(options, Path(options.bodies).read_bytes().splitlines()))))


if __name__ == "__main__":
    main()
