"""What an operator does around PostgreSQL: dumps, replicas, a pooler. The tools are real ones."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from api.tables import migrations
from api.up import system_account
from api.up.embedded_postgres import EmbeddedPostgres, find_binaries
from tests.installing import installing
from tests.processes import free_port, running

START_SECONDS = 15


def run_tool(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    command = [str(find_binaries() / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}: {done.stderr}"


def run_script(script: Path, url: str, **variables: object) -> None:
    """Run a file of SQL by psql, as the heads of ours say."""
    named = [f"--set={name}={value}" for name, value in variables.items()]
    run_tool("psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--quiet", *named, f"--file={script}", url)


@asynccontextmanager
async def own_server(directory: Path) -> AsyncGenerator[EmbeddedPostgres]:
    """A migrated server of a test's own."""
    with EmbeddedPostgres(directory, durable=False) as server:
        await migrations.apply(server.url)
        yield server


@contextmanager
def replica_of(primary: EmbeddedPostgres, data_dir: Path) -> Generator[EmbeddedPostgres]:
    """A streaming replica, made of a base backup as an operator makes one."""
    server = EmbeddedPostgres(data_dir, durable=False)
    cluster = data_dir / "cluster"
    data_dir.mkdir(mode=0o700)
    address = primary.url.replace("/quiver?", "/postgres?")
    run_tool("pg_basebackup", "-d", address, "-D", str(cluster), "-R", "-X", "stream", "-c", "fast", "--no-sync")
    account = system_account.find_or_create()
    for path in (data_dir, cluster, *cluster.rglob("*")):
        system_account.give(path, account)
    with server:
        yield server


@contextmanager
def pooler_of(server: EmbeddedPostgres, directory: Path, *, user: str = "postgres") -> Generator[str]:
    """PgBouncer in transaction mode with two connections; the address of the database behind it.

    As root it runs as the server's own user, who must be able to reach its directory.
    """
    program = _pgbouncer()
    [socket_dir] = parse_qs(urlsplit(server.url).query)["host"]
    owner = pwd.getpwuid(Path(socket_dir).stat().st_uid).pw_name
    port = free_port()
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={socket_dir} user={user}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\nignore_startup_parameters = options\n"
        + (f"user = {owner}\n" if os.geteuid() == 0 else "")
    )
    address = f"postgresql://postgres@127.0.0.1:{port}{urlsplit(server.url).path}"
    log = directory / "pgbouncer.log"
    with running([program, str(configuration)], env={}, health=None, log=log):
        _wait_for(address, log)
        yield f"{address}?pgbouncer=true"


def _pgbouncer() -> str:
    """PgBouncer, which Debian brings where it is not there."""
    with installing():
        program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if program is None and os.geteuid() == 0 and shutil.which("apt-get"):
            quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["update"], ["install", "--yes", "--no-install-recommends", "pgbouncer"]):
                subprocess.run(["apt-get", "-qq", *command], env=quiet, check=True)
            program = "/usr/sbin/pgbouncer"
    if program is None:
        pytest.skip("PgBouncer is not installed, and only root may install it")
    return program


def _wait_for(address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer does not answer:\n{log.read_text()[-2000:]}") from error
            time.sleep(0.05)
        else:
            return
