"""`python -m api.extractors REQUEST`: read one file within its limits, and answer with one line of JSON.

Nothing that the file provokes gets further than this process.
"""

import errno
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from types import ModuleType
from typing import BinaryIO, NoReturn, cast

from api.extractors import formats
from api.extractors.errors import BLANK, ExtractionError, FileTooHeavy, InvalidFile
from api.extractors.formats import Kind
from api.extractors.limits import Limits
from api.extractors.text_file import TextFile, size

# Extractors do without what libraries import just in case: it doubles the time that a small document takes, and
# numpy's threads want address space on machines of many cores.
UNWANTED = ("numpy", "PIL")
GRACE_SECONDS = 5  # between the limit that the parent keeps and ours, for when there is no parent any more
CPU_GRACE_SECONDS = 2  # between the signal, which names the limit, and the kernel's killing


def main() -> NoReturn:
    request = json.loads(sys.argv[1])
    limits = Limits(**request["limits"])
    _confine(limits)
    cast("dict[str, ModuleType | None]", sys.modules).update(dict.fromkeys(UNWANTED))
    try:
        answer = _extract(request["path"], request["filename"], request["into"], limits)
    except ExtractionError as error:
        answer = _refusal(error)
    except MemoryError:
        answer = _refusal(FileTooHeavy(f"The file needs more than {size(limits.memory_bytes)} of memory to be read."))
    except Exception as error:  # a parser given a broken file may raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a jump to before the beginning
            raise  # the disk's failure, not the file's
        detail = f"{type(error).__name__}: {error}"
        answer = _refusal(InvalidFile("The file is damaged and cannot be read.", detail=detail))
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()
    os._exit(0)  # taking large structures apart takes time, and nobody needs them apart


def _confine(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + CPU_GRACE_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.text_bytes, limits.text_bytes))
    with suppress(ValueError, OSError):  # macOS keeps no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # Linux
        score.write("1000")  # a machine out of memory is to end us, not the worker
    signal.alarm(limits.wall_seconds + GRACE_SECONDS)


def _extract(path: str, filename: str, into: str, limits: Limits) -> dict[str, object]:
    with open(path, "rb") as stream, TextFile(into, max_bytes=limits.text_bytes) as out:
        detected = formats.detect(stream, filename)
        kind = _read(stream, out, detected, limits)
        if out.is_blank:
            raise InvalidFile(BLANK)
    return {"kind": kind, "characters": out.characters, "bytes": out.bytes}


def _read(stream: BinaryIO, out: TextFile, detected: formats.Detected, limits: Limits) -> Kind:
    match detected.format:
        case "plain":
            from api.extractors import plain

            plain.extract(stream, out)
        case "json":
            from api.extractors import plain

            plain.extract_json(stream, out)
        case "html":
            from api.extractors import html

            html.extract(stream, out)
        case "pdf":
            from api.extractors import pdf

            pdf.extract(stream, out)
        case "rtf":
            from api.extractors import rtf

            rtf.extract(stream, out)
        case "email":
            from api.extractors import mail

            mail.extract(stream, out)
        case "zip":
            _read_archive(stream, out, limits)
    return detected.kind


def _read_archive(stream: BinaryIO, out: TextFile, limits: Limits) -> None:
    from api.extractors.archive import Archive, detect

    archive = Archive(stream, max_unpacked_bytes=limits.unpacked_bytes)
    match detect(archive):
        case "docx":
            from api.extractors import office

            office.extract_docx(archive, out)
        case "pptx":
            from api.extractors import office

            office.extract_pptx(archive, out)
        case "xlsx":
            from api.extractors import spreadsheet

            stream.seek(0)
            spreadsheet.extract(stream, out, max_cells=limits.cells)
        case "epub":
            from api.extractors import epub

            epub.extract(archive, out, max_page_bytes=limits.text_bytes)


def _refusal(error: ExtractionError) -> dict[str, object]:
    return {"error": type(error).__name__, "message": error.message, "detail": error.detail[:500]}


if __name__ == "__main__":
    main()
