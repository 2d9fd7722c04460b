"""A zip archive that is opened only if all of it, unpacked, stays under the limit; its parts are read as streams."""

import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, BinaryIO, Final, Literal

from api.extractors.errors import FileTooHeavy, InvalidFile, UnsupportedFile
from api.extractors.text_file import size

DAMAGED = "The file is damaged: it cannot be unpacked."
ENCRYPTED_FLAG = 0x1

Document = Literal["docx", "pptx", "xlsx", "epub"]
DIRECTORIES: Final[dict[str, Document]] = {"word/": "docx", "ppt/": "pptx", "xl/": "xlsx"}


class Archive:
    """A part gives at most the bytes that its entry declares (zipfile sees to that), and the entries are summed up."""

    def __init__(self, stream: BinaryIO, *, max_unpacked_bytes: int) -> None:
        with _damage_named():
            self._zip = zipfile.ZipFile(stream)
        entries = self._zip.infolist()
        if any(entry.flag_bits & ENCRYPTED_FLAG for entry in entries):
            raise InvalidFile("The file is encrypted; save it without a password.")
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > max_unpacked_bytes:
            raise FileTooHeavy(f"The file is {size(unpacked)} unpacked; at most {size(max_unpacked_bytes)} are read.")
        self.names = {entry.filename for entry in entries}

    @contextmanager
    def open(self, name: str) -> Generator[IO[bytes]]:
        """Read a part.

        Raises:
            InvalidFile: it is missing or damaged.
        """
        if name not in self.names:
            raise InvalidFile(f"The file is damaged: its part {name!r} is missing.")
        with _damage_named(), self._zip.open(name) as part:
            yield part

    def read(self, name: str, *, max_bytes: int) -> bytes:
        with self.open(name) as part:
            data = part.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise FileTooHeavy(f"The part {name!r} of the file is larger than {size(max_bytes)}.")
        return data


@contextmanager
def _damage_named() -> Generator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InvalidFile(DAMAGED, detail=str(error)) from error


def detect(archive: Archive) -> Document:
    """Which document the archive is.

    Raises:
        UnsupportedFile: none of these.
    """
    names = archive.names
    if "[Content_Types].xml" in names:
        for directory, document in DIRECTORIES.items():
            if any(name.startswith(directory) for name in names):
                return document
    if "META-INF/container.xml" in names:
        return "epub"
    if "content.xml" in names and "mimetype" in names:
        raise UnsupportedFile("The file is an OpenDocument file; save it as DOCX, PPTX or XLSX.")
    raise UnsupportedFile("The file is a zip archive; upload the files in it one by one.")
