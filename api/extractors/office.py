"""The text of DOCX and PPTX, in reading order: headings as in Markdown, lists, tables, notes.

Both formats call paragraphs, runs and tables by the same local names.
"""

import posixpath
import re
from collections.abc import Mapping

from api.extractors import xml
from api.extractors.archive import Archive
from api.extractors.text_file import TextFile

MAX_HEADING = 6
HEADING_STYLE = re.compile(r"heading (\d)", re.I)
SKIPPED_SHAPES = frozenset({"sldNum", "dt", "ftr", "hdr", "sldImg"})  # page furniture


class _Paragraph:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.style = ""
        self.outline: int | None = None
        self.list_level: int | None = None


class _Body:
    """Puts paragraphs and tables together; a subclass says what becomes of them."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._paragraphs: list[_Paragraph] = []
        self._rows: list[list[list[str]]] = []  # for each open table: the cells of its row, each the texts in it
        self._alternatives = 0  # a shape drawn a second time, for older programs

    def paragraph(self, paragraph: _Paragraph, text: str) -> None:
        raise NotImplementedError

    def row(self, cells: list[str]) -> None:
        raise NotImplementedError

    def table_ended(self) -> None:
        raise NotImplementedError

    def element(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Called for what is neither text nor table."""
        raise NotImplementedError

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        self._path.append(tag)
        if tag == "Fallback":
            self._alternatives += 1
        if self._alternatives:
            return
        if tag == "p":
            self._paragraphs.append(_Paragraph())
        elif tag == "tbl":
            self._rows.append([])
        elif tag == "tr" and self._rows:
            self._rows[-1] = []
        elif tag == "tc" and self._rows:
            self._rows[-1].append([])
        elif parent in {"r", "p"} and tag in {"tab", "br", "cr", "noBreakHyphen"}:
            self._add({"tab": "\t", "noBreakHyphen": "-"}.get(tag, "\n"))
        else:
            self.element(tag, attributes)

    def end(self, tag: str) -> None:
        self._path.pop()
        if tag == "Fallback":
            self._alternatives -= 1
        if self._alternatives:
            return
        if tag == "p" and self._paragraphs:
            self._end_paragraph(self._paragraphs.pop())
        elif tag == "tr" and self._rows:
            self._end_row([" ".join(cell) for cell in self._rows[-1]])
            self._rows[-1] = []
        elif tag == "tbl" and self._rows:
            self._rows.pop()
            if not self._rows:
                self.table_ended()

    def data(self, text: str) -> None:
        if self._path and self._path[-1] == "t" and not self._alternatives:
            self._add(text)

    def close(self) -> None:
        pass

    def _add(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1].parts.append(text)

    def _end_paragraph(self, paragraph: _Paragraph) -> None:
        text = "".join(paragraph.parts)
        if self._rows and self._rows[-1]:
            self._rows[-1][-1].append(text)
        else:
            self.paragraph(paragraph, text)

    def _end_row(self, cells: list[str]) -> None:
        outer = self._rows[-2] if len(self._rows) > 1 else None
        if outer:
            outer[-1].append(" | ".join(cells))
        else:
            self.row(cells)


class _Word(_Body):
    def __init__(self, out: TextFile, headings: Mapping[str, int], lists: frozenset[str]) -> None:
        super().__init__()
        self._out = out
        self._headings = headings
        self._lists = lists
        self._note = ""
        self._is_tight = False  # the last thing written was an item of a list

    def element(self, tag: str, attributes: Mapping[str, str]) -> None:
        value = attributes.get("val", "")
        if tag in {"footnoteReference", "endnoteReference"}:
            self._add(f"[^{_note(tag, attributes)}]")
        elif tag in {"footnote", "endnote"}:
            self._note = f"[^{_note(tag, attributes)}]: "
        elif not self._paragraphs:
            return
        elif tag == "pStyle":
            self._paragraphs[-1].style = value
        elif tag == "outlineLvl" and value.isdecimal() and int(value) < MAX_HEADING:
            self._paragraphs[-1].outline = int(value)
        elif tag == "ilvl" and value.isdecimal():
            self._paragraphs[-1].list_level = min(int(value), 8)

    def paragraph(self, paragraph: _Paragraph, text: str) -> None:
        text = text.strip()
        if not text:
            return
        level = self._headings.get(paragraph.style)
        if paragraph.outline is not None:
            level = paragraph.outline + 1
        if level:
            self._block("#" * level + " " + " ".join(text.split()))
        elif paragraph.list_level is not None or paragraph.style in self._lists:
            self._out.write("  " * (paragraph.list_level or 0) + f"- {text}\n")
            self._is_tight = True
        else:
            self._block(self._note + text)
            self._note = ""

    def _block(self, text: str) -> None:
        self._end_list()
        self._out.paragraph(text)

    def _end_list(self) -> None:
        if self._is_tight:
            self._out.write("\n")
            self._is_tight = False

    def row(self, cells: list[str]) -> None:
        self._end_list()
        self._out.row(cells)

    def table_ended(self) -> None:
        self._out.write("\n")


