"""Bodies of `POST .../embeddings/batch`: without lists of Python's numbers on the way, in a quarter of the time."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
import simdjson

from api.schemas.embeddings import CreateEmbeddingBatchRequest

# A parser keeps memory of a few times the largest body it has read.
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024

# Where a body of vectors as base64 shows that it has no lists.
LOOKED_AT_BYTES: Final = 256 * 1024

ESCAPED_BRACKET: Final = b"\\u005"  # how JSON may write `[`, if it ends with a `b`


class _Unusual(ValueError):
    """The body is not what clients usually send, and may be wrong."""

    def __init__(self) -> None:
        super().__init__("not what clients usually send")


class BatchReader:
    """Makes of JSON the request that orjson and pydantic make of it, or refuses it: what is unusual, they may take.

    For use by one thread at a time.
    """

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def read(self, body: bytes) -> CreateEmbeddingBatchRequest:
        """Read a body; vectors are base64 or a `memoryview` of doubles.

        Raises:
            ValueError: it is no such request, or an unusual one.
        """
        if not _has_lists(body):  # parsed and validated at once: two thirds of the time of one after the other
            return CreateEmbeddingBatchRequest.model_validate_json(body)
        parser = self._parser if len(body) <= MAX_KEPT_BYTES else simdjson.Parser()
        try:
            read = _read(parser, body)
        except (LookupError, TypeError, RuntimeError) as error:
            raise _Unusual from error
        return CreateEmbeddingBatchRequest.model_validate(read)


def _has_lists(body: bytes) -> bool:
    """Whether the list of chunks has another bracket in its beginning."""
    first = body.find(b"[")
    return body.find(b"[", first + 1, first + LOOKED_AT_BYTES) >= 0


def _read(parser: simdjson.Parser, body: bytes) -> dict[str, Any]:
    document = parser.parse(body)
    chunks = document["embeddings"] if isinstance(document, simdjson.Object) and len(document) == 1 else None
    if not isinstance(chunks, simdjson.Array):
        raise _Unusual
    read = [_read_chunk(chunk) for chunk in chunks]
    _require_flat(body, read)
    return {"embeddings": read}


def _read_chunk(chunk: simdjson.Object | Any) -> dict[str, Any]:
    if not isinstance(chunk, simdjson.Object):
        raise _Unusual
    names = list(chunk)
    read = {name: _read_value(name, chunk[name]) for name in names}
    if len(read) < len(names):  # of a name that stands there twice, orjson takes the last
        raise _Unusual
    return read


def _read_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, simdjson.Array):
        if name != "embedding":
            raise _Unusual
        return memoryview(value.as_buffer(of_type="d")).cast("d")
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _require_flat(body: bytes, chunks: Sequence[dict[str, Any]]) -> None:
    """Refuse lists in lists, which simdjson makes one list of: they have brackets that nothing else accounts for."""
    lists = sum(isinstance(chunk.get("embedding"), memoryview) for chunk in chunks)
    if not lists:
        return
    others = _count_brackets(body) - 1 - lists
    if others and (
        ESCAPED_BRACKET in body or others != sum(_brackets(value) for chunk in chunks for value in chunk.values())
    ):
        raise _Unusual


def _count_brackets(body: bytes) -> int:
    """Count by searching, which goes by many bytes at once; `bytes.count` takes as long as parsing the texts."""
    count = -1
    place = 0
    while place >= 0:
        count += 1
        place = body.find(b"[", place) + 1 or -1
    return count


def _brackets(value: Any) -> int:
    """Opening brackets in a value's JSON, those in texts included."""
    if isinstance(value, str):
        return value.count("[") if "[" in value else 0
    return orjson.dumps(value).count(b"[") if isinstance(value, dict) else 0
