"""multipart/form-data as it arrives: one part after the other, without holding any of them."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import InvalidRequest


@dataclass(frozen=True)
class Part:
    name: str
    filename: str | None  # as it was sent; None for a field that is no file
    content: AsyncIterator[bytes]


@dataclass(frozen=True)
class _Head:
    name: str
    filename: str | None


# What a form consists of: the head of a part, bytes of its content, and None at its end.
_Event = _Head | bytes | None


async def parts(content_type: str, body: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """The parts of a form in the order they were sent; what is left unread of one is skipped.

    Raises:
        InvalidRequest: it is no form, or it ends early.
    """
    events = _events(content_type, body)
    async for event in events:
        if isinstance(event, _Head):
            yield Part(event.name, event.filename, _content(events))


async def _content(events: AsyncIterator[_Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if not isinstance(event, bytes):
            return
        yield event


async def _events(content_type: str, body: AsyncIterator[bytes]) -> AsyncGenerator[_Event]:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequest(
            "The request body must be a form, sent as Content-Type: multipart/form-data with its boundary.",
            code="invalid_content_type",
        )
    try:
        parser = _Parser(boundary)
        async for data in body:
            for event in parser.feed(data):
                yield event
    except FormParserError as error:
        raise InvalidRequest("The request body is not valid multipart/form-data.", code="invalid_form") from error
    if not parser.is_complete:
        raise InvalidRequest("The form ends before its last boundary; send it again, whole.", code="invalid_form")


class _Parser:
    """The parser's calls, gathered into events."""

    def __init__(self, boundary: bytes) -> None:
        self.is_complete = False
        self._events: list[_Event] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_name,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> list[_Event]:
        self._parser.write(data)
        events, self._events = self._events, []
        return events

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise FormParserError("a part has no name")
        filename = options.get(b"filename")
        self._events.append(_Head(_decode(options[b"name"]), None if filename is None else _decode(filename)))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _end_part(self) -> None:
        self._events.append(None)

    def _end(self) -> None:
        self.is_complete = True


def _decode(name: bytes) -> str:
    """Every client of today sends UTF-8; what is not is what it was before."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
