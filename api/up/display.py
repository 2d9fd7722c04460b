"""What `quiver up` shows: a row for each part while it starts, a summary, then every part's log in one stream."""

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta")
REMIND_SECONDS = 10  # without a terminal, a part that is waited for is named again this often


class _Console(Console):
    """Goes on without a reader of its output, where rich would leave the program in the middle of what it does."""

    broken = False

    def on_broken_pipe(self) -> None:
        self.broken = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Rows with a clock on a terminal, plain lines elsewhere."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._console = _Console(highlight=False, soft_wrap=True)
        self._colours = {part: COLOURS[number % len(COLOURS)] for number, part in enumerate(parts)}
        self._width = max(len(part) for part in parts)
        self._streaming = False
        self._progress: Progress | None = None
        self._rows: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._reminded: dict[str, float] = {}

    @property
    def broken(self) -> bool:
        """Whether nobody reads any more: the terminal was closed, or the pipe."""
        return self._console.broken

    @contextmanager
    def starting(self) -> Generator[None]:
        if not self._console.is_terminal:
            yield
            return
        columns = (
            SpinnerColumn(finished_text="[green]ready[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}[/]"),
        )
        with Progress(*columns, console=self._console) as self._progress:
            yield
        self._progress = None

    def begin(self, part: str) -> None:
        self._started[part] = self._reminded[part] = time.monotonic()
        if self._progress is not None:
            self._rows[part] = self._progress.add_task(part.ljust(self._width), total=1, note="")
        else:
            self.say(f"Starting {part}")

    def waits(self, part: str, note: str) -> None:
        """Say what a part is waiting for; cheap, may be called often."""
        if self._progress is not None:
            self._progress.update(self._rows[part], note=note)
        elif time.monotonic() - self._reminded[part] > REMIND_SECONDS:
            self._reminded[part] = time.monotonic()
            self.say(f"Still waiting for {part} ({self._seconds(part):.0f} s){': ' if note else ''}{note}")

    def ready(self, part: str, note: str = "") -> None:
        if self._progress is not None:
            self._progress.update(self._rows[part], completed=1, note=note)
        else:
            self.say(f"{part} is ready ({self._seconds(part):.1f} s)")

    def summarize(self, rows: Sequence[tuple[str, str]], *, example: str) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in rows:
            table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
        self._print("")
        if self._console.is_terminal:
            self._print(table, soft_wrap=False)
        else:
            for name, value in rows:
                self._print(f"{name}: {value}")
        self._print("")
        self._print(Text("Try it:", style="bold"))
        # Not in a frame and not wrapped: it is there to be copied.
        self._print(Text(example, style="green"))
        self._print("")
        self._print(Text("Ctrl-C stops everything. The logs:", style="dim"))

    def stream(self, on: bool) -> None:
        self._streaming = on

    def log(self, part: str, line: str) -> None:
        if self._streaming:
            prefix = (f"{part.ljust(self._width)} | ", self._colours.get(part, "white"))
            self._print(Text.assemble(prefix, Text.from_ansi(line)))

    def say(self, line: str, *, style: str = "") -> None:
        self._print(Text(line, style=style))

    def complain(self, message: str, details: Sequence[str] = ()) -> None:
        with suppress(OSError):
            errors = Console(stderr=True, highlight=False, soft_wrap=True)
            errors.print(Text.assemble(("Error: ", "bold red"), message))
            for line in details:
                errors.print(Text.assemble("  ", Text.from_ansi(line)))

    def _seconds(self, part: str) -> float:
        return time.monotonic() - self._started[part]

    def _print(self, what: Text | Table | str, *, soft_wrap: bool = True) -> None:
        try:
            self._console.print(what, soft_wrap=soft_wrap)
        except OSError:  # the terminal was closed
            self._console.on_broken_pipe()
