"""What tests install for themselves, which several processes may set about at once."""

import fcntl
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installing() -> Generator[None]:
    """Have other processes of the tests wait before they look whether something has to be installed."""
    with (Path(sys.prefix) / "installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
