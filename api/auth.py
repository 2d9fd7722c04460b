"""Who sent a request, and whether they may: refused callers get their answer before their body is read."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from api.answers import failure
from api.errors import ApiError, ConfigurationError, Forbidden, InvalidRequest, Unauthenticated
from api.resources import Resources
from api.schemas.keys import TENANT, Role
from api.services import keys
from api.services.keys import SERVER, Caller, Keyring
from api.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Who asks these has no key yet: load balancers, and readers of the documentation.
PUBLIC_PATHS = frozenset({"/health", "/ready", "/docs", "/redoc", "/openapi.json"})
METRICS_PATH = "/metrics"  # public where METRICS_PUBLIC says so

# The one request with a POST that changes nothing; any other is one to write.
SEARCH = re.compile(r"/v1/vector_stores/[^/]+/search")
KEYS = re.compile(r"/v1/keys(/.*)?", re.DOTALL)
TABLE_SYNCS = re.compile(r"/v1/table_syncs(/.*)?", re.DOTALL)  # which have any table of the database read

ALLOWED: Final[dict[Role, frozenset[Role]]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}

TENANT_HEADER = "x-quiver-tenant"

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


class Authenticate:
    """ASGI middleware that lets through requests whose key allows them, and those for the public paths.

    It leaves the caller in the request's state, from where the routes' resources get their scope. It stands where a
    resource has one path.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, resources: Resources) -> None:
        self._app = app
        is_public = resources.settings.metrics_public
        self._public_paths = PUBLIC_PATHS | {METRICS_PATH} if is_public else PUBLIC_PATHS
        self._key = key.encode() if key is not None else None
        self._keyring = Keyring(resources)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._public_paths:
            try:
                caller = await self._caller(dict(reversed(scope["headers"])))  # of two alike the first one counts
                _require_role(caller, scope["method"], scope["path"])
            except ApiError as error:
                if error.status >= 500:
                    log.warning("request_failed", path=scope["path"], code=error.code, message=error.message)
                await failure(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        tenant = headers.get(TENANT_HEADER.encode())
        caller = await self._owner_of_key(headers.get(b"authorization", b"").decode("latin-1"))
        return caller if tenant is None else _acting_for(caller, tenant.decode("latin-1"))

    async def _owner_of_key(self, authorization: str) -> Caller:
        scheme, _, sent = authorization.partition(" ")
        key = sent.strip() if scheme.lower() == "bearer" else ""
        # Bytes, since compare_digest refuses text that is not ASCII.
        if self._key is not None and secrets.compare_digest(key.encode(), self._key):
            return SERVER
        if key.startswith(keys.PREFIX):
            caller = await self._keyring.find(key)
            if caller is not None:
                return caller
        elif self._key is None:  # development
            return SERVER
        if not key:
            raise Unauthenticated(
                "You didn't provide an API key. Send it in a header: Authorization: Bearer YOUR_KEY.",
                code="missing_api_key",
            )
        raise Unauthenticated("Incorrect API key provided.")


def role_needed(method: str, path: str) -> Role:
    if KEYS.fullmatch(path) or TABLE_SYNCS.fullmatch(path):
        return "admin"
    return "read" if method in ("GET", "HEAD") or is_search(method, path) else "write"


def is_search(method: str, path: str) -> bool:
    return method == "POST" and SEARCH.fullmatch(path) is not None


def _require_role(caller: Caller, method: str, path: str) -> None:
    if caller.role != "admin" and (needed := role_needed(method, path)) not in ALLOWED[caller.role]:
        raise Forbidden(f"This needs a key with the role {needed!r}; this key has {caller.role!r}.")
    if path == METRICS_PATH and caller.scope.tenant is not None:
        raise Forbidden("The metrics are of all tenants; this key is one of a single tenant.")


def _acting_for(caller: Caller, tenant: str) -> Caller:
    """The caller as one of the tenant's: for it, what an admin over all tenants sees and makes is the tenant's."""
    if not re.fullmatch(TENANT, tenant):
        raise InvalidRequest(
            f"{TENANT_HEADER} must be 1 to 64 letters, digits, dots, dashes and underscores.", param=TENANT_HEADER
        )
    if caller.scope.tenant is not None and caller.scope.tenant != tenant:
        raise Forbidden(f"This key is one of the tenant {caller.scope.tenant!r} only.", param=TENANT_HEADER)
    return replace(caller, scope=replace(caller.scope, tenant=tenant))
