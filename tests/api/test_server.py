"""`quiver api` as processes on one port."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import KEY
from tests.processes import free_port

SECONDS = 60


class Api:
    """The command, with two processes that answer."""

    def __init__(self, database: str, directory: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "api.log"
        environment = {"DATABASE_URL": database, "SERVER_API_KEY": KEY, "PORT": str(port), "API_PROCESSES": "2"}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "api"],
                env={"PATH": os.environ["PATH"], "FILES_DIR": str(directory / "files"), **environment},
                stderr=output,
            )

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def api(database: str, tmp_path: Path) -> Iterator[Api]:
    api = Api(database, tmp_path)
    api.wait_until_ready()
    yield api
    api.process.terminate()
    api.process.wait(SECONDS)


def test_two_processes_serve_one_port_and_end_together(api: Api) -> None:
    answers = [httpx.get(f"{api.url}/v1/vector_stores", headers={"Authorization": f"Bearer {KEY}"}) for _ in range(20)]
    children = api.children

    api.process.send_signal(signal.SIGTERM)

    assert {answer.status_code for answer in answers} == {200}
    assert len(children) == 2
    assert api.process.wait(SECONDS) == 0
    assert not any(child.is_running() for child in children)


def test_a_process_with_fewer_connections_gets_the_next_ones(api: Api) -> None:
    slow, quick = api.children
    with ExitStack() as clients:
        slow.suspend()
        connect(api, clients, 4)
        assert established(quick) == 4
        slow.resume()
        connect(api, clients, 4)

        assert established(slow) >= 3  # another one takes over from who is held up for long
        assert established(slow) + established(quick) == 8


def connect(api: Api, clients: ExitStack, count: int) -> None:
    """Connections that are kept, each of a client that asked for something."""
    for _ in range(count):
        assert clients.enter_context(httpx.Client(timeout=SECONDS)).get(f"{api.url}/health").is_success


def established(process: psutil.Process) -> int:
    """Those of TCP; PostgreSQL's are on a socket of Unix."""
    return len([one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED])


def test_when_one_of_the_processes_dies_all_end_with_a_failure(api: Api) -> None:
    victim, other = api.children

    victim.kill()

    assert api.process.wait(SECONDS) == signal.SIGKILL
    assert not other.is_running()


def test_a_wrong_configuration_is_told_by_whoever_starts_them(empty_database: str, tmp_path: Path) -> None:
    environment: dict[str, Any] = {"DATABASE_URL": empty_database, "SERVER_API_KEY": KEY, "PORT": str(free_port())}
    environment |= {"PATH": os.environ["PATH"], "API_PROCESSES": "2", "DB_FIELDS__TABLE": "nothing"}
    environment |= {"FILES_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "api"], env=environment, capture_output=True, timeout=SECONDS, check=False
    )

    assert done.returncode == 2
    assert b"There is no table 'nothing'" in done.stderr
