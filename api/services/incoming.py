"""Forms with one file: the file goes straight into the blob store, the fields beside it are short."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from api.errors import InvalidRequest, RequestTooLarge
from api.multipart import Part
from api.resources import Resources

MAX_FIELD_BYTES = 4096
MAX_FIELDS = 20  # of one form; a file and its three fields are all there are


@dataclass
class Received:
    """A form that was read to its end; `filename` is as it was sent, and None if there was no file."""

    filename: str | None = None
    size: int = 0
    fields: dict[str, Any] = field(default_factory=dict[str, Any])


async def receive(
    resources: Resources,
    form: AsyncIterator[Part],
    *,
    file_field: str,
    key: str,
    too_large: RequestTooLarge,
    limit: int,
) -> Received:
    """Read a form and keep the bytes of its file under a key of the blob store; the caller deletes them on failure.

    Raises:
        InvalidRequest: the form is malformed, or a field of it is, whatever its name.
        RequestTooLarge: the file has more than `limit` bytes.
    """
    received = Received()
    names: set[str] = set()
    async for part in form:
        if part.name in names:
            raise InvalidRequest(f"{part.name!r} is in the form more than once.", param=part.name)
        names.add(part.name)
        if len(names) > MAX_FIELDS:
            raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.")
        if part.name != file_field:
            _set(received.fields, part.name, await _text(part))
        elif part.filename is None:
            raise InvalidRequest(
                f"{file_field!r} must be sent as a file, with a filename: with curl, -F {file_field}=@NAME.",
                param=file_field,
            )
        else:
            received.filename = part.filename
            received.size = await resources.blobs.write(key, _up_to(limit, part.content, too_large))
    return received


def missing(file_field: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: {file_field!r}.", param=file_field, code="missing_required_parameter"
    )


async def _up_to(limit: int, content: AsyncIterator[bytes], too_large: RequestTooLarge) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in content:
        size += len(chunk)
        if size > limit:
            raise too_large
        yield chunk


async def _text(part: Part) -> str:
    value = bytearray()
    async for chunk in part.content:
        value += chunk
        if len(value) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"{part.name[:64]!r} is longer than {MAX_FIELD_BYTES} bytes.", param=part.name[:64])
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{part.name[:64]!r} must be UTF-8.", param=part.name[:64]) from error


def _set(fields: dict[str, Any], name: str, value: str) -> None:
    """Set a field; `expires_after[seconds]` is one inside of `expires_after`."""
    outer, bracket, inner = name.partition("[")
    if not bracket or not inner.endswith("]"):
        fields[name] = value
        return
    nested = fields.setdefault(outer, {})
    if not isinstance(nested, dict):
        raise InvalidRequest(f"{outer!r} is in the form more than once.", param=outer)
    nested[inner.removesuffix("]")] = value
