"""Which rows can go: what PostgreSQL, the store or a search could do nothing with is told apart, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import orjson

from api.migrate.records import Record, Reject
from api.schemas.metadata import MAX_METADATA_DEPTH
from api.tables.chunk_transfer import squared_lengths
from api.vectors import Vector, Vectors

MAX_ID_CHARACTERS: Final = 256  # as the API has it
MAX_TEXT_BYTES: Final = 1024 * 1024  # unless it is said otherwise
MAX_CHUNK_INDEX: Final = 2**31


@dataclass(frozen=True)
class Limits:
    dimension: int | None  # None: not known yet, any will do
    needs_vectors: bool  # not when the texts are embedded anew
    max_text_bytes: int = MAX_TEXT_BYTES


@dataclass
class Checked:
    """Records that can go, a row of `vectors` for each unless they are still to be made; and those that cannot."""

    records: list[Record]
    vectors: Vectors | None
    rejects: list[Reject] = field(default_factory=list[Reject])


def check(records: Sequence[Record], limits: Limits) -> Checked:
    rejects: list[Reject] = []
    good: list[Record] = []
    seen: set[str] = set()
    for record in records:
        reason = _flaw(record, limits)
        if reason is None and record.id in seen:
            reason = "the id stands twice"
        if reason is None:
            seen.add(cast("str", record.id))
            good.append(record)
        else:
            rejects.append(Reject(record, reason))
    if not limits.needs_vectors:
        return Checked(good, None, rejects)
    return _check_numbers(good, rejects)


def _flaw(record: Record, limits: Limits) -> str | None:  # noqa: C901  # a list of rules, one a line
    if record.flaw is not None:
        return record.flaw
    id, content = record.id, record.content
    if not id:
        return "it has no id"
    if len(id) > MAX_ID_CHARACTERS:
        return f"the id is longer than {MAX_ID_CHARACTERS} characters"
    if content is None or not content.strip():
        return "it has no text"
    if len(content) * 4 > limits.max_text_bytes and len(content.encode(errors="replace")) > limits.max_text_bytes:
        return f"the text is longer than {limits.max_text_bytes} bytes"
    for text in (content, id, record.file_id, record.filename):
        if text is not None and "\x00" in text:
            return "the text or the id has the character U+0000, which PostgreSQL cannot store"
        if text is not None and not text.isascii() and not _is_unicode(text):
            return "the text or the id is not in UTF-8"
    if not isinstance(record.chunking_strategy, dict | None):
        return "the chunking strategy is no JSON object"
    if record.chunk_index is not None and not 0 <= record.chunk_index < MAX_CHUNK_INDEX:
        return "the chunk index is out of range"
    if limits.needs_vectors:
        if record.vector is None:
            return "it has no vector"
        if limits.dimension is not None and record.vector.size != limits.dimension:
            return f"the vector has {record.vector.size} dimensions, not {limits.dimension}"
    return None if record.metadata is None else _flaw_of_metadata(record.metadata)


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, and no byte that could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _flaw_of_metadata(metadata: Any) -> str | None:
    if not isinstance(metadata, dict):
        return "the metadata is no JSON object"
    try:
        dumped = orjson.dumps(metadata)
    except orjson.JSONEncodeError:
        return "the metadata is no JSON, or not in UTF-8"
    if b"\\u0000" in dumped and _has_nul(metadata):
        return "the metadata has the character U+0000, which PostgreSQL cannot store"
    # Only what has many brackets can be deep.
    if dumped.count(b"{") + dumped.count(b"[") > MAX_METADATA_DEPTH and _depth(metadata) > MAX_METADATA_DEPTH:
        return f"the metadata is nested deeper than {MAX_METADATA_DEPTH} levels"
    return None


def _has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\x00" in value
        case list():
            return any(map(_has_nul, cast("list[Any]", value)))
        case dict():
            return any(_has_nul(part) for pair in cast("dict[str, Any]", value).items() for part in pair)
        case _:
            return False


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, cast("dict[str, Any]", value).values()), default=0)
    return 1 + max(map(_depth, cast("list[Any]", value)), default=0) if isinstance(value, list) else 0


def _check_numbers(records: list[Record], rejects: list[Reject]) -> Checked:
    if not records:
        return Checked([], None, rejects)
    size = cast("Vector", records[0].vector).size
    sizes = [cast("Vector", record.vector).size for record in records]
    of_size = [record for record, other in zip(records, sizes, strict=True) if other == size]
    rejects += [  # only while the dimension is not known: the first decides
        Reject(record, f"the vector has {other} dimensions, not {size}")
        for record, other in zip(records, sizes, strict=True)
        if other != size
    ]
    vectors = np.stack([cast("Vector", record.vector) for record in of_size]).astype(np.float32)
    squares = squared_lengths(vectors)
    good = np.isfinite(squares) & (squares > 0)
    if good.all():
        return Checked(of_size, vectors, rejects)
    for record, is_good, square in zip(of_size, good, squares, strict=True):
        if not is_good:
            zero = "the vector is zero, which has no direction to compare"
            rejects.append(Reject(record, "the vector has a number that is not finite" if square != 0 else zero))
    kept = [record for record, is_good in zip(of_size, good, strict=True) if is_good]
    return Checked(kept, vectors[good], rejects)
