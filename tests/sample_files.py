"""Real files of every supported type, made by the libraries that people use, and what is to be read there."""

# The makers of documents bring no types, or types full of gaps.
# pyright: reportUnknownMemberType=false, reportMissingTypeArgument=false, reportUnknownVariableType=false

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cache
from typing import Any

import docx
import openpyxl
import pptx
import xlsxwriter
from ebooklib import epub
from PIL import Image
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from api.extraction import Kind

FIRST = "Kraken lives in the northern sea."
SECOND = "Größe, señor, naïveté: accents stay."
THIRD = "The last sentence ends the file."
SENTENCES = (FIRST, SECOND, THIRD)
CREATURES: list[list[list[object]]] = [[["Octopus", 8], [FIRST], [2.5, True]], [[], [None, SECOND], [THIRD]]]
# The contract's types, then some neighbours.
SOURCES = ".c .cpp .cs .css .go .java .js .php .py .rb .sh .tex .ts"
NEIGHBOURS = ".rs .kt .swift .yaml .toml .sql .xml .tsx .h"
PLAIN = "\n\n".join(SENTENCES) + "\n"


@dataclass(frozen=True)
class Sample:
    """A file, how its text is to be cut, and what the text contains, in this order."""

    name: str
    content: bytes
    kind: Kind
    expected: tuple[str, ...] = SENTENCES


@cache
def samples() -> tuple[Sample, ...]:
    """At least one file of each supported type, all with text of their own."""
    return (*_texts(), *_sources(), *_data(), *_pages(), *_documents(), *_tables())


def by_name(name: str) -> Sample:
    return next(sample for sample in samples() if sample.name == name)


def _texts() -> tuple[Sample, ...]:
    markdown = f"# Sea creatures\n\n{FIRST}\n\n- {SECOND}\n\n{THIRD}\n"
    return (
        Sample("utf-8.txt", PLAIN.encode(), "text"),
        Sample("utf-8-bom.txt", PLAIN.encode("utf-8-sig"), "text"),
        Sample("windows-lines.txt", PLAIN.replace("\n", "\r\n").encode(), "text", ("\n\n".join(SENTENCES),)),
        Sample("utf-16-bom.txt", PLAIN.encode("utf-16"), "text"),
        Sample("utf-16-le.txt", PLAIN.encode("utf-16-le"), "text"),
        Sample("utf-16-be.txt", PLAIN.encode("utf-16-be"), "text"),
        Sample("latin-1.txt", PLAIN.encode("latin-1"), "text"),
        Sample("cp1252.txt", f"“{PLAIN}”".encode("cp1252"), "text", ("“" + FIRST, SECOND, THIRD, "”")),
        Sample("no-suffix", PLAIN.encode(), "text"),
        Sample("notes.md", markdown.encode(), "markdown", ("# Sea creatures", *SENTENCES)),
    )


def _sources() -> tuple[Sample, ...]:
    """Here the text is the file, letter by letter."""
    line = {".py": "#", ".rb": "#", ".sh": "#", ".yaml": "#", ".toml": "#", ".tex": "%", ".sql": "--"}
    block = {".css": ("/*", "*/"), ".xml": ("<!--", "-->")}
    made: list[Sample] = []
    for suffix in f"{SOURCES} {NEIGHBOURS}".split():
        begin, end = block.get(suffix, (line.get(suffix, "//"), ""))
        text = "".join(f"{begin} {sentence} {end}\n" for sentence in SENTENCES)
        made.append(Sample(f"source{suffix}", text.encode(), "code", (text,)))
    return tuple(made)


def _data() -> tuple[Sample, ...]:
    records = [{"text": sentence, "number": number} for number, sentence in enumerate(SENTENCES)]
    csv = "".join(f'{number},"{sentence}"\n' for number, sentence in enumerate(SENTENCES))
    lines = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    return (
        Sample("minified.json", json.dumps(records, separators=(",", ":")).encode(), "code"),
        Sample("broken.json", f'{{"text": "{PLAIN}'.encode(), "code"),
        Sample("records.jsonl", lines.encode(), "text"),
        Sample("table.csv", csv.encode(), "text"),
        Sample("table.tsv", csv.replace(",", "\t", 1).encode(), "text"),
    )


def _pages() -> tuple[Sample, ...]:
    expected = ("Sea creatures", "# The kraken", FIRST, SECOND, "Name | Legs", "Octopus | 8", THIRD)
    return (
        Sample("page.html", html().encode(), "html", expected),
        Sample("page-latin-1.html", html("iso-8859-1").encode("latin-1"), "html", expected),
        Sample("message.eml", eml(), "text", ("Subject: Sighting at Ålesund", "From: Ada", FIRST, THIRD, "sea.png")),
        Sample("html-message.eml", eml(with_html=True), "text", ("Subject: Sighting", "# The kraken", *SENTENCES)),
        Sample("book.epub", book(), "markdown", ("# Chapter one", FIRST, SECOND, "# Chapter two", THIRD)),
    )


def _documents() -> tuple[Sample, ...]:
    return (
        Sample("report.pdf", pdf(SENTENCES), "text"),
        Sample("report.docx", word(), "markdown", ("# Sea creatures", FIRST, "- " + SECOND, "Octopus | 8", THIRD)),
        Sample(
            "talk.pptx",
            slides(),
            "markdown",
            ("# Sea creatures", FIRST, SECOND, "Notes: Speak slowly.", "Octopus | 8", THIRD),
        ),
        Sample("letter.rtf", rtf(), "text"),
    )


