"""How far it is: a bar with rate and time left on a terminal, a line now and then elsewhere. All on standard error."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from api.migrate.records import Tally

LINE_SECONDS = 10


class Progress:
    """Counts rows up to a total, if there is one; `done` of them are not of this run."""

    def __init__(self, what: str, *, total: int | None, done: int = 0) -> None:
        self._what = what
        self._total = total
        self._done = done
        self._started = self._said = time.monotonic()
        self._bar: Bar | None = None
        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, tally: Tally) -> None:
        self.advance_to(tally.read, rejected=tally.rejected)

    def advance_to(self, rows: int, *, rejected: int = 0) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=rows)
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            rate = (rows - self._done) / (self._said - self._started)
            of = f" of {self._total:,}" if self._total is not None else ""
            left = "" if self._total is None or not rate else f", {duration((self._total - rows) / rate)} left"
            refused = f", {rejected:,} rejected" if rejected else ""
            say(f"{self._what}: {rows:,}{of} rows, {rate:,.0f} a second{left}{refused}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.speed is None:
            return Text("")
        left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
        return Text(f"{task.speed:,.0f} rows/s{left}")


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def rows_of(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def duration(seconds: float) -> str:
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
