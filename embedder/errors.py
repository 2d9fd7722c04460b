"""The failures the embedder tells its callers about, each with its HTTP status, in OpenAI's envelope."""

from typing import ClassVar, Literal, TypedDict

import orjson
from starlette.responses import Response

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class ErrorBody(TypedDict):
    message: str
    type: ErrorType
    param: str | None
    code: str


class Envelope(TypedDict):
    error: ErrorBody


class ApiError(Exception):
    """A failure with an answer: `message` is a sentence for the caller, `param` the field it is about."""

    status: ClassVar[int] = 500
    type: ClassVar[ErrorType] = "server_error"
    default_code: ClassVar[str] = "server_error"
    default_headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.headers = dict(self.default_headers)

    def envelope(self) -> Envelope:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class Unauthenticated(ApiError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"
    default_headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": "Bearer"}


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class Forbidden(ApiError):
    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class RequestTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class QueueFull(ApiError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_seconds)}


class ClientGone(ApiError):
    """The caller hung up before its answer was ready. Nobody reads this; the access log shows its status."""

    status = 499
    type = "invalid_request_error"
    default_code = "client_closed_request"


class ModelFailed(ApiError):
    default_code = "model_failed"


class Unready(ApiError):
    """The model will answer later, or when its operator has put it right."""

    status = 503
    default_code = "model_unavailable"
    default_headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class ShuttingDown(Unready):
    default_code = "shutting_down"


class UpstreamFailed(ApiError):
    status = 502
    default_code = "upstream_failed"


class UpstreamTimeout(ApiError):
    status = 504
    default_code = "upstream_timeout"


class ModelUnavailable(Exception):
    """A model cannot be loaded; the message says what to change."""


class ConfigurationWrong(Exception):
    """The file of models cannot be read or written; the message says where and why."""


def error_response(error: ApiError) -> Response:
    return Response(
        orjson.dumps(error.envelope()),
        status_code=error.status,
        headers=error.headers,
        media_type="application/json",
    )
