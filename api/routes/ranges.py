"""The `Range` header: which part of a file's bytes is asked for."""

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from api.errors import ApiError

RANGE = re.compile(r"bytes=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)
MAX_DIGITS = 18  # far beyond any file, and quick to read


class RangeNotSatisfiable(ApiError):
    status = 416
    type = "invalid_request_error"
    default_code = "range_not_satisfiable"


@dataclass(frozen=True)
class Range:
    start: int
    end: int  # exclusive


def read_range(headers: Headers, size: int) -> Range | None:
    """The range that is asked for; None is all of it.

    That is also the answer to several ranges at once, to what cannot be understood, and to `If-Range`, which compares
    with a validator that we never sent: a server may ignore each of these.

    Raises:
        RangeNotSatisfiable: it begins behind the end.
    """
    asked = RANGE.fullmatch(headers.get("range", ""))
    if asked is None or "if-range" in headers or len(asked[0]) > 2 * MAX_DIGITS:
        return None
    first, last = asked.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(size - int(last), 0), size
        is_empty = int(last) == 0 or size == 0
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
        is_empty = start >= size
    if is_empty:
        raise RangeNotSatisfiable(f"The file has {size} bytes; the range {asked[0]!r} has none of them.", param="Range")
    return Range(start, end)
