"""What the benches of searches stand on: a PostgreSQL with filled stores, the API as a process, and load on both."""

import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from api.resources import Resources
from api.services import keywords, vector_indexes
from api.settings import Settings
from api.tables import chunk_copy, migrations, vector_stores
from api.tables.chunk_copy import NewChunks
from api.up.embedded_postgres import EmbeddedPostgres
from bench import generated
from bench.straight import Asked
from tests.processes import free_port, running

ROOT = Path(__file__).parents[1]
KEY = "sk-bench-0123456789abcdef"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
INDEX_SECONDS = 1800


@dataclass
class Measured:
    """One way of searching under one load, all rounds together."""

    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # requests a second, by round
    server_seconds: float = 0.0  # of processors, the clients' left out
    failed: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(len(self.latencies) * share))] * 1000


@dataclass(frozen=True)
class Filled:
    """A store of generated chunks."""

    id: str
    count: int


@dataclass(frozen=True)
class Served:
    """The API as a process."""

    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def opened_at(url: str, **more: Any) -> AsyncGenerator[Resources]:
    opened = Resources.of(Settings(_env_file=None, database_url=url, server_api_key=KEY, **more))
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def resources(postgres: EmbeddedPostgres) -> AsyncGenerator[Resources]:
    indexing = {"memory_mb": 1024}  # all of a store's graph
    files = postgres.data_dir.parent / "files"
    async with opened_at(postgres.url, files_dir=files, vector_index=indexing) as opened:
        yield opened


def print_machine(*packages: str) -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")


@contextmanager
def postgres(kept: Path | None) -> Generator[EmbeddedPostgres]:
    """A server; `kept` is where its data lie from one run to the next."""
    with (
        tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory,
        EmbeddedPostgres((kept or Path(directory)) / "data") as server,
    ):
        with psycopg.connect(server.url) as connection:
            print("PostgreSQL {}, shared_buffers {}, huge pages {}".format(*_show(connection)))
        yield server


def _show(connection: psycopg.Connection) -> list[str]:
    names = ("server_version", "shared_buffers", "huge_pages_status")
    return [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]


async def fill(
    postgres: EmbeddedPostgres, count: int, dimension: int, *, has_words: bool = True, has_index: bool = True
) -> Filled:
    """A store of so many generated chunks, by its words and vectors indexed; the one of a run before if it is there."""
    await migrations.apply(postgres.url)
    async with resources(postgres) as opened:
        async with opened.database.connection() as connection:
            known = await vector_stores.find(connection, name := f"vs_bench_{count}_{dimension}")
        if known is None or known["file_counts"]["completed"] < count:
            await _copy(opened, name, count, dimension)
            if has_words:
                await keywords.index(opened, seconds=INDEX_SECONDS)
            async with opened.database.connection(is_long=True) as connection:
                await connection.execute("VACUUM ANALYZE")
            if has_index:
                await vector_indexes.care(opened)
    return Filled(name, count)


async def _copy(opened: Resources, id: str, count: int, dimension: int) -> None:
    table = await opened.database.chunk_table()
    values = {"name": id, "description": None, "metadata": None, "expires_after": None}
    model = {"embedding_model": opened.embeddings.default_model, "embedding_dimension": dimension}
    async with opened.database.connection() as connection:
        if await vector_stores.find(connection, id) is None:
            now = (await (await connection.execute("SELECT now() AS now")).fetchone())["now"]
            await vector_stores.insert(connection, id=id, created_at=now, values=values | model)
    for block in generated.blocks(count, dimension):
        new = NewChunks(
            [f"{block.first + place:07}" for place in range(len(block.texts))], block.texts, block.attributes
        )
        size = sum(len(text) for text in block.texts)
        async with opened.database.transaction(is_long=True) as connection:
            await chunk_copy.insert(connection, table, id, new, block.vectors)
            await vector_stores.count_chunks(
                connection, id, files=len(block.texts), usage_bytes=size, dimension=dimension
            )


