"""Real processes for tests: started on a free port, waited for by their own health endpoint, ended by id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]  # whose code runs, wherever the installed one lies
START_SECONDS = 90
STOP_SECONDS = 20


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(command: Sequence[str], *, env: Mapping[str, str], health: str | None, log: Path) -> Generator[None]:
    """A process that answers at `health`, if it listens; its output goes to `log`, which a failure to start quotes."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HOME": str(log.parent),
                "HF_HUB_OFFLINE": "1",
                **env,
            },
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if health is not None:
                _wait(process, health, log)
            yield
        finally:
            _end(process)


def _wait(process: "subprocess.Popen[bytes]", health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(health, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not come up:\n{log.read_text(errors='replace')[-4000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_listener(port: int) -> None:
    """Wait until somebody listens there, for what has no health endpoint."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        time.sleep(0.05)
