"""Text out of a file of any supported type, by a process of its own that a hostile file cannot get out of.

Neither the file nor its text is ever held here: both are on disk, and one line of JSON comes back.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

import orjson

from api.extractors import encodings, formats
from api.extractors.errors import (
    BLANK,
    Code,
    ExtractionError,
    ExtractorFailed,
    FileTooHeavy,
    InvalidFile,
    UnsupportedFile,
)
from api.extractors.formats import Kind
from api.extractors.limits import Limits
from api.extractors.text_file import TextFile
from api.observation import timed

__all__ = [
    "Code",
    "Extracted",
    "ExtractionError",
    "ExtractorFailed",
    "FileTooHeavy",
    "InvalidFile",
    "Kind",
    "Limits",
    "UnsupportedFile",
    "extract",
]

ANSWER_BYTES = 16 * 1024  # of output that are kept; the answer is its last line
MAX_PLAIN_BYTES = 1024 * 1024  # read here in 1 to 8 ms; a process would take 35 and more, mostly to start
READ_BYTES = 64 * 1024
ROOT = Path(__file__).resolve().parent.parent
REFUSALS: Final = {error.__name__: error for error in (UnsupportedFile, InvalidFile, FileTooHeavy)}


@dataclass(frozen=True)
class Extracted:
    """The text that `extract` has written; `kind` is how to cut it into chunks."""

    kind: Kind
    characters: int
    bytes: int


class _Answer(TypedDict, total=False):
    kind: Kind
    characters: int
    bytes: int
    error: str
    message: str
    detail: str


@timed("extract")
async def extract(path: Path, *, filename: str, into: Path, limits: Limits | None = None) -> Extracted:
    """Write the text of the file at `path` to the file `into`: UTF-8, lines that end in a line feed.

    `filename` is what its owner calls it. If this raises or is cancelled, what `into` holds is of no use.

    Raises:
        UnsupportedFile: no text can be read from files of this type.
        InvalidFile: the file is damaged, encrypted, or without text.
        FileTooHeavy: it takes more than the limits allow.
        ExtractorFailed: the process did not end as it should.
    """
    limits = limits or Limits()
    if plain := await asyncio.to_thread(_extract_plain, path, filename=filename, into=into, limits=limits):
        return plain
    request = {"path": str(path), "filename": filename, "into": str(into), "limits": limits._asdict()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-S",  # the path is given: looking at the installed packages' start files takes twice as long as all the rest
        "-P",
        "-W",
        "ignore",
        "-c",
        "from api.extractors.__main__ import main; main()",  # 8 ms sooner than -m
        orjson.dumps(request).decode(),
        env=_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # so that we can end it with all that it may have started
    )
    try:
        async with asyncio.timeout(limits.wall_seconds):
            output = await _tail(process)
            status = await process.wait()
    except TimeoutError as error:
        raise ExtractorFailed(
            f"Reading the file did not end within {_seconds(limits.wall_seconds)}; the machine may be overloaded."
        ) from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return _result(output, status, limits)


def _extract_plain(path: Path, *, filename: str, into: Path, limits: Limits) -> Extracted | None:
    """Small files in clean UTF-8 that no library has to read: most files, and a process would be all their cost."""
    with path.open("rb") as stream:
        detected = formats.detect(stream, filename)
        if detected.format != "plain" or os.fstat(stream.fileno()).st_size > MAX_PLAIN_BYTES:
            return None
        text = encodings.clean_utf8(stream.read(MAX_PLAIN_BYTES))
    if text is None:
        return None
    with TextFile(str(into), max_bytes=limits.text_bytes) as out:
        out.write(text)
    if out.is_blank:
        raise InvalidFile(BLANK)
    return Extracted(kind=detected.kind, characters=out.characters, bytes=out.bytes)


def _environment() -> dict[str, str]:
    """Where modules lie, and nothing that is secret."""
    path = dict.fromkeys([str(ROOT), *(os.path.abspath(entry) for entry in sys.path)])
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}


async def _tail(process: asyncio.subprocess.Process) -> bytes:
    """The end of what the process writes; a file may make a library say a lot."""
    assert process.stdout is not None  # asked for as a pipe
    tail = b""
    while data := await process.stdout.read(READ_BYTES):
        tail = (tail + data)[-ANSWER_BYTES:]
    return tail


def _result(output: bytes, status: int, limits: Limits) -> Extracted:
    if status == -signal.SIGXCPU:
        raise FileTooHeavy(
            f"The file takes more than {_seconds(limits.seconds)} to be read; split it into smaller files."
        )
    last = output.rstrip().rpartition(b"\n")[2]
    try:
        answer: _Answer = orjson.loads(last) if status == 0 else {}
    except orjson.JSONDecodeError:
        answer = {}
    if refusal := REFUSALS.get(answer.get("error", "")):
        raise refusal(answer.get("message", ""), detail=answer.get("detail", ""))
    if "kind" not in answer or "characters" not in answer or "bytes" not in answer:
        raise ExtractorFailed(_how_it_ended(status), detail=last.decode(errors="replace"))
    return Extracted(kind=answer["kind"], characters=answer["characters"], bytes=answer["bytes"])


def _seconds(count: int) -> str:
    return "1 second" if count == 1 else f"{count} seconds"


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"Reading the file was ended by {signal.Signals(-status).name}; the machine may be short of memory."
    return "Reading the file failed for a reason that is not the file's; try again."
