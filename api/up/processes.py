"""The parts of `quiver up` that are processes: each a process group of its own, its output read line by line."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from api.errors import ConfigurationError
from api.up import guardian

LAST_LINES = 15
MAX_LINE_BYTES = 1024 * 1024  # a longer line of output is dropped


class Guardian:
    """A process that ends the others should we die without doing so."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own file
            # -I and -S: it needs the standard library only, and starts in a few milliseconds.
            [sys.executable, "-I", "-S", guardian.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):  # somebody ended it; we can still end the others
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()


class Child:
    """A process started with exactly `environment`; `write` gets its lines of output."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        *,
        write: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._write = write
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._guardian: Guardian | None = None

    async def start(self, watched_by: Guardian) -> None:
        """Start it.

        Raises:
            ConfigurationError: the program cannot be run.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**self._environment, "PYTHONUNBUFFERED": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=MAX_LINE_BYTES,
                start_new_session=True,  # Ctrl-C on the terminal reaches us only, and we can end its children with it
            )
        except OSError as error:
            raise ConfigurationError(
                f"The part {self.name!r} cannot be started: {self._command[0]!r}: {error.strerror}."
            ) from error
        self._guardian = watched_by
        watched_by.watch(self._process.pid)
        self._reader = asyncio.create_task(self._read(self._process))

    async def ended(self) -> str:
        """Wait until it ends by itself; returns how, as the end of a sentence."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            raise RuntimeError(f"{self.name} has not been started")
        status = await process.wait()
        # Its last words may still be in the pipe; a grandchild may hold that open for ever.
        await asyncio.wait([reader], timeout=0.5)
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"

    def last_lines(self) -> list[str]:
        return list(self._lines)

    async def stop(self, grace_seconds: float | None) -> None:
        """End it and all it started: a request first, then by force, unless it may take any time."""
        if self._process is None or self._reader is None:
            return
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), grace_seconds)
        self.kill()
        await self._process.wait()
        self._reader.cancel()
        if self._guardian is not None:
            self._guardian.forget(self._process.pid)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        output = process.stdout
        while output is not None:
            try:
                line = await output.readline()
            except ValueError:  # longer than MAX_LINE_BYTES
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                self._lines.append(text)
                self._write(self.name, text)
