"""A PostgreSQL with PL/Python and pgvector: Debian 13 has both, which neither the embedded one nor Debian 12 has.

Its packages are unpacked beside our own ones, once, and run from there by chroot: nothing of them is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests.installing import installing
from tests.postgres_tools import run_script
from tests.processes import free_port

RELEASE, VERSION = "trixie", "17"
PACKAGES = (f"postgresql-{VERSION}-pgvector", f"postgresql-plpython3-{VERSION}", "dash")
SPARED = ("libllvm", "libz3", "libperl", "perl", "locales")  # what is large and of no use to a server that is not tuned
ROOT = Path(sys.prefix) / f"postgresql-{VERSION}"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NOBODY = 65534


@dataclass(frozen=True)
class PlPython:
    url: str

    def run(self, script: Path, **variables: object) -> None:
        run_script(script, self.url, **variables)

    def fetch(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, parameters or None).fetchall()

    def with_database(self, name: str) -> "PlPython":
        """Another database of the same server, with nothing in it."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return replace(self, url=f"{self.url.rpartition('/')[0]}/{name}")


@contextmanager
def plpython_server() -> Generator[PlPython]:
    with installing():
        if not (ROOT / "complete").exists():
            _unpack()
    place = Path(tempfile.mkdtemp(dir=ROOT / "tmp"))
    os.chown(place, NOBODY, NOBODY)
    inside = Path("/tmp") / place.name  # noqa: S108  # as the server sees it
    port = free_port()
    cluster = ("--pgdata", str(inside / "cluster"))
    options = f"-k {inside} -c listen_addresses=127.0.0.1 -c port={port} -c fsync=off -c jit=off"
    try:
        _as_nobody("initdb", *cluster, "--username=postgres", "--auth=trust", "--no-sync", "--locale=C", "-E", "UTF8")
        _as_nobody("pg_ctl", *cluster, "--log", str(inside / "log"), "--options", options, "--wait", "start")
        yield PlPython(f"postgresql://postgres@127.0.0.1:{port}/postgres")
    finally:
        if (place / "cluster" / "postmaster.pid").exists():
            _as_nobody("pg_ctl", *cluster, "--mode=immediate", "--wait", "stop")
        shutil.rmtree(place, ignore_errors=True)


def _as_nobody(program: str, *arguments: str) -> None:
    command = ["chroot", f"--userspec={NOBODY}:{NOBODY}", ROOT, f"/usr/lib/postgresql/{VERSION}/bin/{program}"]
    subprocess.run([*command, *arguments], cwd="/", check=True, stdout=subprocess.DEVNULL, timeout=60)


def _unpack() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None or not KEYRING.exists():
        pytest.skip(f"PostgreSQL {VERSION} with PL/Python comes by Debian's apt, and only root may run it by chroot")
    shutil.rmtree(ROOT, ignore_errors=True)
    for directory in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev/shm", "etc", "tmp"):
        (ROOT / directory).mkdir(parents=True)
    for directory in ("bin", "sbin", "lib", "lib64"):
        (ROOT / directory).symlink_to(f"usr/{directory}")
    with tempfile.TemporaryDirectory() as downloads:
        for package in sorted(_download(Path(downloads)).glob("*.deb")):
            unpacking = ["tar", "--extract", "--keep-directory-symlink", "--directory", ROOT]
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as reading:
                subprocess.run(unpacking, stdin=reading.stdout, check=True)
            assert reading.returncode == 0
    (ROOT / "etc" / "passwd").write_text(f"postgres:x:{NOBODY}:{NOBODY}::/:/bin/sh\n")
    for name, minor in (("null", 3), ("urandom", 9)):
        os.mknod(ROOT / "dev" / name, 0o020666, os.makedev(1, minor))
        (ROOT / "dev" / name).chmod(0o666)
    for shared in ("dev/shm", "tmp"):
        (ROOT / shared).chmod(0o1777)
    (ROOT / "complete").touch()


def _mirror() -> str:
    """Where the machine's own packages come from, whichever release they are of."""
    command = ["apt-get", "indextargets", "--format=$(REPO_URI)", "Created-By: Packages"]
    addresses = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return next(address for address in addresses if address.rstrip("/").endswith("/debian"))


def _download(directory: Path) -> Path:
    """The packages and what they depend on, by an apt that knows nothing but that release of Debian."""
    (directory / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {RELEASE} main\n")
    (directory / "status").touch()
    (directory / "lists" / "partial").mkdir(parents=True)
    places = {
        "Dir::State": directory,
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory,
        "Dir::Etc::sourcelist": directory / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
    }
    options = [f"--option={name}={place}" for name, place in places.items()]

    def apt(*arguments: str) -> str:
        command = ["apt-get", "--quiet", *options, *arguments]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    apt("update")
    planned = [line.split()[1] for line in apt("--simulate", "install", *PACKAGES).splitlines() if line[:5] == "Inst "]
    apt("download", *(name for name in planned if not name.startswith(SPARED)))
    return directory
