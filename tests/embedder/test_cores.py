import math
import os
from pathlib import Path

import pytest

from embedder.engines import cores


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_a_containers_share_of_the_processor_is_read(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert cores.quota(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (math.inf, 3), (8.0, 3)])
def test_a_share_of_a_core_counts_as_one(quota: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def three_cores(_process: int) -> set[int]:
        return {0, 1, 2}

    monkeypatch.setattr(os, "sched_getaffinity", three_cores)
    monkeypatch.setattr(cores, "quota", lambda: quota)

    assert cores.usable_cores() == expected
