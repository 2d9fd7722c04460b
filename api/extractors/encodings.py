"""Which encoding a text file has, and its text piece by piece. Only bytes are looked at; nothing is held whole."""

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

from api.extractors.errors import UnsupportedFile

PIECE_BYTES = 256 * 1024
SAMPLE_BYTES = 64 * 1024
GUESS_BYTES = 8 * 1024  # of lines that are not ASCII: more makes the guess slower, not better

BOMS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CONTROLS = bytes({*range(32), 127} - set(b"\t\n\v\f\r\b\x1b"))
MAX_CONTROL_SHARE = 0.1  # in valid UTF-8: NULs between fields and the like
MAX_LEGACY_CONTROL_SHARE = 0.02  # random bytes have a tenth

# What Western European text is written with beyond ASCII. Without the letters that text of other code pages shows
# when read as this one: ³ and ¹ are Polish letters there, š, ž and ý belong to Czech, ð and þ are Turkish ones.
WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœ«»“”‘’„‚‹›–—…•·°§€£¢¥©®™¿¡ºª²½´¨×±‰†µ¶\u00a0"
)
LATIN_CODE_PAGES = re.compile(r"cp(125[0247]|437|775|85\d|86\d)|iso8859_\d+|latin_?\d*|mac_\w+|hp_roman8")
BINARY = "The file is neither text nor a document of a supported type."


def pieces(stream: BinaryIO, *, declared: str | None = None) -> Iterator[str]:
    """The text of a file in any encoding; what cannot be decoded becomes U+FFFD.

    Args:
        stream: Read from where it stands; must be able to seek.
        declared: The encoding that the file claims to have.

    Raises:
        UnsupportedFile: these bytes are not text.
    """
    encoding = detect(stream, declared=declared)
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    while data := stream.read(PIECE_BYTES):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def clean_utf8(data: bytes) -> str | None:
    """The text, if there can be no doubt that it is UTF-8: not a control character is in it."""
    if b"\x1b" in data or len(data.translate(None, CONTROLS)) < len(data):
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def detect(stream: BinaryIO, *, declared: str | None = None) -> str:
    """The name of Python's codec for the rest of the stream, which is put back where it stood."""
    begin = stream.tell()
    sample = stream.read(SAMPLE_BYTES)
    stream.seek(begin)
    for bom, name in BOMS:
        if sample.startswith(bom):
            return name
    if name := _wide(sample):
        return name
    declared = _known(declared)
    if declared and declared.startswith("iso2022"):  # seven bits and escapes, which UTF-8 would take as they are
        return declared
    wrong_at = _first_not_utf8(stream)
    stream.seek(begin)
    if wrong_at is None:
        _refuse_binary(sample, MAX_CONTROL_SHARE)
        return "utf-8"
    _refuse_binary(sample, MAX_LEGACY_CONTROL_SHARE)
    stream.seek(max(begin, wrong_at - SAMPLE_BYTES // 2))
    around = stream.read(SAMPLE_BYTES)
    stream.seek(begin)
    if _is_damaged_utf8(around):
        return "utf-8"
    if declared and _decodes(around, declared):
        return declared
    return _legacy(around)


def _wide(sample: bytes) -> str | None:
    """UTF-16 without a byte order mark: one byte of two is mostly zero, or two-byte blanks and line ends are about."""
    even, odd = sample[0::2], sample[1::2]
    if len(odd) < 2:
        return None
    zeros_even, zeros_odd = even.count(0) / len(even), odd.count(0) / len(odd)
    for name, high, low in (("utf-16-le", zeros_odd, zeros_even), ("utf-16-be", zeros_even, zeros_odd)):
        if high > 0.3 and low < 0.05 and _reads_as_text(sample, name):
            return name
    if (zeros_even or zeros_odd) and not _decodes(sample, "utf-8"):
        for name in ("utf-16-le", "utf-16-be"):
            if _reads_as_text(sample, name) and _is_cjk(sample, name):
                return name
    return None


def _reads_as_text(sample: bytes, name: str) -> bool:
    if not _decodes(sample, name):
        return False
    text = sample.decode(name, "ignore")
    return not any(ord(character) < 32 and character not in "\t\n\v\f\r\x1b" for character in text)


def _is_cjk(sample: bytes, name: str) -> bool:
    text = sample.decode(name, "ignore")
    common = sum("\u3000" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3" for character in text)
    plain = sum(character < "\u0080" for character in text)
    return common + plain > 0.9 * len(text)


def _decodes(sample: bytes, name: str) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(sample)  # may end amid a character
    except UnicodeError:
        return False
    return True


def _known(declared: str | None) -> str | None:
    """Python's name of a declared encoding; the Web's rule that Latin-1 and ASCII mean cp1252."""
    try:
        name = codecs.lookup(declared or "").name
        b"".decode(name)  # not every codec is one of text
    except (LookupError, ValueError):
        return None
    if name.startswith(("utf-16", "utf-32")):  # a file whose declaration could be read is not that
        return None
    return "cp1252" if name in {"iso8859-1", "ascii"} else name


def _first_not_utf8(stream: BinaryIO) -> int | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = stream.tell()
    while True:
        data = stream.read(PIECE_BYTES)
        try:
            decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            return position + error.start
        if not data:
            return None
        position += len(data)


def _is_damaged_utf8(around: bytes) -> bool:
    text = around.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    right = sum(character > "\u007f" for character in text) - wrong
    return right > 3 * wrong  # another encoding's letters hardly ever make valid sequences


def _refuse_binary(sample: bytes, share: float) -> None:
    controls = len(sample) - len(sample.translate(None, CONTROLS))
    if controls > share * len(sample):
        raise UnsupportedFile(BINARY)


def _legacy(around: bytes) -> str:
    lines = b"\n".join(line for line in around.splitlines() if not line.isascii())[:GUESS_BYTES]
    western = lines.decode("cp1252", "replace")
    is_western = all(character < "\u0080" or character in WESTERN for character in western)

    from charset_normalizer import from_bytes

    best = from_bytes(lines).best()
    if is_western and (best is None or LATIN_CODE_PAGES.fullmatch(best.encoding)):
        return "cp1252"
    if best is None:
        raise UnsupportedFile(BINARY)
    return best.encoding
