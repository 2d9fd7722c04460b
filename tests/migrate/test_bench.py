"""What `make bench-migrate` measures, with few rows: all are there, in bounded memory. Times are not judged."""

import re
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from bench.migrate import MAX_MEGABYTES

ROOT = Path(__file__).parents[2]
SECONDS = 300


def test_the_bench_compares_every_row_and_bounds_the_memory() -> None:
    command = [sys.executable, "-m", "bench.migrate", "--rows", "12000", "--together"]
    printed = subprocess.run(command, cwd=ROOT, stdout=PIPE, text=True, timeout=SECONDS, check=False).stdout

    assert re.search(r"in both tables, equal +12000 +all of them", printed), printed
    megabytes = re.search(r"memory of quiver migrate +(\d+) MB", printed)
    assert megabytes is not None
    assert int(megabytes[1]) <= MAX_MEGABYTES
    assert re.search(r"ratio( +\d+\.\d\d){3}", printed), printed
