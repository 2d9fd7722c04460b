"""How answers and failures become HTTP: fast JSON out, OpenAI's error envelope for whatever went wrong."""

from collections.abc import Mapping
from itertools import chain, pairwise
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Match

from api.errors import (
    ApiError,
    ConfigurationError,
    DatabaseUnavailable,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Pydantic's names of what is wrong, as OpenAI's codes.
_CODES: Mapping[str, str] = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "json_invalid": "invalid_json",
    "union_tag_not_found": "missing_required_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "too_short": "array_below_min_length",
    "too_long": "array_above_max_length",
}
_BOUNDS: Mapping[str, str] = {"greater_than_equal": "below_min_value", "less_than_equal": "above_max_value"}

# Fields whose objects are told apart by `type`; pydantic's locations have the type behind the field's name.
_TAGGED = frozenset({"filters", "chunking_strategy"})
_TAGS = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or", "flat", "auto", "static"})


class Json(Response):
    """What is ours already, written as JSON without another look at it, and at no header that is not there."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status_code
        self.background = None
        self.body = orjson.dumps(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def failure(error: ApiError, *, headers: Mapping[str, str] | None = None) -> Json:
    return Json(error.envelope(), status_code=error.status, headers={**error.headers, **(headers or {})})


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _own_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(ConfigurationError, _own_error)


def answer_to(error: ApiError | ConfigurationError, *, path: str) -> Json:
    """The answer to what went wrong; what went wrong with us is logged as well."""
    if isinstance(error, ConfigurationError):  # the database came up behind us and turned out not to fit
        log.error("misconfigured", message=str(error))
        return failure(DatabaseUnavailable("The server is misconfigured; its log says why.", code="misconfigured"))
    if error.status >= 500:
        log.warning("request_failed", path=path, code=error.code, message=error.message)
    return failure(error)


async def _own_error(request: Request, error: Exception) -> Json:
    assert isinstance(error, ApiError | ConfigurationError)
    return answer_to(error, path=request.url.path)


async def _validation_error(request: Request, error: Exception) -> Json:
    assert isinstance(error, RequestValidationError)
    return failure(invalid_request(error.errors()))


async def _http_error(request: Request, error: Exception) -> Json:
    assert isinstance(error, StarletteHTTPException)
    path = request.url.path
    match error.status_code:
        case 404:
            return failure(NotFound(f"Invalid URL ({request.method} {path}).", code="unknown_url"))
        case 405:
            allowed = {"Allow": ", ".join(_allowed_methods(request))}
            return failure(MethodNotAllowed(f"Not allowed: {request.method} {path}."), headers=allowed)
        case _:
            return failure(InvalidRequest("The request body cannot be read."))


def _allowed_methods(request: Request) -> list[str]:
    """All that the path's routes take together; Starlette names those of the first one only."""
    return [
        method
        for method in ("GET", "POST", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def invalid_request(errors: Any) -> InvalidRequest:
    """OpenAI's error for the most telling of what pydantic found."""
    error = _most_telling(errors)
    kind = error["type"]
    param = _param(error["loc"])
    if kind == "json_invalid":
        return InvalidRequest("The request body is not valid JSON.", code="invalid_json")
    if param is None:
        is_absent = kind == "missing" or kind.endswith("_type")
        message = "The request body must be a JSON object, sent as Content-Type: application/json."
        return InvalidRequest(
            message if is_absent else f"The request is invalid: {_sentence(error)}.", code=_code(error)
        )
    match kind:
        case "extra_forbidden":
            message = f"Unknown parameter: {param!r}."
        case "missing":
            message = f"Missing required parameter: {param!r}."
        case "union_tag_not_found":
            param = f"{param}.type"
            message = f"Missing required parameter: {param!r}."
        case "union_tag_invalid":
            param = f"{param}.type"
            message = f"Invalid {param!r}: must be one of {error['ctx']['expected_tags']}."
        case _:
            message = f"Invalid {param!r}: {_sentence(error)}."
    return InvalidRequest(message, param=param, code=_code(error))


def _most_telling(errors: Any) -> Any:
    """An unknown field may explain the rest; of a union, the branch that fits but for its value says most."""
    unknown = (error for error in errors if error["type"] == "extra_forbidden")
    of_fitting_branches = (error for error in errors if not error["type"].endswith("_type"))
    return next(chain(unknown, of_fitting_branches, errors))


def _code(error: Any) -> str:
    kind = error["type"]
    if kind == "too_long" and error.get("ctx", {}).get("field_type") == "Dictionary":
        return "object_above_max_properties"
    if kind in _BOUNDS:
        number = "integer" if isinstance(error["ctx"].get("le", error["ctx"].get("ge")), int) else "decimal"
        return f"{number}_{_BOUNDS[kind]}"
    return _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _param(location: tuple[str | int, ...]) -> str | None:
    """`body.embeddings.3.embedding` without what names a branch of a pydantic union and no place in the request."""
    parts: list[str | int] = []
    for before, part in pairwise(location):
        is_tag = part in _TAGS and (before in _TAGGED or isinstance(before, int))
        if not is_tag and not _is_type(part):
            parts.append(part)
    return ".".join(map(str, parts)) or None


def _is_type(part: str | int) -> bool:
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
