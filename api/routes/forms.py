"""Forms with files: read as they arrive, and refused before that if they say that they are too long."""

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api import multipart
from api.errors import InvalidRequest, RequestTooLarge
from api.multipart import Part

MAX_OVERHEAD_BYTES = 128 * 1024  # of a form around its file: boundaries, headers and short fields


def read_form(request: Request, *, too_large: RequestTooLarge, limit: int) -> AsyncIterator[Part]:
    """The parts of the request's form, whose file has up to `limit` bytes; whoever reads the parts counts them.

    Raises:
        RequestTooLarge: the request says itself that it is longer.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + MAX_OVERHEAD_BYTES:
        raise too_large
    return multipart.parts(request.headers.get("content-type", ""), _body(request))


@contextmanager
def form_errors() -> Generator[None]:
    """Answer what is wrong with a form's fields as if it were wrong with a JSON body's."""
    try:
        yield
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from error


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise InvalidRequest("The request's body stopped before its end.", code="invalid_form") from error
