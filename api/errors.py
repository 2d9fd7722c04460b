"""The failures Quiver tells its callers about, each with its HTTP status, in OpenAI's error envelope."""

from typing import ClassVar, Literal

from typing_extensions import TypedDict

ErrorType = Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]


class ErrorBody(TypedDict):
    message: str
    type: ErrorType
    param: str | None
    code: str | None


class Envelope(TypedDict):
    error: ErrorBody


class ApiError(Exception):
    """A failure with an answer: `message` is a sentence for the caller, `param` the field it is about."""

    status: ClassVar[int] = 500
    type: ClassVar[ErrorType] = "server_error"
    default_code: ClassVar[str] = "server_error"
    # OpenAI's clients retry 408, 409, 429 and every 5xx unless `x-should-retry` says otherwise.
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code

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


class Forbidden(ApiError):
    """The caller's key is right, and not allowed to do this."""

    status = 403
    type = "invalid_request_error"
    default_code = "insufficient_permissions"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class RequestTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class TooManyRequests(ApiError):
    """The same request is carried out if it is sent again a bit later."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class QuotaExceeded(ApiError):
    """There is as much of something as is allowed; somebody has to delete some before there can be more."""

    status = 429
    type = "rate_limit_error"
    default_code = "quota_exceeded"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "60", "x-should-retry": "false"}


class InternalError(ApiError):
    pass


class RequestTimeout(ApiError):
    """What runs the server gives a request less time than it takes."""

    status = 504
    default_code = "request_timeout"
    headers: ClassVar[dict[str, str]] = {"x-should-retry": "false"}


class EmbeddingUnavailable(ApiError):
    """The embedding service cannot be reached, failed, or answered with something other than our vectors."""

    status = 502
    default_code = "embedding_unavailable"


class EmbeddingTimeout(ApiError):
    status = 504
    default_code = "embedding_timeout"


class ModelUnavailable(ApiError):
    """A reranker or a chat model of the proxy cannot be reached, failed, or answered with something else."""

    status = 502
    default_code = "model_unavailable"


class ModelTimeout(ModelUnavailable):
    status = 504
    default_code = "model_timeout"


class DatabaseUnavailable(ApiError):
    status = 503
    default_code = "database_unavailable"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class StorageUnavailable(ApiError):
    """The directory or the bucket of the files' bytes is away, full, or refuses us."""

    status = 503
    default_code = "storage_unavailable"
    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class ConfigurationError(Exception):
    """Quiver cannot start as it is configured; the message says what to change."""