@contextmanager
def api(postgres: EmbeddedPostgres, **environment: str) -> Generator[Served]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory:
        known = {process.pid for process in psutil.Process().children()}
        env = {
            "DATABASE_URL": postgres.url,
            "SERVER_API_KEY": KEY,
            "PORT": str(port),
            "FILES_DIR": directory,
            "LOG_LEVEL": "info",
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        command = [sys.executable, "-m", "api.cli", "api"]
        with running(command, env=env, health=f"{url}/health", log=Path(directory) / "api.log"):
            (started,) = {process.pid for process in psutil.Process().children()} - known
            yield Served(url, started)


class Load:
    """Measures several ways in turns, a few seconds each, so that a noisy neighbour disturbs all of them."""

    def __init__(self, *, seconds: float, rounds: int, servers: Sequence[int]) -> None:
        self.seconds = seconds
        self.rounds = rounds
        self.servers = servers  # process ids
        self.measured: dict[str, Measured] = {}
        self._ways: list[tuple[str, list[str], int]] = []
        self._directory = tempfile.TemporaryDirectory(prefix="quiver-bench-")

    def add_http(self, name: str, url: str, path: str, bodies: Sequence[Any], *, clients: int, key: str = KEY) -> None:
        """Bodies in turn; each round begins with others than the one before, so that none comes twice if they last."""
        file = self._file(b"\n".join(body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies))
        host, _, port = url.removeprefix("http://").partition(":")
        asking = [str(ROOT / "bench" / "load.py"), host, port, path, "--bodies", file, "--key", key]
        self._add(name, asking, clients, step=len(bodies) // (self.rounds + 1))

    def add_straight(self, name: str, asked: Asked, *, clients: int) -> None:
        self._add(name, [str(ROOT / "bench" / "straight.py"), self._file(pickle.dumps(asdict(asked)))], clients, step=1)

    def insert(self, url: str, path: str, bodies: Sequence[bytes], *, clients: int) -> Measured:
        """Each body once, without a warming up."""
        self.add_http("insert", url, path, bodies, clients=clients)
        _, command, _ = self._ways.pop()
        measured = Measured()
        self._measure(measured, [*command, "--once"], is_kept=True)
        return measured

    def run(self) -> dict[str, Measured]:
        for turn in range(-1, self.rounds):  # the first one warms up
            for name, command, step in self._ways:
                skipping = [*command, "--skip", str((turn + 1) * step)]
                self._measure(self.measured.setdefault(name, Measured()), skipping, is_kept=turn >= 0)
        self._ways.clear()
        return self.measured

    def _measure(self, measured: Measured, command: list[str], *, is_kept: bool) -> None:
        seconds = self.seconds if is_kept else min(1.0, self.seconds)
        before = processor_seconds(self.servers)
        done = subprocess.run(
            [sys.executable, *command, "--seconds", str(seconds)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode()[-2000:])
        if not is_kept:
            return
        answer = json.loads(done.stdout)
        measured.server_seconds += processor_seconds(self.servers) - before
        measured.latencies += answer["latencies"]
        measured.rates.append(len(answer["latencies"]) / answer["elapsed"])
        measured.failed += sum(times for status, times in answer["statuses"].items() if status[0] != "2")

    def _add(self, name: str, command: list[str], clients: int, *, step: int) -> None:
        self._ways.append((name, [*command, "--clients", str(clients)], step))

    def _file(self, content: bytes) -> str:
        with tempfile.NamedTemporaryFile(dir=self._directory.name, delete=False) as file:
            file.write(content)
        return file.name


def processor_seconds(pids: Sequence[int]) -> float:
    """Of the processes and all that they started; what has ended meanwhile is counted by the system to its parent."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
    return total


def print_table(measured: dict[str, Measured], *, base: str | None = None) -> None:
    print(f"  {'':34}{'requests/s':>11}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'CPU ms':>8}{'ratio':>8}{'failed':>8}")
    for name, one in measured.items():
        if not one.latencies:
            print(f"  {name:34}{'no answer':>11}{one.failed:53}")
            continue
        ratio = f"{one.rate / measured[base].rate:8.2f}" if base else " " * 8
        processor = one.server_seconds / len(one.latencies) * 1000
        print(
            f"  {name:34}{one.rate:11.0f}{one.percentile(0.5):9.2f}{one.percentile(0.95):9.2f}"
            f"{one.percentile(0.99):9.2f}{processor:8.2f}{ratio}{one.failed:8}"
        )


def post(url: str, path: str, body: Any) -> Any:
    answer = httpx.post(f"{url}{path}", json=body, headers=AUTHORIZATION, timeout=60)
    if answer.is_error:
        raise SystemExit(f"{path}: {answer.text}")
    return answer.json()


def wait_for(condition: Any, *, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("What the bench waited for did not come about.")
        time.sleep(0.2)
