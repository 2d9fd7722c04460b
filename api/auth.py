"""The server's key: refused callers get their 401 before their body is read."""

import secrets
from collections.abc import Set

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import failure
from api.errors import ConfigurationError, Unauthenticated
from api.settings import Settings

# Who asks these has no key yet: load balancers, and readers of the documentation.
PUBLIC_PATHS = frozenset({"/health", "/ready", "/docs", "/redoc", "/openapi.json"})
METRICS_PATH = "/metrics"  # public where METRICS_PUBLIC says so

MIN_KEY_LENGTH = 16
# Keys out of examples, litellm-pgvector's and LiteLLM's among them.
PLACEHOLDER_KEYS = frozenset({"your-api-key-here", "your-api-key", "your_api_key_here", "sk-1234567890abcdef"})


def required_key(settings: Settings) -> str | None:
    """The key that callers must send; None when development goes without.

    Raises:
        ConfigurationError: there is none, or one that is easily guessed, and this is no development.
    """
    key = settings.server_api_key.get_secret_value().strip() if settings.server_api_key else None
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError("SERVER_API_KEY has blanks or characters that an HTTP header cannot carry.")
    if settings.quiver_development:
        return key or None
    if not key:
        raise ConfigurationError(
            "SERVER_API_KEY is not set. Set it to a long random text, for example from `openssl rand -hex 24`; "
            "for development on your own machine alone, QUIVER_DEVELOPMENT=true goes without a key."
        )
    if key.lower() in PLACEHOLDER_KEYS or len(key) < MIN_KEY_LENGTH:
        raise ConfigurationError(
            f"SERVER_API_KEY is a placeholder or shorter than {MIN_KEY_LENGTH} characters. Set it to a long random "
            "text, for example from `openssl rand -hex 24`; for development, QUIVER_DEVELOPMENT=true allows it."
        )
    return key


class RequireKey:
    """ASGI middleware that lets through only requests with the key, and those for the public paths."""

    def __init__(self, app: ASGIApp, *, key: str | None, public_paths: Set[str] = PUBLIC_PATHS) -> None:
        self._app = app
        self._public_paths = public_paths
        self._key = key.encode() if key is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._key is not None and scope["path"] not in self._public_paths:
            try:
                self._check(Headers(scope=scope).get("authorization", ""), self._key)
            except Unauthenticated as error:
                await failure(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, authorization: str, key: bytes) -> None:
        scheme, _, sent = authorization.partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise Unauthenticated(
                "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY.",
                code="missing_api_key",
            )
        # Bytes, since compare_digest refuses text that is not ASCII.
        if not secrets.compare_digest(sent.strip().encode(), key):
            raise Unauthenticated("Incorrect API key provided.")
