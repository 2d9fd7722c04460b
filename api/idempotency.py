"""The `Idempotency-Key` header: a POST that is sent again gets its first answer, and is not carried out again."""

import hashlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import structlog
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.answers import Json, failure
from api.auth import KEYS, PUBLIC_PATHS, TENANT_HEADER
from api.errors import ApiError, Conflict, InvalidRequest
from api.resources import Resources
from api.services import idempotency
from api.tables.database import Connection
from api.tables.idempotency_keys import Claim, Kept

log: structlog.stdlib.BoundLogger = structlog.get_logger()

HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")
MAX_KEY_LENGTH = 255


class Idempotency:
    """ASGI middleware that carries out one POST of those with the same `Idempotency-Key`.

    It stands behind the authentication, because a key is its caller's own, and where a resource has one path.
    """

    def __init__(self, app: ASGIApp, *, resources: Resources) -> None:
        self._app = app
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = _keys(scope)
        if not keys:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, receive, keys)
        except ApiError as error:
            if error.status >= 500:
                log.warning("request_failed", path=scope["path"], code=error.code, message=error.message)
            answer = failure(error)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, keys: list[bytes]) -> Response:
        claim = Claim(caller=_caller(scope), key=_read_key(keys), id=uuid4().hex)
        kept = await idempotency.claim(self._resources, claim)
        request = _Request(scope, receive)
        return await self._carry_out(scope, request, claim) if kept is None else await _replay(kept, request)

    async def _carry_out(self, scope: Scope, request: "_Request", claim: Claim) -> Response:
        is_settled = False

        async def settle(connection: Connection, answer: Mapping[str, Any]) -> None:
            nonlocal is_settled
            await idempotency.keep_on(connection, claim, _kept(request, Json(answer)))
            is_settled = True

        scope["state"]["settle"] = settle
        async with AsyncExitStack() as undo:
            undo.push_async_callback(idempotency.release, self._resources, claim)
            async with idempotency.renewed(self._resources, claim):
                answer = await _collect(self._app, scope, request)
                if answer.status_code < 300:
                    await request.read_to_end()  # a route that needs no body does not look at it
                # A refusal of a body that was not read, or did not come to its end, cannot be told from others.
                if idempotency.is_final(answer.status_code) and request.is_complete:
                    undo.pop_all()  # it is done: from here on, the key is used
                    if not (is_settled and answer.status_code < 300):
                        await idempotency.keep(self._resources, claim, _kept(request, answer))
        return answer


class _Request:
    """A request's body as it goes by, with a fingerprint that comes out the same whenever the request is sent again.

    The boundary of a form does not: clients make up another each time. The body is not held.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        kind, options = parse_options_header(Headers(scope=scope).get("content-type"))
        boundary = options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""
        self._delimiter = b"--" + boundary if boundary else b""
        self._held = b""  # what may be the beginning of a delimiter
        # Twice as fast as SHA-256 where the processor has no instruction for that.
        self._hash = hashlib.blake2b(b"%s?%s\n" % (scope["path"].encode(), scope["query_string"]), digest_size=32)
        self.size = 0
        self.is_complete = False
        self.is_disconnected = False

    @property
    def fingerprint(self) -> bytes:
        return self._hash.digest()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self.is_complete:
            self.is_complete = not message.get("more_body", False)
            self._add(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self.is_disconnected = True
        return message

    async def read_to_end(self, *, limit: int | None = None) -> None:
        """Read what is left, but no more once there are over `limit` bytes."""
        while not (self.is_complete or self.is_disconnected or (limit is not None and self.size > limit)):
            await self.receive()

    def _add(self, data: bytes) -> None:
        if self._delimiter:
            data = (self._held + data).replace(self._delimiter, b"\0")
            held = 0 if self.is_complete else len(self._delimiter) - 1
            end = max(len(data) - held, 0)
            data, self._held = data[:end], data[end:]
        self.size += len(data)
        self._hash.update(data)


def _keys(scope: Scope) -> list[bytes]:
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] in PUBLIC_PATHS:
        return []
    keys = [value for name, value in scope["headers"] if name == HEADER]
    if keys and KEYS.fullmatch(scope["path"]):  # the answer has a secret, which is kept nowhere
        return []
    return keys


def _read_key(keys: list[bytes]) -> str:
    key = keys[0].decode("latin-1").strip(" \t")  # which are no part of a header's value
    if len(keys) > 1 or not (0 < len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"Idempotency-Key must be one text of 1 to {MAX_KEY_LENGTH} printable ASCII characters, such as a UUID.",
            param="Idempotency-Key",
            code="invalid_idempotency_key",
        )
    return key


def _caller(scope: Scope) -> bytes:
    headers = Headers(scope=scope)
    key = headers.get("authorization", "").partition(" ")[2].strip()
    tenant = headers.get(TENANT_HEADER)  # an admin is another caller for each tenant
    return idempotency.caller_of(key if tenant is None else f"{key} {tenant}")


async def _collect(app: ASGIApp, scope: Scope, request: _Request) -> Response:
    """The application's answer, whole: that to a POST is made in memory anyway."""
    answer = Response(status_code=500)
    body: list[bytes] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status_code = message["status"]
            answer.raw_headers = list(message["headers"])
        else:
            body.append(message.get("body", b""))

    await app(scope, request.receive, send)
    answer.body = b"".join(body)
    return answer


def _kept(request: _Request, answer: Response) -> Kept:
    body = bytes(answer.body)
    return Kept(
        fingerprint=request.fingerprint,
        request_bytes=request.size,
        status=answer.status_code,
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.raw_headers],
        body=body if len(body) <= idempotency.MAX_KEPT_BYTES else None,
    )


async def _replay(kept: Kept, request: _Request) -> Response:
    await request.read_to_end(limit=kept.request_bytes)
    if not request.is_complete or request.fingerprint != kept.fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request; use a new one for each request, "
            "and the same only to send a request again.",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    if kept.body is None:
        raise Conflict(
            "This request was carried out before, but its answer was too large to keep; look at what it made, "
            "and send no more than that at once.",
            param="Idempotency-Key",
            code="idempotency_answer_not_kept",
        )
    answer = Response(kept.body, status_code=kept.status)
    answer.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.headers]
    answer.raw_headers.append(REPLAYED)
    return answer
