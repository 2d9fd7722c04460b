"""Which extractor reads a file: told by its first bytes, and by its name where bytes cannot tell."""

import os
from typing import BinaryIO, Literal, NamedTuple

from api.extractors.errors import InvalidFile, UnsupportedFile

Kind = Literal["text", "markdown", "html", "code"]  # how the text is to be cut into chunks
Format = Literal["plain", "json", "html", "pdf", "zip", "rtf", "email"]

HEAD_BYTES = 4096
PDF_HEAD_BYTES = 1024  # a PDF may begin with other bytes, this many by its readers' custom

MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mdx", ".qmd", ".rmd"})
HTML = frozenset({".html", ".htm", ".xhtml", ".xht"})
EMAIL = frozenset({".eml", ".mht", ".mhtml"})
JSON = frozenset({".json", ".geojson", ".ipynb", ".jsonld", ".webmanifest"})
_CODE = """
    .c .h .cc .cpp .cxx .hh .hpp .hxx .cs .css .scss .sass .less .go .java .js .mjs .cjs .jsx .ts .mts .cts .tsx
    .vue .svelte .php .py .pyi .pyx .rb .rs .kt .kts .swift .scala .clj .ex .exs .erl .hs .ml .mli .fs .lua .pl
    .pm .r .jl .dart .groovy .gradle .m .mm .sh .bash .zsh .fish .ps1 .bat .cmd .sql .graphql .proto .tex .bib
    .xml .xsd .xsl .svg .yaml .yml .toml .ini .cfg .conf .properties .env .tf .hcl .cmake .mk .diff .patch .vb
    .asm .s .zig .nim .sol
"""
CODE = frozenset(_CODE.split())
# These are containers that only their extractor reads; text under such a name is not what the name promises.
CONTAINERS = {
    ".pdf": "PDF",
    ".docx": "DOCX",
    ".pptx": "PPTX",
    ".xlsx": "XLSX",
    ".epub": "EPUB",
    ".rtf": "RTF",
}
UNREADABLE = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"8BPS", "a Photoshop image"),
    (b"\0\0\x01\0", "an icon"),
    (b"ID3", "an MP3 recording"),
    (b"\xff\xfb", "an MP3 recording"),
    (b"fLaC", "a FLAC recording"),
    (b"OggS", "an Ogg recording"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"FLV\x01", "a Flash video"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"(\xb5/\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\0", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\0asm", "a WebAssembly module"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
)
RIFF = {b"WEBP": "a WebP image", b"WAVE": "a WAVE recording", b"AVI ": "an AVI video"}
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # what Office wrote before 2007, and wraps an encrypted document in since
LEGACY = {
    ".doc": "a Word 97-2003 document; save it as DOCX",
    ".xls": "an Excel 97-2003 workbook; save it as XLSX",
    ".ppt": "a PowerPoint 97-2003 presentation; save it as PPTX",
    ".msg": "an Outlook message; save it as EML",
}


class Detected(NamedTuple):
    format: Format
    kind: Kind


def detect(stream: BinaryIO, filename: str) -> Detected:
    """Tell the format; the stream is put back to its beginning.

    Raises:
        InvalidFile: it is empty, encrypted, or not what its name says.
        UnsupportedFile: no extractor reads it.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not head:
        raise InvalidFile("The file is empty.")
    suffix = os.path.splitext(filename)[1].lower()
    if b"%PDF-" in head[:PDF_HEAD_BYTES] and (suffix == ".pdf" or head.lstrip().startswith(b"%PDF-")):
        return Detected("pdf", "text")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Detected("zip", "markdown")
    if head.startswith(b"{\\rtf"):
        return Detected("rtf", "text")
    if head.startswith(OLE):
        _refuse_ole(stream, suffix)
    _refuse_unreadable(head)
    if suffix in CONTAINERS:
        raise InvalidFile(f"The file is named {suffix} but is not a {CONTAINERS[suffix]} file, or is damaged.")
    return _text(head, suffix)


def _text(head: bytes, suffix: str) -> Detected:
    if suffix in HTML or (not _is_named_text(suffix) and _begins_as_html(head)):
        return Detected("html", "html")
    if suffix in EMAIL:
        return Detected("email", "text")
    if suffix in JSON:
        return Detected("json", "code")
    if suffix in MARKDOWN:
        return Detected("plain", "markdown")
    return Detected("plain", "code" if suffix in CODE else "text")


def _is_named_text(suffix: str) -> bool:
    return suffix in CODE or suffix in MARKDOWN or suffix in JSON or suffix in EMAIL or suffix == ".txt"


def _begins_as_html(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    return start.startswith((b"<!doctype html", b"<html"))


def _refuse_ole(stream: BinaryIO, suffix: str) -> None:
    # An encrypted document is an entry of the directory, of which the header tells the sector and the sectors' size.
    header = stream.read(512)
    sector, shift = int.from_bytes(header[48:52], "little"), int.from_bytes(header[30:32], "little")
    stream.seek((sector + 1) << min(shift, 12))
    if "EncryptedPackage".encode("utf-16-le") in stream.read(HEAD_BYTES):
        raise InvalidFile("The file is encrypted; save it without a password.")
    raise UnsupportedFile(
        f"The file is {LEGACY.get(suffix, 'of an old Office format; save it as DOCX, PPTX or XLSX')}."
    )


def _refuse_unreadable(head: bytes) -> None:
    for magic, name in UNREADABLE:
        if head.startswith(magic) and not _is_plain(head):
            raise UnsupportedFile(f"The file is {name}, from which no text can be read.")
    if head.startswith(b"RIFF") and head[8:12] in RIFF:
        raise UnsupportedFile(f"The file is {RIFF[head[8:12]]}, from which no text can be read.")
    if head[4:8] == b"ftyp":
        raise UnsupportedFile("The file is an MP4 video or a HEIC image, from which no text can be read.")
    if head[257:262] == b"ustar":
        raise UnsupportedFile("The file is a tar archive; upload the files in it one by one.")


def _is_plain(head: bytes) -> bool:
    """Letters can begin a text as well as a format: BM, ID3."""
    return head.isascii() and b"\0" not in head
