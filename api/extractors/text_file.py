"""The text on its way to disk: UTF-8, lines that end in a line feed, nothing that PostgreSQL cannot store."""

import os
from collections.abc import Iterable
from types import TracebackType

from api.extractors.errors import FileTooHeavy
from api.extractors.limits import MIB

WRITE_BYTES = 256 * 1024


class TextFile:
    """Written piece by piece, and never longer than `max_bytes`."""

    def __init__(self, path: str, *, max_bytes: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # as private as the file itself
        self._file = os.fdopen(descriptor, "wb", buffering=WRITE_BYTES)
        self._max_bytes = max_bytes
        self._ends_in_return = False
        self.is_blank = True
        self.characters = 0
        self.bytes = 0

    def __enter__(self) -> "TextFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, text: str) -> None:
        """Add text as it is.

        Raises:
            FileTooHeavy: the text would be longer than `max_bytes`.
        """
        text = self._clean(text)
        if not text:
            return
        data = _encode(text)
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            raise FileTooHeavy(
                f"The file holds more than {size(self._max_bytes)} of text; split it into smaller files."
            )
        self.characters += len(text)
        self.is_blank = self.is_blank and text.isspace()
        self._file.write(data)

    def paragraph(self, text: str) -> None:
        """Add a paragraph of its own; a blank one is left out."""
        text = text.strip()
        if text:
            self.write(f"{text}\n\n")

    def row(self, cells: Iterable[str]) -> None:
        """Add a table's row as one line; a blank one is left out."""
        line = " | ".join(" ".join(cell.split()) for cell in cells)
        if line.strip(" |"):
            self.write(f"{line}\n")

    def _clean(self, text: str) -> str:
        if "\0" in text:
            text = text.replace("\0", "")
        if self._ends_in_return and text:
            # The last piece's return has been written as a line feed.
            text = text.removeprefix("\n")
            self._ends_in_return = False
        if "\r" in text:
            self._ends_in_return = text.endswith("\r")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Halves that belong together become the character they stand for, lone ones U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def size(count: int) -> str:
    return f"{count // MIB} MiB" if count >= MIB else f"{count} bytes"
