"""Hostile files: each is stopped at a limit that the failure names, and its process is gone."""

import asyncio
import os
import re
import signal
import time
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from api import extraction
from api.extraction import ExtractorFailed, FileTooHeavy, InvalidFile, Limits, UnsupportedFile
from tests import sample_files
from tests.sample_files import changed, zipped

Make = Callable[[], bytes]

MIB = 1024 * 1024
TIGHT = Limits(memory_bytes=256 * MIB, seconds=20, text_bytes=MIB, unpacked_bytes=16 * MIB, cells=10_000)
DEADLINE_SECONDS = 20

WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
DOCTYPE = f'<!DOCTYPE x [<!ENTITY l0 "ha"><!ENTITY file SYSTEM "file:///etc/passwd">{LAUGHS}]>'

# The library's regular expression for links tries every beginning with every end.
SLOW_RTF = rb"{\rtf1 " + rb"{\field{\*\fldinst{ HYPERLINK " * 20_000 + b'"a" ' * 20_000 + b"}"

TEXT_LIMIT = "The file holds more than 1 MiB of text"
UNPACKED_LIMIT = "The file is 20 MiB unpacked; at most 16 MiB are read."
NESTING_LIMIT = "is nested or repeated beyond what is read"
PDF_LIMIT = "The PDF nests, repeats or unpacks beyond what is read"
CELL_LIMIT = "The workbook has more than 10000 cells"
MEMORY_LIMIT = "The file needs more than 256 MiB of memory to be read."


def first_word(value: object) -> str:
    """A test is known by its file's name."""
    return value.split()[0] if isinstance(value, str) and "." in value.split()[0] else ""


def word(document: str | bytes) -> bytes:
    return changed(sample_files.word(), {"word/document.xml": document})


def paragraph(text: str, *, doctype: str = "") -> bytes:
    return word(f"{doctype}<w:document {WORD}><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>")


def workbook(column: str, *, row: int, text: str) -> bytes:
    """A workbook whose only sheet has this cell."""
    data = f'<row r="{row}"><c r="{column}{row}" t="inlineStr"><is><t>{text}</t></is></c></row>'
    sheet = f"{DOCTYPE}<worksheet {SHEET}><sheetData>{data}</sheetData></worksheet>"
    return changed(sample_files.workbook([[1]]), {"xl/worksheets/sheet1.xml": sheet})


def container(text: str | bytes) -> bytes:
    """The beginning of a book."""
    return zipped({"META-INF/container.xml": text})


def lying(content: bytes, name: str, size: int) -> bytes:
    """The archive with another unpacked size in a directory's entry."""
    data = bytearray(content)
    entry = data.index(b"PK\x01\x02", data.rindex(name.encode()) - 46)
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    return bytes(data)


def pdf(*objects: str, stream: bytes = b"") -> bytes:
    """A PDF of these objects; the last one's stream is `stream`."""
    made = b"%PDF-1.7\n"
    offsets: list[int] = []
    for number, text in enumerate(objects, start=1):
        offsets.append(len(made))
        tail = b"\nstream\n" + stream + b"\nendstream" if stream and number == len(objects) else b""
        made += f"{number} 0 obj\n{text}".encode() + tail + b"\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"trailer\n<</Size {size}/Root 1 0 R>>\nstartxref\n{len(made)}\n%%EOF"
    return made + f"xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode()


def one_page(stream: bytes, *, filters: str) -> bytes:
    font = "/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    page = f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R{font}>>"
    contents = f"<</Length {len(stream)}/Filter[{filters}]>>"
    return pdf("<</Pages 2 0 R>>", "<</Type/Pages/Count 1/Kids[3 0 R]>>", page, contents, stream=stream)


async def extract(tmp_path: Path, name: str, content: bytes, limits: Limits = TIGHT) -> str:
    path, into = tmp_path / "file", tmp_path / "text"
    path.write_bytes(content)
    await extraction.extract(path, filename=name, into=into, limits=limits)
    return into.read_text()


@asynccontextmanager
async def slow_extraction(tmp_path: Path) -> AsyncGenerator[tuple["asyncio.Task[str]", int]]:
    """An extraction under way, and the id of its process."""
    task = asyncio.create_task(extract(tmp_path, "a.rtf", SLOW_RTF))
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := processes_reading(tmp_path / "file")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    yield task, found[0]
    task.cancel()
    await asyncio.wait([task])


