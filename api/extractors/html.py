"""HTML as text: headings as in Markdown, a line for each row of a table and item of a list, no scripts or styles."""

import io
import re
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from api.extractors import encodings, xml
from api.extractors.encodings import pieces
from api.extractors.text_file import TextFile

DECLARATION_BYTES = 4096
DECLARED = re.compile(rb"""(?:<meta[^>]{0,500}charset|<\?xml[^>]{0,200}encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.I)

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
SKIPPED = frozenset({"script", "style", "template", "svg", "iframe", "object", "noscript", "select", "math"})
# These end the line wherever they are; those of CELL_BLOCKS only outside of a table's cells.
_BLOCKS = """
    address article aside blockquote body caption dd details dialog dl dt fieldset figcaption figure footer form
    header hr legend main nav ol option pre section summary table tbody tfoot thead ul
"""
BLOCKS = frozenset(_BLOCKS.split())
CELL_BLOCKS = frozenset({"div", "p", "center"})
SPACES = re.compile(r"[ \t\n\r\f]+")
SPACE = re.compile(" +")
AROUND_BREAK = re.compile(" ?\n ?")
LONG_BLOCK = 64 * 1024  # characters; a longer block is written in parts


class HtmlText:
    """Told of tags and text by lxml's parser, which builds no tree."""

    def __init__(self, out: TextFile, *, with_title: bool) -> None:
        self._out = out
        self._with_title = with_title
        self._parts: list[str] = []
        self._length = 0
        self._prefix = ""
        self._is_tight = False  # the last thing written was a row or an item, not a paragraph
        self._skipped = 0
        self._preformatted = 0
        self._cells: list[bool] = []  # for each open table: inside of a cell?
        self._lists: list[int | None] = []  # for each open list: its last number, or none
        self._title: list[str] | None = None

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in SKIPPED:
            self._skipped += 1
        if self._skipped:
            return
        if tag in HEADINGS:
            self._flush()
            self._prefix = "#" * int(tag[1]) + " "
        elif tag == "title":
            self._title = []
        elif tag == "br":
            self._add("\n")
        elif tag == "img":
            self.data(f" {attributes.get('alt') or ''} ")
        elif tag == "li":
            self._start_item()
        elif tag in {"td", "th"}:
            self._start_cell()
        else:
            self._start_block(tag)

    def end(self, tag: str) -> None:
        if tag in SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        elif self._skipped:
            return
        elif tag == "title" and self._title is not None:
            self._out.paragraph(SPACES.sub(" ", "".join(self._title)) if self._with_title else "")
            self._title = None
        elif tag in HEADINGS:
            self._flush()
            self._prefix = ""
        elif tag in {"li", "tr"}:
            self._flush(tight=True)
            self._prefix = ""
        elif tag in {"td", "th"} and self._cells:
            self._cells[-1] = False
        else:
            self._end_block(tag)

    def data(self, text: str) -> None:
        if self._skipped:
            return
        if self._title is not None:
            self._title.append(text)
        else:
            self._add(text if self._preformatted else SPACES.sub(" ", text))

    def close(self) -> None:
        self._flush()

    def _start_item(self) -> None:
        self._flush(tight=bool(self._lists))
        self._prefix = "- "
        if self._lists and (number := self._lists[-1]) is not None:
            self._lists[-1] = number + 1
            self._prefix = f"{number + 1}. "

    def _start_cell(self) -> None:
        if self._cells:
            self._cells[-1] = True
        if any(not part.isspace() for part in self._parts):
            self._add(" | ")

    def _start_block(self, tag: str) -> None:
        if tag == "tr":
            self._flush(tight=True)
        elif tag in CELL_BLOCKS:
            self._end_line()
        elif tag in BLOCKS:
            self._flush()
        if tag == "table":
            self._cells.append(False)
        elif tag in {"ul", "ol"}:
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "pre":
            self._preformatted += 1

    def _end_block(self, tag: str) -> None:
        if tag in CELL_BLOCKS:
            self._end_line()
        elif tag in BLOCKS:
            self._flush()
        if tag == "table" and self._cells:
            self._cells.pop()
        elif tag in {"ul", "ol"} and self._lists:
            self._lists.pop()
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)

    def _end_line(self) -> None:
        if self._cells and self._cells[-1]:
            self._add(" ")
        else:
            self._flush(tight=bool(self._lists))

    def _add(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
        if self._length > LONG_BLOCK:
            self._out.write(self._prefix + self._take())
            self._prefix = ""

    def _flush(self, *, tight: bool = False) -> None:
        text = self._take()
        text = text.strip("\n").rstrip() if self._preformatted else text.strip()
        if not text:
            return
        if self._is_tight and not tight:
            self._out.write("\n")
        self._out.write(f"{self._prefix}{text}\n" if tight else f"{self._prefix}{text}\n\n")
        self._prefix = ""
        self._is_tight = tight

    def _take(self) -> str:
        text = "".join(self._parts)
        self._parts.clear()
        self._length = 0
        return text if self._preformatted else AROUND_BREAK.sub("\n", SPACE.sub(" ", text))


def extract(stream: BinaryIO, out: TextFile) -> None:
    head = stream.read(DECLARATION_BYTES)
    stream.seek(0)
    declared = DECLARED.search(head)
    write(pieces(stream, declared=declared[1].decode("ascii", "replace") if declared else None), out, with_title=True)


def write(pieces_of_html: Iterable[str], out: TextFile, *, with_title: bool = False) -> None:
    """Write the text of a page that comes in pieces."""
    parser = xml.html_parser(HtmlText(out, with_title=with_title))
    is_empty = True
    for piece in pieces_of_html:
        if data := piece.encode("utf-8", "replace"):
            parser.feed(data)
            is_empty = False
    if not is_empty:
        parser.close()


def decode(data: bytes) -> str:
    """A page that is held whole."""
    return "".join(encodings.pieces(io.BytesIO(data)))
