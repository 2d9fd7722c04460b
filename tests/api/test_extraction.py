"""Text out of real files of every type, and a clear failure for those that have none."""

import datetime as dt
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from reportlab.lib.pdfencrypt import StandardEncryption

from api import extraction
from api.extraction import Extracted, ExtractionError, ExtractorFailed, FileTooHeavy, InvalidFile, UnsupportedFile
from tests import sample_files
from tests.sample_files import FIRST, SECOND, SENTENCES, THIRD, Sample, changed, zipped

LONG = 1200 * 1024  # characters: more than is read without a process
PYTHON_CODE = "def swim(depth: int) -> None:\n\n\n    return None\n"


async def extract(tmp_path: Path, name: str, content: bytes) -> Extracted:
    path = tmp_path / "file"
    path.write_bytes(content)
    return await extraction.extract(path, filename=name, into=tmp_path / "text")


async def read(tmp_path: Path, name: str, content: bytes) -> str:
    await extract(tmp_path, name, content)
    return (tmp_path / "text").read_bytes().decode()


@pytest.mark.parametrize("sample", sample_files.samples(), ids=lambda sample: sample.name)
async def test_text_is_read_from_a_file_of_any_type(sample: Sample, tmp_path: Path) -> None:
    extracted = await extract(tmp_path, sample.name, sample.content)

    text = (tmp_path / "text").read_bytes().decode()
    assert extracted == Extracted(kind=sample.kind, characters=len(text), bytes=len(text.encode()))
    position = 0
    for expected in sample.expected:
        assert expected in text[position:], text
        position = text.index(expected, position) + len(expected)


async def test_source_code_is_kept_letter_by_letter(tmp_path: Path) -> None:
    assert await read(tmp_path, "swim.py", PYTHON_CODE.encode()) == PYTHON_CODE


async def test_a_long_text_is_the_same_as_a_short_one(tmp_path: Path) -> None:
    line = "Žluťoučký kůň.\r\n"
    content = (line * (LONG // len(line))).encode()

    assert await read(tmp_path, "long.txt", content) == content.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("length", [10, LONG])
async def test_characters_that_postgresql_cannot_store_are_left_out(length: int, tmp_path: Path) -> None:
    text = await read(tmp_path, "a.txt", b"one\0two\rthree\r\n" + b"x" * length)

    assert text == "onetwo\nthree\n" + "x" * length


async def test_half_a_character_becomes_the_replacement_character(tmp_path: Path) -> None:
    assert "a\ufffdb" in await read(tmp_path, "a.rtf", rb"{\rtf1\ansi a\u-10179?b}")


async def test_a_character_written_as_two_halves_is_one(tmp_path: Path) -> None:
    assert "a\U0001f419b" in await read(tmp_path, "a.rtf", rb"{\rtf1\ansi a\u-10179?\u-9191?b}")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-32", "Kraken, señor"),
        ("utf-16-le", "人人生而自由,在尊严和权利上一律平等。\n他们赋有理性和良心。"),
        ("utf-16-be", "人人生而自由,在尊严和权利上一律平等。\n他们赋有理性和良心。"),
        ("latin-1", "Le café est très bon."),
        ("latin-1", "Räksmörgås på ön."),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy."),
        ("cp1250", "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi."),
        ("cp1251", "Все люди рождаются свободными и равными."),
        ("koi8-r", "Все люди рождаются свободными и равными в своем достоинстве."),
        ("iso8859-7", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι."),
        ("shift_jis", "すべての人間は、生れながらにして自由であり、平等である。"),
        ("gb18030", "人人生而自由,在尊严和权利上一律平等。"),
        ("big5", "人人生而自由,在尊嚴和權利上一律平等。"),
        ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 동등하다."),
    ],
)
async def test_an_encoding_is_told_by_its_bytes(encoding: str, text: str, tmp_path: Path) -> None:
    assert await read(tmp_path, "a.txt", text.encode(encoding)) == text


async def test_damaged_utf_8_loses_only_what_is_damaged(tmp_path: Path) -> None:
    content = "Größe, señor, naïveté, größer, señora.".encode().replace(b"na", b"n\xff", 1)

    assert await read(tmp_path, "a.txt", content) == "Größe, señor, n\ufffdïveté, größer, señora."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.html",
            "<html><meta http-equiv=Content-Type content='text/html; charset=koi8-r'><p>мир</p>".encode("koi8-r"),
        ),
        ("a.xml", "<?xml version='1.0' encoding='koi8-r'?><p>мир</p>".encode("koi8-r")),
        ("a.html", "<html><meta charset=iso-2022-jp><p>平和</p>".encode("iso-2022-jp")),
    ],
)
async def test_an_encoding_that_is_declared_is_believed(name: str, content: bytes, tmp_path: Path) -> None:
    text = await read(tmp_path, name, content)

    assert "мир" in text or "平和" in text


async def test_a_page_without_a_suffix_is_told_by_its_beginning(tmp_path: Path) -> None:
    assert (await extract(tmp_path, "page", sample_files.html().encode())).kind == "html"


