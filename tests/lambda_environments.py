"""AWS Lambda on this machine: an emulator around AWS's own runtime client, in front of one of our handlers.

The emulator is a program of its own that `QUIVER_LAMBDA_LOCAL` names; the options that are used here are its interface.
"""

import os
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.processes import free_port, running, wait_for_listener

ROOT = Path(__file__).parents[1]
EMULATOR = os.environ.get("QUIVER_LAMBDA_LOCAL", "")
needs_emulator = pytest.mark.skipif(
    not Path(EMULATOR).is_file(), reason="QUIVER_LAMBDA_LOCAL names no emulator of AWS Lambda"
)


# `make test-lambda`: the package to serve instead of this code, and a Python with the runtime client alone.
PACKAGE = os.environ.get("QUIVER_LAMBDA_PACKAGE", "")
PYTHON = os.environ.get("QUIVER_LAMBDA_PYTHON", sys.executable)
not_on_lambda = pytest.mark.skipif(
    bool(PACKAGE), reason="AWS Lambda gets whole bodies of up to 6 MB, and none in pieces"
)


@dataclass(frozen=True)
class Function:
    """A function behind an HTTP API; every request is one invocation."""

    base_url: str
    log: Path

    def cold_starts(self) -> list[float]:
        """How long each environment took to initialise, in milliseconds."""
        return [float(found) for found in re.findall(r"Init Duration: ([\d.]+) ms", self.log.read_text())]

    def count(self, text: str) -> int:
        return self.log.read_text().count(text)


@contextmanager
def running_function(
    handler: str,
    environment: Mapping[str, str],
    directory: Path,
    *,
    timeout_seconds: int = 30,
    concurrency: int = 1,
) -> Generator[Function]:
    port = free_port()
    options = {"port": port, "root": PACKAGE or ROOT, "python": PYTHON, "memory": 1024}
    options |= {"timeout": timeout_seconds, "concurrency": concurrency}
    command = [sys.executable, EMULATOR, handler]
    command += [f"--{name}={value}" for name, value in options.items()]
    command += [f"--env={name}={value}" for name, value in environment.items()]
    log = directory / f"{handler}.log"
    with running(command, env={}, health=None, log=log):
        wait_for_listener(port)
        yield Function(f"http://127.0.0.1:{port}", log)


def as_environment(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as they stand in the environment of a process."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= as_environment(cast("Mapping[str, Any]", value), f"{prefix}{name.upper()}__")
        elif value is not None:
            found[f"{prefix}{name.upper()}"] = str(value)
    return found