def _tables() -> tuple[Sample, ...]:
    expected = ("# Creatures", "Octopus\t8", FIRST, "2.5\tTRUE", "# More", SECOND, THIRD)
    return (
        Sample("openpyxl.xlsx", workbook(*CREATURES), "markdown", expected),
        Sample("xlsxwriter.xlsx", written_workbook(), "markdown", ("# Creatures", "Octopus\t8", *SENTENCES)),
    )


def html(charset: str = "utf-8") -> str:
    return f"""<!DOCTYPE html><html><head><meta charset="{charset}"><title>Sea creatures</title>
    <style>p {{ color: red }}</style><script>if (1 < 2) document.write("no text")</script></head>
    <body><h1>The kraken</h1><p>{FIRST.replace("northern", "<b>northern</b>")}</p><ul><li>{SECOND}</li></ul>
    <table><tr><th>Name</th><th>Legs</th></tr><tr><td>Octopus</td><td>8</td></tr></table>
    <p>The <a href="https://example.org/hidden">last&nbsp;sentence</a> ends the file.</p></body></html>""".replace(
        "&nbsp;", " "
    )


def eml(*, with_html: bool = False) -> bytes:
    message = EmailMessage()
    message["Subject"] = "Sighting at Ålesund"
    message["From"] = "Ada <ada@example.org>"
    message["To"] = "Ben <ben@example.org>"
    message["Date"] = "Sat, 21 Nov 2026 09:00:00 +0000"
    message.set_content(html() if with_html else PLAIN, subtype="html" if with_html else "plain")
    message.add_attachment(image(), maintype="image", subtype="png", filename="sea.png")
    return bytes(message)


def book() -> bytes:
    made = epub.EpubBook()
    made.set_title("Sea creatures")
    one = epub.EpubHtml(title="One", file_name="one.xhtml")
    one.content = f"<html><body><h1>Chapter one</h1><p>{FIRST}</p><a id='x'/><p>{SECOND}</p></body></html>"
    two = epub.EpubHtml(title="Two", file_name="two.xhtml")
    two.content = f"<html><body><h1>Chapter two</h1><p>{THIRD}</p></body></html>"
    for item in (two, one, epub.EpubNcx(), epub.EpubNav()):
        made.add_item(item)
    made.spine = ["nav", one, two]
    return _saved(lambda file: epub.write_epub(file, made))


def pdf(pages: tuple[str, ...], *, encrypt: str | StandardEncryption | None = None) -> bytes:
    def draw(file: io.BytesIO) -> None:
        canvas = Canvas(file, pagesize=A4, encrypt=encrypt)
        for text in pages:
            canvas.drawString(72, 720, text)
            canvas.showPage()
        canvas.save()

    return _saved(draw)


def scan() -> bytes:
    """A PDF of one picture, as a scanner makes it."""

    def draw(file: io.BytesIO) -> None:
        Image.new("RGB", (200, 200), "gray").save(file, "PDF")

    return _saved(draw)


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Sea creatures", level=1)
    document.add_paragraph(FIRST)
    document.add_paragraph(SECOND, style="List Bullet")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Octopus", "8"
    document.add_paragraph(THIRD)
    return _saved(document.save)


def slides() -> bytes:
    show: Any = pptx.Presentation()
    first = show.slides.add_slide(show.slide_layouts[1])
    first.shapes.title.text = "Sea creatures"
    first.placeholders[1].text = f"{FIRST}\n{SECOND}"
    first.notes_slide.notes_text_frame.text = "Speak slowly."
    second = show.slides.add_slide(show.slide_layouts[5])
    second.shapes.title.text = "Legs"
    table = second.shapes.add_table(1, 2, 0, 0, 5_000_000, 1_000_000).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Octopus", "8"
    second.shapes.add_textbox(0, 0, 5_000_000, 1_000_000).text_frame.text = THIRD
    return _saved(show.save)


def rtf() -> bytes:
    """RTF as word processors write it: code page escapes, Unicode escapes, tables of fonts and colours."""
    hexed = "".join(character if character.isascii() else f"\\'{ord(character):02x}" for character in SECOND)
    return (
        r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fswiss Helvetica;}}{\colortbl;\red255\green0\blue0;}"
        rf"\f0\fs24 {FIRST}\par \b {hexed}\b0\par \u8220?{THIRD}\u8221?\par}}"
    ).encode("ascii")


def workbook(*sheets: list[list[object]]) -> bytes:
    """One sheet called Creatures, and others called More."""
    book = openpyxl.Workbook(write_only=True)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet("More" if number else "Creatures")
        for row in rows:
            sheet.append(row)
    return _saved(book.save)


def written_workbook() -> bytes:
    file = io.BytesIO()
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet("Creatures")
        sheet.write_row(0, 0, ["Octopus", 8])
        sheet.write_column(1, 0, SENTENCES)
    return file.getvalue()


def image() -> bytes:
    return _saved(lambda file: Image.new("RGB", (8, 8), "navy").save(file, "PNG"))


def zipped(parts: dict[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def changed(content: bytes, parts: dict[str, str | bytes]) -> bytes:
    """A document with some of its parts replaced."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped({**{name: archive.read(name) for name in archive.namelist()}, **parts})


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()
