"""A PostgreSQL of Debian's that has PL/Python, which the embedded one has not."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

VERSION = "15"  # Debian 12's
BINARIES = Path(f"/usr/lib/postgresql/{VERSION}/bin")
PL_PYTHON = Path(f"/usr/share/postgresql/{VERSION}/extension/plpython3u.control")


@dataclass(frozen=True)
class PlPython:
    url: str

    def run(self, script: Path) -> None:
        command = [BINARIES / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", f"--file={script}", self.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def fetch(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, parameters or None).fetchall()


@contextmanager
def plpython_server(directory: Path) -> Generator[PlPython]:
    """A server on a Unix socket; Debian brings it where it is not there."""
    _install()
    owner = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    place = Path("/tmp") / f"quiver-plpython-{os.getpid()}"  # noqa: S108  # a path short enough for a socket
    cluster = place / "cluster"
    place.mkdir(mode=0o700)
    shutil.chown(place, owner)
    log = place / "log"
    try:
        _as(owner, "initdb", "--pgdata", str(cluster), "--username=postgres", "--auth=trust", "--no-sync")
        options = f"-k {place} -c listen_addresses='' -c fsync=off"
        _as(owner, "pg_ctl", "--pgdata", str(cluster), "--log", str(log), "--options", options, "--wait", "start")
        yield PlPython(f"postgresql://postgres@localhost/postgres?host={place}")
    finally:
        if (cluster / "postmaster.pid").exists():
            _as(owner, "pg_ctl", "--pgdata", str(cluster), "--mode=immediate", "--wait", "stop")
        shutil.rmtree(place, ignore_errors=True)


def _as(owner: str, program: str, *arguments: str) -> None:
    """Run a program as the one user who may: never root."""
    user = owner if os.geteuid() == 0 else None
    subprocess.run(
        [BINARIES / program, *arguments], user=user, cwd="/", check=True, stdout=subprocess.DEVNULL, timeout=60
    )


def _install() -> None:
    if not PL_PYTHON.exists() and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        packages = [f"postgresql-{VERSION}", f"postgresql-plpython3-{VERSION}"]
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, check=False)
    if not PL_PYTHON.exists():
        pytest.skip(f"PostgreSQL {VERSION} with PL/Python is not installed, and only root may install it on Debian 12")
