"""The embedder under load while its models change: `python -m bench.embedder_soak --seconds 60`.

Clients ask for vectors as fast as they are answered; meanwhile models are registered, swapped, disabled and removed.
Every answer must be right, a 429, or a 404 of the model that comes and goes; memory must stay, and in the end nothing
may be left unanswered.
"""

import argparse
import asyncio
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from tests.embedder import tiny_models
from tests.processes import free_port, running

ROOT = Path(__file__).parents[1]
ADMIN_KEY = "sk-soak"
WORDS = tiny_models.WORDS[4:]
SAME = 1e-3  # between two answers for one text: batches of other sizes round otherwise
READINGS = 12  # of the memory, at least
GROWTH_MEGABYTES = 50  # of the memory, that its allocators may cause
PASSING = "passing"  # the model that comes and goes
MODELS = """
models:
  - {{name: steady, model: {model}, engine: onnx, threads: 1, aliases: [also-steady]}}
  - {{name: swapped, model: {model}, engine: torch, threads: 1}}
  - {{name: narrow, model: {model}, engine: torch, threads: 1, max_queued_tokens: 40}}
"""


@dataclass
class Report:
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter[int])
    wrong: list[str] = field(default_factory=list[str])  # answers that were not what was asked for
    changes: int = 0
    megabytes: list[float] = field(default_factory=list[float])  # of the embedder, as time passes
    requests_left: int = 0
    tokens_left: int = 0

    @property
    def growth_megabytes(self) -> float:
        """What memory gained in the second half of the time."""
        half = len(self.megabytes) // 2
        return float(np.median(self.megabytes[-3:]) - np.median(self.megabytes[half : half + 3]))

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return (
            f"{self.seconds:.0f} s: {statuses}; {self.changes} changes of models; {len(self.wrong)} wrong answers "
            f"{self.wrong[:3]}; {self.megabytes[-1]:.0f} MB, {self.growth_megabytes:+.1f} MB in the second half; "
            f"left: {self.requests_left} requests, {self.tokens_left} tokens"
        )


@contextmanager
def embedder(directory: Path) -> Iterator[str]:
    """An embedder with tiny models, as a process; gives its address."""
    model = tiny_models.save_bert(directory / "model")
    config = directory / "models.yaml"
    config.write_text(MODELS.format(model=model))
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "PYTHONPATH": str(ROOT),
        "EMBEDDER_PORT": url.rpartition(":")[2],
        "EMBEDDER_CONFIG": str(config),
        "EMBEDDER_CACHE_DIR": str(directory / "exports"),
        "EMBEDDER_ADMIN_KEY": ADMIN_KEY,
        "EMBEDDER_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "embedder"]
    with running(command, env=environment, health=f"{url}/ready", log=directory / "embedder.log"):
        yield url


class Connection:
    """One kept open; httpx would spend ten times as long on a request as the embedder does."""

    def __init__(self, url: str) -> None:
        self._address = httpx.URL(url)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._address.host, self._address.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, body: object) -> tuple[int, str, bytes]:
        """Status, head and content of the answer."""
        content = orjson.dumps(body)
        self._writer.write(f"POST {path} HTTP/1.1\r\nhost: soak\r\ncontent-length: {len(content)}\r\n\r\n".encode())
        self._writer.write(content)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        assert length is not None, head
        return int(head.split()[1]), head, await self._reader.readexactly(int(length[1]))


class Soak:
    def __init__(self, http: httpx.AsyncClient, report: Report, *, model: str) -> None:
        self._http = http
        self._report = report
        self._model = model
        self._known: dict[str, NDArray[np.float64]] = {}
        self._stop = time.monotonic() + report.seconds

    async def run(self, clients: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._ask(random.Random(number)))  # noqa: S311  # it chooses texts, not secrets
            tasks.create_task(self._change())
            tasks.create_task(self._weigh())
        for model in (await self._http.get("/admin/models")).json()["data"]:
            self._report.requests_left += model["requests_under_way"]
            self._report.tokens_left += model["queued_tokens"]

    async def _ask(self, chance: random.Random) -> None:
        async with Connection(str(self._http.base_url)) as connection:
            while time.monotonic() < self._stop:
                model = chance.choice(("steady", "also-steady", "swapped", "narrow", PASSING))
                count = chance.choice((1, 1, 1, 1, 16))
                texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 4))) for _ in range(count)]
                status, head, content = await connection.post("/v1/embeddings", {"model": model, "input": texts})
                self._report.statuses[status] += 1
                if status == 200:
                    self._check(texts, orjson.loads(content))
                elif not (status == 429 and "retry-after" in head) and (status, model) != (404, PASSING):
                    self._report.wrong.append(content.decode())

    def _check(self, texts: list[str], answer: Any) -> None:
        vectors = [np.array(item["embedding"]) for item in answer["data"]]
        if len(vectors) != len(texts):
            self._report.wrong.append(f"{len(vectors)} vectors for {len(texts)} texts")
        for text, vector in zip(texts, vectors, strict=False):
            if np.abs(self._known.setdefault(text, vector) - vector).max() > SAME:
                self._report.wrong.append(text)

    async def _change(self) -> None:
        """Every kind of change, one after another; each must succeed, and a model must answer from then on."""
        declaration = {"name": PASSING, "model": self._model, "engine": "torch", "threads": 1}
        max_tokens = 15
        while time.monotonic() < self._stop:
            max_tokens = 29 - max_tokens
            for method, path, body in (
                ("POST", "/admin/models", declaration),
                ("POST", "/v1/embeddings", {"model": PASSING, "input": "the cat"}),
                ("PATCH", "/admin/models/swapped", {"max_tokens": max_tokens}),
                ("PATCH", "/admin/models/passing", {"enabled": False}),
                ("PATCH", "/admin/models/passing", {"enabled": True, "aliases": ["passer"]}),
                ("POST", "/v1/embeddings", {"model": "passer", "input": "the cat"}),
                ("DELETE", "/admin/models/passing", None),
            ):
                response = await self._http.request(method, path, json=body)
                self._report.changes += 1
                if not response.is_success:
                    self._report.wrong.append(f"{method} {path}: {response.text}")

    async def _weigh(self) -> None:
        while time.monotonic() < self._stop:
            numbers = (await self._http.get("/metrics")).text
            found = re.search(r"^process_resident_memory_bytes (\S+)$", numbers, re.MULTILINE)
            assert found is not None, "the embedder tells its memory"
            self._report.megabytes.append(float(found[1]) / 2**20)
            await asyncio.sleep(min(1, self._report.seconds / READINGS / 2))


def soak(*, seconds: float, clients: int) -> Report:
    report = Report(seconds)

    async def run(url: str, model: str) -> None:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        limits = httpx.Limits(max_connections=clients + 2)
        async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, headers=headers) as http:
            await Soak(http, report, model=model).run(clients)

    with tempfile.TemporaryDirectory() as name, embedder(Path(name)) as url:
        asyncio.run(run(url, str(Path(name) / "model" / "tiny-bert")))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    report = soak(seconds=options.seconds, clients=options.clients)
    print(report)
    grows = report.growth_megabytes > GROWTH_MEGABYTES
    sys.exit(bool(report.wrong or report.requests_left or report.tokens_left or grows))


if __name__ == "__main__":
    main()
