"""Text that needs no parser: any encoding becomes UTF-8. JSON is laid out for reading where it is not."""

import re
from typing import BinaryIO

from api.extractors.encodings import pieces
from api.extractors.text_file import TextFile

DECLARATION_BYTES = 200
XML_ENCODING = re.compile(rb"""<\?xml[^>]{0,100}encoding\s*=\s*["']([\w.:-]+)""")
MAX_JSON_BYTES = 16 * 1024 * 1024  # laid out anew: that much takes 5 s and 500 MB at worst
MAX_GROWTH = 4  # times as many characters, by laying out; more are the blanks of deep nesting
LONG_LINE = 500  # characters; JSON with a longer one was not laid out for reading


def extract(stream: BinaryIO, out: TextFile) -> None:
    declared = XML_ENCODING.match(stream.read(DECLARATION_BYTES))
    stream.seek(0)
    for piece in pieces(stream, declared=declared[1].decode("ascii", "replace") if declared else None):
        out.write(piece)


def extract_json(stream: BinaryIO, out: TextFile) -> None:
    if stream.seek(0, 2) > MAX_JSON_BYTES:
        stream.seek(0)
        extract(stream, out)
        return
    stream.seek(0)
    text = "".join(pieces(stream))
    is_laid_out = all(len(line) <= LONG_LINE for line in text.splitlines()) and "\\u" not in text
    out.write(text if is_laid_out else _laid_out(text))


def _laid_out(text: str) -> str:
    import json

    try:
        laid_out = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError, MemoryError):  # then it is text like any other
        return text
    return laid_out if len(laid_out) < MAX_GROWTH * len(text) else text
