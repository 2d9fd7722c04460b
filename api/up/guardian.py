"""Ends the process groups of a `quiver up` that died without ending them itself, say by `kill -9`.

`quiver up` runs this file as a process of its own and writes to its standard input: `+123` for a process group it
started, `-123` for one it ended. The end of that input is the end of `quiver up`.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 10
POLL_SECONDS = 0.05


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    groups = signal_all(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        groups = signal_all(groups, 0)
    signal_all(groups, signal.SIGKILL)


def signal_all(groups: set[int], number: int) -> set[int]:
    """Send a signal to each group (0 only asks); returns those that still exist."""
    existing: set[int] = set()
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            continue
        existing.add(group)
    return existing


if __name__ == "__main__":
    main()