def processes_reading(path: Path) -> list[int]:
    """The ids of processes that were asked to read this file."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            command = (process / "cmdline").read_bytes()
            found += [int(process.name)] * (b"api.extractors" in command and bytes(path) in command)
    return found


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def zeros() -> bytes:
    return word(bytes(20 * MIB))


def packed() -> bytes:
    return zlib.compress(bytes(100 * MIB), 1)


def nested_mail() -> bytes:
    return b"".join(b'Content-Type: multipart/x; boundary="%d"\n\n--%d\n' % (n, n) for n in range(3000))


CYCLE = ("<</Pages 2 0 R>>", "<</Type/Pages/Count 1/Kids[2 0 R 2 0 R]>>")


# Each is made when its test runs: together they would cost a second whenever tests are collected.
@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("long.txt", lambda: b"x" * (MIB + 1), TEXT_LIMIT),
        ("longer.txt", lambda: b"x" * 3 * MIB, TEXT_LIMIT),
        ("paragraph.docx", lambda: paragraph("x" * 3 * MIB), TEXT_LIMIT),
        ("page.html", lambda: b"<p>" + b"x" * 3 * MIB, TEXT_LIMIT),
        ("zeros.docx", zeros, UNPACKED_LIMIT),
        ("zeros.epub", lambda: container(bytes(20 * MIB)), UNPACKED_LIMIT),
        ("laughs.docx", lambda: paragraph("&l9;", doctype=DOCTYPE), NESTING_LIMIT),
        ("laughs.epub", lambda: container(f"{DOCTYPE}<a b='&l9;'/>"), NESTING_LIMIT),
        ("laughs.xlsx", lambda: workbook("A", row=1, text="&l9;"), NESTING_LIMIT),
        ("zeros.pdf", lambda: one_page(packed(), filters="/FlateDecode"), PDF_LIMIT),
        ("twice.pdf", lambda: one_page(zlib.compress(packed()), filters="/FlateDecode/FlateDecode"), PDF_LIMIT),
        ("lines.eml", lambda: b"Subject: a\n\n" + b"x\n" * 8_000_000, MEMORY_LIMIT),
    ],
    ids=first_word,
)
async def test_a_file_that_is_too_heavy_is_stopped(name: str, make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileTooHeavy, match=re.escape(message)):
        await extract(tmp_path, name, make())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("lying.docx", lambda: lying(zeros(), "word/document.xml", 1000)),
        ("deep.docx", lambda: word(f"<w:document {WORD}>" + "<w:p>" * 100_000)),
        ("cycle.pdf", lambda: pdf(*CYCLE)),
        ("nested.eml", nested_mail),
    ],
    ids=first_word,
)
async def test_a_file_that_contradicts_itself_is_damaged(name: str, make: Make, tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="is damaged"):
        await extract(tmp_path, name, make())


@pytest.mark.parametrize(("column", "row"), [("A", 1_048_576), ("XFD", 1), ("ZZZ", 99_999_999)])
async def test_a_lonely_cell_does_not_make_a_workbook_endless(column: str, row: int, tmp_path: Path) -> None:
    with pytest.raises(FileTooHeavy, match=CELL_LIMIT):
        await extract(tmp_path, "a.xlsx", workbook(column, row=row, text="far"))


async def test_a_file_of_this_machine_is_never_read(tmp_path: Path) -> None:
    assert await extract(tmp_path, "a.docx", paragraph("a&file;b", doctype=DOCTYPE)) == "ab\n\n"


async def test_an_archive_within_a_document_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zipped({"inner.zip": zipped({"zeros": bytes(100 * MIB)})})

    text = await extract(tmp_path, "a.docx", changed(sample_files.word(), {"word/embedded.zip": bomb}))

    assert text.startswith("# Sea creatures")


async def test_an_archive_of_archives_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFile, match="upload the files in it one by one"):
        await extract(tmp_path, "42.zip", zipped({"0.zip": zipped({"zeros": bytes(15 * MIB)})}))


@pytest.mark.parametrize(
    ("name", "content", "end"),
    [
        ("a.html", b"<div>" * 20_000 + b"deep", "deep"),
        ("a.json", b"[" * 500_000, "[[[["),
        ("wide.json", b"[" + b"{}," * 100_000 + b"{}]", "\n  {}\n]"),
        ("both.json", b"[" * 500 + b"1," * 10_000 + b"1" + b"]" * 500, "1,1]]" + "]" * 498),
    ],
    ids=first_word,
)
async def test_nesting_without_end_is_read_to_its_end(name: str, content: bytes, end: str, tmp_path: Path) -> None:
    assert (await extract(tmp_path, name, content)).rstrip().endswith(end)


async def test_a_file_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(FileTooHeavy, match="The file takes more than 1 second to be read; split it"):
        await extract(tmp_path, "a.rtf", SLOW_RTF, TIGHT._replace(seconds=1))

    assert not processes_reading(tmp_path / "file")


async def test_a_machine_without_time_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ExtractorFailed, match="did not end within 1 second; the machine may be overloaded"):
        await extract(tmp_path, "a.rtf", SLOW_RTF, TIGHT._replace(wall_seconds=1))

    assert not processes_reading(tmp_path / "file")


async def test_a_cancelled_extraction_ends_its_process(tmp_path: Path) -> None:
    async with slow_extraction(tmp_path) as (task, _):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

        assert task.cancelled()
        assert not processes_reading(tmp_path / "file")


async def test_a_killed_process_is_no_fault_of_the_file(tmp_path: Path) -> None:
    async with slow_extraction(tmp_path) as (task, process):
        os.kill(process, signal.SIGKILL)

        with pytest.raises(ExtractorFailed, match="ended by SIGKILL"):
            await task


async def test_a_process_gets_none_of_our_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_API_KEY", "sk-secret")

    async with slow_extraction(tmp_path) as (_, process):
        environment = environment_of(process)

    assert b"PYTHONPATH=" in environment
    assert b"sk-secret" not in environment


async def test_a_file_that_has_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await extraction.extract(tmp_path / "gone", filename="a.txt", into=tmp_path / "text")
