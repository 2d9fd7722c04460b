import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.up import stack
from api.up.embedded_postgres import EmbeddedPostgres
from api.up.processes import Child, Guardian
from tests.fake_embedder import FakeEmbedder

SLOW_TO_STOP = """
import pathlib, signal, sys, time
def finish(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit()
signal.signal(signal.SIGTERM, finish)
print("ready")
signal.pause()
"""
READY = "Ctrl-C stops everything"
START_SECONDS = 180  # a busy machine; idle, everything is there after ten
STOP_SECONDS = 30


class Up:
    """A `quiver up` of its own: data in `home`, ports of its own choice unless `environment` says otherwise."""

    def __init__(self, home: Path, **environment: str) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        ports = {"PORT": "0", "LITELLM_PORT": "0", "EMBEDDER_PORT": "0"}
        self.home = home
        self.lines: list[str] = []
        self._coming: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "up"],
            env={**inherited, **ports, "HF_HUB_OFFLINE": "1", "QUIVER_DATA_DIR": str(home), **environment},
            cwd=home.parent,  # no `.env` of the developer's
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_until_ready(self) -> None:
        self.wait_until_said(READY)

    def wait_until_said(self, words: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.lines or not self.lines[-1].startswith(words):
            line = self._coming.get(timeout=max(0.0, deadline - time.monotonic()))
            assert line is not None, f"quiver up ended:\n{self.output}"
            self.lines.append(line)

    def wait(self) -> int:
        """The exit status, when all of the output has been read."""
        self._process.wait(timeout=START_SECONDS)
        self._reader.join(timeout=STOP_SECONDS)
        while (line := self._coming.get(timeout=1)) is not None:
            self.lines.append(line)
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def shown(self, name: str) -> str:
        found = re.search(rf"^{name}: (\S+)", self.output, re.MULTILINE)
        assert found, f"no {name} in:\n{self.output}"
        return found[1]

    def processes(self) -> dict[int, str]:
        """Every process below this one, by pid, with its command line."""
        parents = {pid: parent for pid in all_pids() if (parent := parent_of(pid)) is not None}
        below = {self._process.pid}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        return {pid: command_of(pid) for pid in below - {self._process.pid}}

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=STOP_SECONDS)
        self._reader.join(timeout=STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._coming.put(line.rstrip())
        self._coming.put(None)


StartUp = Callable[..., Up]


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def parent_of(pid: int) -> int | None:
    """None for a process that has ended, waited for or not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def wait_until_gone(processes: dict[int, str]) -> dict[int, str]:
    """Those of them that still run when the time is up."""
    deadline = time.monotonic() + STOP_SECONDS
    left = processes
    while left and time.monotonic() < deadline:
        left = {pid: command for pid, command in left.items() if parent_of(pid) is not None}
        time.sleep(0.02)
    return left


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def pid_of(processes: dict[int, str], part: str) -> int:
    return next(pid for pid, command in processes.items() if part in command)


@pytest.fixture(scope="module")
def starter() -> Iterator[StartUp]:
    with ExitStack() as started:

        def start(home: Path, **environment: str) -> Up:
            up = Up(home, **environment)
            started.callback(up.end)
            return up

        yield start


@pytest.fixture(scope="module")
def everything(starter: StartUp, tmp_path_factory: pytest.TempPathFactory, model_cache: str) -> Up:
    """One complete start for the tests that change nothing in it."""
    up = starter(tmp_path_factory.mktemp("everything") / "home", EMBEDDER_CACHE_DIR=model_cache)
    up.wait_until_ready()
    return up


@pytest.fixture
def start_light(starter: StartUp, shared_embedder: FakeEmbedder, tmp_path: Path) -> StartUp:
    """PostgreSQL, API and worker only, on one data directory: what takes seconds is the user's own."""

    def start(**environment: str) -> Up:
        return starter(tmp_path / "home", EMBEDDING__BASE_URL=shared_embedder.base_url, **environment)

    return start


def test_up_shows_the_addresses_and_a_key_that_work(everything: Up) -> None:
    headers = {"Authorization": f"Bearer {everything.shown('Key')}"}
    url = f"{everything.shown('Quiver')}/vector_stores"
    store = httpx.post(url, headers=headers, json={"name": "first"}).json()
    added: dict[str, Any] = {"content": "The cat sits on the mat.", "metadata": {}}
    httpx.post(f"{url}/{store['id']}/embeddings", headers=headers, json=added, timeout=30).raise_for_status()
    answer = httpx.post(f"{url}/{store['id']}/search", headers=headers, json={"query": "a feline"}, timeout=30).json()

    assert answer["data"][0]["content"][0]["text"] == "The cat sits on the mat."


def test_the_proxy_reaches_the_api_and_the_embedder(everything: Up) -> None:
    master_key = json.loads((everything.home / "keys.json").read_text())["litellm_master_key"]
    headers = {"Authorization": f"Bearer {master_key}"}
    proxy = everything.shown("LiteLLM proxy")
    store = httpx.post(f"{proxy}/v1/vector_stores", headers=headers, json={"name": "second", "model": "quiver"})
    body = {"model": "all-minilm-l6-v2", "input": "a word"}
    embeddings = httpx.post(f"{proxy}/v1/embeddings", headers=headers, json=body, timeout=30).json()

    assert store.json()["object"] == "vector_store"
    assert len(embeddings["data"][0]["embedding"]) == 384


def test_only_the_owner_may_read_the_keys(everything: Up) -> None:
    modes = [path.stat().st_mode & 0o777 for path in (everything.home / "keys.json", everything.home)]

    # Run by root, the group is that of PostgreSQL's user, who may pass but not read.
    assert (modes[0], modes[1] & 0o767) == (0o600, 0o700)


def test_the_proxy_does_not_know_the_database(everything: Up) -> None:
    proxy = pid_of(everything.processes(), "litellm")
    names = {entry.partition("=")[0] for entry in Path(f"/proc/{proxy}/environ").read_text().split("\0")}

    assert names.isdisjoint({"DATABASE_URL", "SERVER_API_KEY", "EMBEDDING__API_KEY"})


@pytest.mark.parametrize(
    ("setting", "part"), [("PORT", "Quiver"), ("LITELLM_PORT", "LiteLLM proxy"), ("EMBEDDER_PORT", "Embedder")]
)
def test_a_port_in_use_is_one_sentence(
    everything: Up, starter: StartUp, tmp_path: Path, setting: str, part: str
) -> None:
    port = str(httpx.URL(everything.shown(part)).port)
    up = starter(tmp_path / "home", **{setting: port})

    assert (up.wait(), up.lines) == (
        2,
        [f"Error: Port {port} is in use by another program: stop it, or set {setting} to another port."],
    )


def test_a_data_directory_in_use_is_one_sentence(everything: Up, starter: StartUp) -> None:
    up = starter(everything.home)

    assert up.wait() == 2
    assert len(up.lines) == 2  # the first says what was being started
    assert re.match(r"Error: The data directory .* is in use by another Quiver \(process \d+\)", up.lines[-1])


def test_an_interrupt_stops_everything_and_frees_the_data_directory(everything: Up) -> None:
    processes = everything.processes()
    everything.send(signal.SIGINT)

    assert everything.wait() == 0
    assert everything.lines[-2:] == [
        "Stopping worker, API, LiteLLM proxy, embedder, PostgreSQL",
        "Everything is stopped",
    ]
    assert wait_until_gone(processes) == {}
    with EmbeddedPostgres(everything.home / "postgres"):
        pass


def test_a_restart_keeps_the_key(start_light: StartUp) -> None:
    first = start_light()
    first.wait_until_ready()
    first.send(signal.SIGTERM)
    first.wait()
    second = start_light()
    second.wait_until_ready()

    assert second.shown("Key") == first.shown("Key")


def test_what_has_an_address_is_used_and_not_started(start_light: StartUp, empty_database: str) -> None:
    up = start_light(DATABASE_URL=empty_database, SERVER_API_KEY="a-key-of-the-users-own")
    up.wait_until_ready()

    commands = " ".join(up.processes().values())
    assert "api.cli api" in commands
    assert not re.search(r"postgres -D|litellm|-m embedder", commands)
    assert not (up.home / "postgres").exists()
    assert "a-key-of-the-users-own" not in up.output
    key = {"Authorization": "Bearer a-key-of-the-users-own"}
    assert httpx.get(f"{up.shown('Quiver')}/vector_stores", headers=key).json()["data"] == []


def test_a_part_that_dies_is_named_and_the_rest_is_stopped(start_light: StartUp) -> None:
    up = start_light()
    up.wait_until_ready()
    processes = up.processes()
    os.kill(pid_of(processes, "api.cli worker"), signal.SIGKILL)

    assert up.wait() == 1
    assert "Error: The part 'worker' was killed by SIGKILL. Its last lines:" in up.lines
    assert wait_until_gone(processes) == {}


def test_a_database_that_dies_is_named(start_light: StartUp) -> None:
    up = start_light()
    up.wait_until_ready()
    os.kill(pid_of(up.processes(), "postgres -D"), signal.SIGKILL)

    assert up.wait() == 1
    assert "Error: The part 'PostgreSQL' ended" in up.output


def test_nothing_outlives_a_killed_quiver_up(start_light: StartUp) -> None:
    up = start_light()
    up.wait_until_ready()
    processes = up.processes()
    up.send(signal.SIGKILL)

    assert up.wait() == -signal.SIGKILL
    assert wait_until_gone(processes) == {}


def test_a_second_interrupt_kills(start_light: StartUp) -> None:
    up = start_light()
    up.wait_until_ready()
    processes = up.processes()
    os.kill(pid_of(processes, "api.cli worker"), signal.SIGSTOP)  # it will not end by itself
    up.send(signal.SIGINT)
    began = time.monotonic()
    up.wait_until_said("Stopping")
    up.send(signal.SIGINT)

    assert up.wait() == 0
    assert time.monotonic() - began < 8  # less than the grace
    assert wait_until_gone(processes) == {}


async def test_the_embedder_finishes_in_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "GRACE_SECONDS", 0.1)
    guardian = Guardian()
    children: list[Child] = []
    for name in (stack.EMBEDDER, stack.WORKER):
        command = [sys.executable, "-c", SLOW_TO_STOP, str(tmp_path / name)]
        children.append(Child(name, command, dict(os.environ), write=lambda _name, _line: None))
        await children[-1].start(guardian)
    async with asyncio.timeout(STOP_SECONDS):
        while not all(child.last_lines() for child in children):  # noqa: ASYNC110  # lines of a process
            await asyncio.sleep(0.01)
    await stack.stop_all(children, is_orderly=True)
    guardian.close()

    assert names_in(tmp_path) == [stack.EMBEDDER]


def test_a_weak_key_is_refused_before_anything_starts(starter: StartUp, tmp_path: Path) -> None:
    up = starter(tmp_path / "home", SERVER_API_KEY="your-api-key")

    assert up.wait() == 2
    assert up.output.startswith("Error: SERVER_API_KEY is a placeholder")
    assert not (tmp_path / "home").exists()