def _note(tag: str, attributes: Mapping[str, str]) -> str:
    return ("e" if tag.startswith("endnote") else "") + attributes.get("id", "")


def extract_docx(archive: Archive, out: TextFile) -> None:
    main = _target(_relations(archive, ""), "officeDocument") or "word/document.xml"
    relations = _relations(archive, main)
    styles = _target(relations, "styles")
    headings, lists = _styles(archive, styles) if styles in archive.names else ({}, frozenset[str]())
    body = _Word(out, headings, lists)
    for name in (main, _target(relations, "footnotes"), _target(relations, "endnotes")):
        if name and (name == main or name in archive.names):
            with archive.open(name) as part:
                xml.parse(part, body, name=name)


def _styles(archive: Archive, name: str) -> tuple[dict[str, int], frozenset[str]]:
    """Which paragraph styles are headings, of which level, and which are lists."""
    headings: dict[str, int] = {}
    lists: set[str] = set()
    style = ""
    for tag, attributes in xml.elements(archive, name):
        value = attributes.get("val", "")
        if tag == "style":
            style = attributes.get("styleId", "")
        elif tag == "name" and (heading := HEADING_STYLE.fullmatch(value)):
            headings[style] = min(max(int(heading[1]), 1), MAX_HEADING)
        elif tag == "name" and value == "Title":
            headings[style] = 1
        elif tag == "name" and value.lower().startswith(("list bullet", "list number")):
            lists.add(style)
        elif tag == "outlineLvl" and value.isdecimal() and int(value) < MAX_HEADING:
            headings.setdefault(style, int(value) + 1)
    return headings, frozenset(lists)


class _Slide(_Body):
    """Gathers a slide, since its title need not come first."""

    def __init__(self) -> None:
        super().__init__()
        self.title: list[str] = []
        self.lines: list[str] = []
        self._shape = ""

    def element(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in {"sp", "graphicFrame"}:
            self._shape = ""
        elif tag == "ph":
            self._shape = attributes.get("type", "body")

    def paragraph(self, paragraph: _Paragraph, text: str) -> None:
        text = text.strip()
        if not text or self._shape in SKIPPED_SHAPES:
            return
        if self._shape in {"title", "ctrTitle"}:
            self.title.append(" ".join(text.split()))
        else:
            self.lines.append(text)

    def row(self, cells: list[str]) -> None:
        self.lines.append(" | ".join(" ".join(cell.split()) for cell in cells))

    def table_ended(self) -> None:
        pass


def extract_pptx(archive: Archive, out: TextFile) -> None:
    main = _target(_relations(archive, ""), "officeDocument") or "ppt/presentation.xml"
    relations = _relations(archive, main)
    shown = [attributes.get("id", "") for tag, attributes in xml.elements(archive, main) if tag == "sldId"]
    for number, relation in enumerate(shown, start=1):
        name = relations.get(relation, ("", ""))[1]
        slide = _slide(archive, name)
        out.paragraph(f"# {' '.join(slide.title) or f'Slide {number}'}")
        out.paragraph("\n".join(slide.lines))
        parts = _relations(archive, name)
        if notes := _target(parts, "notesSlide"):
            lines = _slide(archive, notes).lines
            out.paragraph("Notes: " + "\n".join(lines) if lines else "")


def _slide(archive: Archive, name: str) -> _Slide:
    slide = _Slide()
    with archive.open(name) as part:
        xml.parse(part, slide, name=name)
    return slide


def _relations(archive: Archive, name: str) -> dict[str, tuple[str, str]]:
    """What a part refers to, by id: the last word of the relation's type, and the part's name."""
    directory, base = posixpath.split(name)
    path = posixpath.join(directory, "_rels", f"{base}.rels")
    if path not in archive.names:
        return {}
    relations: dict[str, tuple[str, str]] = {}
    for tag, attributes in xml.elements(archive, path):
        if tag == "Relationship" and attributes.get("TargetMode") != "External":
            target = posixpath.normpath(posixpath.join("/", directory, attributes.get("Target", "")))
            kind = attributes.get("Type", "").rpartition("/")[2]
            relations[attributes.get("Id", "")] = (kind, target.lstrip("/"))
    return relations


def _target(relations: Mapping[str, tuple[str, str]], kind: str) -> str:
    return next((name for found, name in relations.values() if found == kind), "")
