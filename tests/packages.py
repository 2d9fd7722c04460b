"""Packages whose data we read and whose code we do not need: apart from our own, installed once beside them."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.installing import installing


def installed(name: str, packages: str) -> Path:
    """A directory for `PYTHONPATH` with just these packages, which find what else they import among our own."""
    directory = Path(sys.prefix) / name
    complete = directory / "complete"
    with installing():
        if not complete.exists() or complete.read_text() != packages:
            shutil.rmtree(directory, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
            subprocess.run((*pip, "--target", directory, *packages.split()), check=True)
            complete.write_text(packages)
    return directory


def run(directory: Path, program: str, *arguments: str | Path, home: Path) -> bytes:
    """Run a program of Python's with these packages; what it prints."""
    environment = {"PYTHONPATH": str(directory), "PATH": "", "HOME": str(home)}
    return subprocess.run(
        (sys.executable, "-c", program, *arguments), env=environment, check=True, stdout=subprocess.PIPE
    ).stdout