async def test_markup_is_no_part_of_a_pages_text(tmp_path: Path) -> None:
    text = await read(tmp_path, "page.html", sample_files.html().encode())

    assert text.startswith("Sea creatures\n\n# The kraken\n\nKraken lives in the northern sea.\n\n- Größe")
    assert not {"color", "no text", "https", "<", "&"} & set(text.split())


async def test_preformatted_text_and_numbered_lists_keep_their_form(tmp_path: Path) -> None:
    page = "<h2>Dive</h2><ol><li>In</li><li><p>Out</p></li></ol><pre>if deep:\n    breathe()</pre><p>a<br>b</p>"

    text = await read(tmp_path, "page.html", page.encode())

    assert text == "## Dive\n\n1. In\n2. Out\n\nif deep:\n    breathe()\n\na\nb\n\n"


async def test_a_long_paragraph_keeps_its_words_apart(tmp_path: Path) -> None:
    words = "Kraken <i>lives </i>in the\n northern sea " * 10_000

    text = await read(tmp_path, "page.html", f"<p>{words}</p>".encode())

    assert text.split() == ["Kraken", "lives", "in", "the", "northern", "sea"] * 10_000


async def test_a_row_of_a_table_stays_one_line_whatever_is_in_its_cells(tmp_path: Path) -> None:
    page = "<table><tr><td><p>a</p></td><td><div>b<br></div></td></tr><tr><td>c<td>d</table>after"

    assert await read(tmp_path, "page.html", page.encode()) == "a | b\nc | d\n\nafter\n\n"


async def test_a_malformed_header_does_not_cost_the_mail(tmp_path: Path) -> None:
    content = b"Subject: Hello\nFrom: =?x?q?\nTo: <@\nDate: never\nContent-Type: text/plain; charset=nonsense\n\nBody\n"

    text = await read(tmp_path, "a.eml", content)

    assert text.startswith("Subject: Hello\n")
    assert "Body" in text


@pytest.mark.parametrize("length", [10, LONG])
async def test_the_text_is_as_private_as_the_file(length: int, tmp_path: Path) -> None:
    await extract(tmp_path, "a.txt", b"x" * length)

    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o600


async def test_json_on_one_line_is_laid_out(tmp_path: Path) -> None:
    content = json.dumps([{"name": "Größe", "depth": 10**30}] * 40)

    text = await read(tmp_path, "a.json", content.encode())

    assert '    "name": "Größe",\n    "depth": 1000000000000000000000000000000\n' in text


async def test_json_that_reads_well_is_left_alone(tmp_path: Path) -> None:
    content = '{"a": 1.10,\n "a": 2}\n'

    assert await read(tmp_path, "a.json", content.encode()) == content


async def test_a_word_document_gives_headings_lists_and_notes(tmp_path: Path) -> None:
    body = (
        '<w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Deep</w:t></w:r></w:p>'
        '<w:p><w:pPr><w:numPr><w:ilvl w:val="1"/></w:numPr></w:pPr><w:r><w:t>squid</w:t></w:r></w:p>'
        '<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t><w:footnoteReference w:id="2"/></w:r>'
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
    )
    note = '<w:footnote w:id="2"><w:p><w:r><w:t>See below.</w:t></w:r></w:p></w:footnote>'

    text = await read(tmp_path, "a.docx", word(body, footnotes=note))

    assert text == "## Deep\n\n  - squid\n\na\tb[^2]\n\n[^2]: See below.\n\n"


def word(body: str, *, footnotes: str = "") -> bytes:
    names = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    relation = f'<Relationship Id="rId99" Type="{kind}" Target="footnotes.xml"/></Relationships>'
    original = sample_files.word()
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
    return changed(
        original,
        {
            "word/document.xml": f"<w:document {names}><w:body>{body}</w:body></w:document>",
            "word/footnotes.xml": f"<w:footnotes {names}>{footnotes}</w:footnotes>",
            "word/_rels/document.xml.rels": relations.replace("</Relationships>", relation),
        },
    )


async def test_dates_and_numbers_of_a_workbook_read_as_written(tmp_path: Path) -> None:
    text = await read(tmp_path, "a.xlsx", sample_files.workbook([[dt.date(2026, 11, 21), 3.0, 0.25, None, "x\ny"]]))

    assert text == "# Creatures\n\n2026-11-21\t3\t0.25\t\tx y\n\n"


async def test_an_archive_of_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    text = await read(tmp_path, "book.epub", sample_files.by_name("book.epub").content)

    assert text == f"# Chapter one\n\n{FIRST}\n\n{SECOND}\n\n# Chapter two\n\n{THIRD}\n\n"


async def test_the_name_does_not_matter_where_the_bytes_tell(tmp_path: Path) -> None:
    text = await read(tmp_path, "letter.doc", sample_files.rtf())

    assert all(sentence in text for sentence in SENTENCES)


DOCX = sample_files.by_name("report.docx").content
PDF = sample_files.by_name("report.pdf").content


