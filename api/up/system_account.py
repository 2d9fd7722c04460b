"""The account a server runs as for us when we are root (PostgreSQL refuses to be), and how it reaches its files."""

import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from api.errors import ConfigurationError

NAME = "quiver"


def find_or_create() -> pwd.struct_passwd | None:
    """The system user PostgreSQL runs as when we are root, made if absent; None when we are not root."""
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam(NAME)
    useradd = shutil.which("useradd") or "/usr/sbin/useradd"
    command = [
        useradd,
        "--system",
        "--user-group",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        NAME,
    ]
    with suppress(OSError):
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # asked below
    try:
        return pwd.getpwnam(NAME)
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL does not run as root and the system user {NAME!r} could not be made: "
            "make it, run Quiver as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
        ) from None


def choose(cluster: Path) -> pwd.struct_passwd | None:
    """Whose server this is: as root the owner of the cluster there is, so that nothing ever changes hands."""
    account = find_or_create()
    if account is not None and cluster.exists() and cluster.stat().st_uid not in (0, account.pw_uid):
        with suppress(KeyError):
            return pwd.getpwuid(cluster.stat().st_uid)
    return account


def give(directory: Path, account: pwd.struct_passwd | None) -> None:
    if account is not None:
        os.chown(directory, account.pw_uid, account.pw_gid)


def launcher(account: pwd.struct_passwd | None, *, program: Path, data_dir: Path) -> list[str]:
    """The command to put before PostgreSQL's: it ends with us and, as root, runs as its own user.

    That user may be unable to reach a virtual environment or a data directory below, say, /root. Then the
    server gets the smallest capability that lets it, rather than everybody a wider mode on a directory.
    """
    setpriv = shutil.which("setpriv")
    ends_with_us = [setpriv, "--pdeathsig", "INT"] if setpriv else []
    if account is None:
        return ends_with_us
    if setpriv is None:
        raise ConfigurationError(
            "PostgreSQL does not run as root and the command setpriv (package util-linux) is missing: "
            "install it, run Quiver as an ordinary user, or set DATABASE_URL to a PostgreSQL of your own."
        )
    as_user = [
        *ends_with_us,
        "--reuid",
        str(account.pw_uid),
        "--regid",
        str(account.pw_gid),
        "--clear-groups",
    ]
    # access(2), which PostgreSQL asks about its own program, counts capabilities only with this bit set.
    granted = ["--securebits", "+no_setuid_fixup", "--inh-caps", "{}", "--ambient-caps", "{}"]
    for capability in (None, "+dac_read_search", "+dac_override"):
        command = as_user + [part.format(capability) for part in granted if capability]
        reach = [*command, "test", "-x", str(program), "-a", "-x", str(data_dir)]
        if subprocess.run(reach, cwd="/", capture_output=True, check=False).returncode == 0:  # noqa: S603
            return command
    raise ConfigurationError(
        f"PostgreSQL runs as the user {account.pw_name!r}, who cannot reach {str(data_dir)!r} or "
        f"{str(program)!r}: move them to where that user may go, or run Quiver as an ordinary user."
    )
