"""How many cores there are to compute on."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The cores this process is bound to, or fewer where its container may use less of their time, rounded up."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(bound, quota()))


def quota(cgroup: Path = CGROUP) -> float:
    """The container's limit, in cores' worth of time; infinite without one. Of control groups version 2, or else 1."""
    files = [cgroup / "cpu.max"]
    if not files[0].exists():
        files = [cgroup / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        allowed, period = map(int, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # no control groups, or "max"
        return math.inf
    return allowed / period if allowed > 0 else math.inf
