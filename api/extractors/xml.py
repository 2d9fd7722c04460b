"""XML as a stream of tags and text, from which no tree is built: memory does not grow with the document.

Entities stay unresolved, nothing is fetched, and libxml2's own limits on depth and lengths hold.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import IO, Protocol, cast

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # it has no types

from api.extractors.archive import Archive
from api.extractors.errors import ExtractionError, FileTooHeavy, InvalidFile

PIECE_BYTES = 64 * 1024


class Target(Protocol):
    """What is told of a document, in its order; tags come without their namespace."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None: ...
    def end(self, tag: str) -> None: ...
    def data(self, text: str) -> None: ...
    def close(self) -> None: ...


class Parser(Protocol):
    def feed(self, data: bytes) -> None: ...
    def close(self) -> None: ...


def html_parser(target: Target) -> Parser:
    """A parser of HTML in UTF-8, which takes anything: libxml2 mends what is broken."""
    make = cast("Callable[..., Parser]", etree.HTMLParser)  # pyright: ignore[reportUnknownMemberType]
    return make(target=target, encoding="utf-8", no_network=True, huge_tree=False)


def _xml_parser(target: Target) -> Parser:
    make = cast("Callable[..., Parser]", etree.XMLParser)  # pyright: ignore[reportUnknownMemberType]
    return make(target=target, resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


class _WithoutNamespaces:
    """Between the parser and a target. Tags and attributes are told by their local names."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._target.start(_local(tag), {_local(name): value for name, value in attributes.items()})

    def end(self, tag: str) -> None:
        self._target.end(_local(tag))

    def data(self, text: str) -> None:
        self._target.data(text)

    def close(self) -> None:
        self._target.close()


def parse(stream: IO[bytes], target: Target, *, name: str) -> None:
    """Tell the target all of a part of a document called `name`.

    Raises:
        InvalidFile: it is no XML.
        FileTooHeavy: it goes beyond the parser's limits.
    """
    parser = _xml_parser(_WithoutNamespaces(target))
    try:
        while data := stream.read(PIECE_BYTES):
            parser.feed(data)
        parser.close()
    except SyntaxError as error:  # lxml's own is one
        raise refusal(name, error) from error


def refusal(name: str, error: SyntaxError) -> ExtractionError:
    """What a parser's complaint about a part called `name` means."""
    detail = str(error)
    if "XML_PARSE_HUGE" in detail or "amplification" in detail:
        return FileTooHeavy(f"The part {name!r} of the file is nested or repeated beyond what is read.", detail=detail)
    return InvalidFile(f"The file is damaged: its part {name!r} cannot be read.", detail=detail)


class _Elements:
    def __init__(self) -> None:
        self.found: list[tuple[str, Mapping[str, str]]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.found.append((tag, attributes))

    def end(self, tag: str) -> None:
        pass

    def data(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def elements(archive: Archive, name: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Every element's tag and attributes, in order: all there is to most of the small parts of a document."""
    target = _Elements()
    with archive.open(name) as part:
        parse(part, target, name=name)
    return iter(target.found)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