def ole(entry: str) -> bytes:
    """What Office wraps a document in: a header, two sectors of content, the directory."""
    header = bytearray(512)
    header[:8], header[30], header[48] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 9, 2
    return bytes(header) + bytes(2 * 512) + bytes(128) + entry.encode("utf-16-le")


OLE = ole("WordDocument")
OPF = '<package><manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
CIPHER = '<encryption><CipherReference URI="a.xhtml"/></encryption>'


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", b"", InvalidFile, "The file is empty."),
        ("a.txt", b" \n\t\n", InvalidFile, "The file holds no text."),
        ("a.html", b"<script>1</script>", InvalidFile, "The file holds no text."),
        ("a.pdf", sample_files.scan(), InvalidFile, "run text recognition (OCR) on it first."),
        ("a.pdf", sample_files.pdf(SENTENCES, encrypt="secret"), InvalidFile, "The PDF is encrypted; save it without"),
        ("a.pdf", PDF[:300], InvalidFile, "The PDF is damaged and cannot be read; print it to a new PDF."),
        ("a.pdf", b"no PDF at all", InvalidFile, "The file is named .pdf but is not a PDF file"),
        ("a.docx", b"no DOCX at all", InvalidFile, "The file is named .docx but is not a DOCX file"),
        ("a.docx", DOCX[: len(DOCX) // 2], InvalidFile, "The file is damaged: it cannot be unpacked."),
        (
            "a.docx",
            changed(DOCX, {"word/document.xml": "<w:p"}),
            InvalidFile,
            "part 'word/document.xml' cannot be read",
        ),
        ("a.docx", ole("EncryptedPackage"), InvalidFile, "The file is encrypted; save it without"),
        (
            "a.xlsx",
            changed(sample_files.workbook([[1]]), {"xl/workbook.xml": "<x"}),
            InvalidFile,
            "The file is damaged",
        ),
        ("a.eml", b"no mail at all", InvalidFile, "The file is no e-mail"),
        ("a.epub", zipped({"META-INF/container.xml": "<container/>"}), InvalidFile, "names no book"),
        ("a.doc", OLE, UnsupportedFile, "The file is a Word 97-2003 document; save it as DOCX."),
        ("a.xls", OLE, UnsupportedFile, "The file is an Excel 97-2003 workbook; save it as XLSX."),
        ("a.ppt", OLE, UnsupportedFile, "The file is a PowerPoint 97-2003 presentation; save it as PPTX."),
        ("a.odt", zipped({"mimetype": "", "content.xml": ""}), UnsupportedFile, "The file is an OpenDocument file"),
        ("a.zip", zipped({"a.txt": "a"}), UnsupportedFile, "The file is a zip archive; upload the files in it one by"),
        ("a.png", sample_files.image(), UnsupportedFile, "The file is a PNG image, from which no text can be read."),
        ("a.txt", sample_files.image(), UnsupportedFile, "The file is a PNG image, from which no text can be read."),
        ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(99), UnsupportedFile, "The file is an MP4 video"),
        ("a.bin", bytes(range(256)) * 20, UnsupportedFile, "The file is neither text nor a document of a supported"),
    ],
)
async def test_a_file_without_text_says_what_to_do(
    name: str, content: bytes, error: type[ExtractionError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        await extract(tmp_path, name, content)

    assert message in raised.value.message
    assert raised.value.code == error.code


def test_each_failure_has_a_code_of_the_contract() -> None:
    codes = {error.__name__: error.code for error in (UnsupportedFile, InvalidFile, FileTooHeavy, ExtractorFailed)}

    assert codes == {
        "UnsupportedFile": "unsupported_file",
        "InvalidFile": "invalid_file",
        "FileTooHeavy": "invalid_file",
        "ExtractorFailed": "server_error",
    }


async def test_a_pdf_that_only_forbids_printing_is_read(tmp_path: Path) -> None:
    text = await read(tmp_path, "a.pdf", sample_files.pdf(SENTENCES, encrypt=StandardEncryption("", "owner")))

    assert all(sentence in text for sentence in SENTENCES)


async def test_a_protected_book_says_so(tmp_path: Path) -> None:
    container = '<container><rootfile full-path="a.opf"/></container>'
    package = f'{OPF}<spine><itemref idref="a"/></spine></package>'
    book = {"META-INF/container.xml": container, "META-INF/encryption.xml": CIPHER, "a.opf": package, "a.xhtml": "x"}

    with pytest.raises(InvalidFile, match="The book is protected"):
        await extract(tmp_path, "a.epub", zipped({**book}))


async def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    content = bytearray(DOCX)
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory's first entry

    with pytest.raises(InvalidFile, match="The file is encrypted"):
        await extract(tmp_path, "a.docx", bytes(content))


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"Kraken lives in the northern sea.\n" * 1_000_000)

    tracemalloc.start()
    extracted = await extraction.extract(path, filename="a.txt", into=tmp_path / "text")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert extracted.bytes == 34_000_000
    assert peak < 2 * 1024 * 1024
