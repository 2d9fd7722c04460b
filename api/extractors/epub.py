"""The text of EPUB: its chapters in the order of the spine."""

import posixpath
import re
from urllib.parse import unquote

from api.extractors import html, xml
from api.extractors.archive import Archive
from api.extractors.errors import InvalidFile
from api.extractors.text_file import TextFile

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
PAGE_TYPES = frozenset({"application/xhtml+xml", "text/html"})
# XHTML may close any element within its tag; for an HTML parser, that opens it.
SELF_CLOSED = re.compile(
    r"<(?!area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)([A-Za-z][\w:-]*)([^<>]*)/>"
)


def extract(archive: Archive, out: TextFile, *, max_page_bytes: int) -> None:
    package = _package(archive)
    encrypted = _encrypted(archive)
    for name in _spine(archive, package):
        if name in encrypted:
            raise InvalidFile("The book is protected (DRM); only its publisher can give you one that is not.")
        page = html.decode(archive.read(name, max_bytes=max_page_bytes))
        html.write([SELF_CLOSED.sub(r"<\1\2></\1>", page)], out)


def _package(archive: Archive) -> str:
    for tag, attributes in xml.elements(archive, CONTAINER):
        if tag == "rootfile" and (path := attributes.get("full-path")):
            return path
    raise InvalidFile(f"The file is damaged: its part {CONTAINER!r} names no book.")


def _spine(archive: Archive, package: str) -> list[str]:
    """The names of the parts that are pages, in reading order, without the table of contents."""
    directory = posixpath.dirname(package)
    pages: dict[str, str] = {}
    order: list[str] = []
    for tag, attributes in xml.elements(archive, package):
        is_contents = "nav" in attributes.get("properties", "").split()
        if tag == "item" and attributes.get("media-type") in PAGE_TYPES and not is_contents:
            path = posixpath.normpath(posixpath.join(directory, unquote(attributes.get("href", ""))))
            pages[attributes.get("id", "")] = path
        elif tag == "itemref":
            order.append(attributes.get("idref", ""))
    return [pages[item] for item in dict.fromkeys(order) if item in pages]


def _encrypted(archive: Archive) -> frozenset[str]:
    if ENCRYPTION not in archive.names:
        return frozenset()
    found = xml.elements(archive, ENCRYPTION)
    return frozenset(unquote(attributes.get("URI", "")) for tag, attributes in found if tag == "CipherReference")
