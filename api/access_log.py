"""Logging: its set-up, and one line for each request with the id that its answer carries."""

import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from api import tracing
from api.answers import failure
from api.errors import InternalError
from api.metrics import Metrics
from api.observation import Observation
from api.services.keys import Caller
from api.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("quiver.access")

# What a caller may choose as a request's id: anything else could forge lines of a log.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})  # asked every few seconds


def configure_logging(settings: Settings) -> None:
    """Send structlog's and the standard library's records to standard error, in one form."""
    is_json = settings.log_format == "json"
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
        structlog.contextvars.merge_contextvars,
    ]
    console = structlog.dev.ConsoleRenderer(
        colors=False,
        pad_event_to=0,
        pad_level=False,
        sort_keys=False,
        exception_formatter=structlog.dev.plain_traceback,  # the other one shows local variables, texts and keys
    )
    renderer = structlog.processors.JSONRenderer() if is_json else console
    exceptions = [structlog.processors.format_exc_info] if is_json else []
    # Our own records pass the standard library by, which would take ten times as long for each.
    structlog.configure(
        processors=[*shared, *exceptions, structlog.processors.JSONRenderer(_dump) if is_json else console],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if is_json
        else structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for chatty in ("httpx", "uvicorn.access", "procrastinate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _dump(record: dict[str, Any], *, default: Callable[[Any], Any]) -> bytes:
    return orjson.dumps(record, default=default, option=orjson.OPT_NON_STR_KEYS)


class AccessLog:
    """ASGI middleware that gives each request its id, logs it, counts it and tells how long it took."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = sent if REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(16)}"
        started = time.perf_counter()
        status, has_started = 500, False
        state: dict[str, Any] = scope.setdefault("state", {})  # in which the authentication leaves the caller

        async def send_with_id(message: Message) -> None:
            nonlocal status, has_started
            if message["type"] == "http.response.start":
                has_started = True
                status = message["status"]
                own = [
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", b"%d" % _milliseconds_since(started)),
                ]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        is_quiet = scope["path"] in QUIET_PATHS
        bound = bind_contextvars(request_id=request_id)
        with Observation() as observation, tracing.NO_SPAN if is_quiet else tracing.request_span(scope) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:  # nobody stands before this: the caller gets an answer, the log the rest
                log.exception("unexpected_error", method=scope["method"], path=scope["path"])
                if not has_started:
                    error = InternalError("The server had an error while processing your request.")
                    await failure(error)(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                self._metrics.count_request(scope["method"], status, seconds, observation)
                if span is not None:
                    span.update_name(f"{scope['method']} {observation.route}")
                    span.set_attributes(_traced_facts(scope["method"], status, observation, request_id))
                if not is_quiet:
                    log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        milliseconds=round(seconds * 1000),
                        **_caller_facts(state.get("caller")),
                        **observation.facts(),
                    )
                reset_contextvars(**bound)


def _traced_facts(method: str, status: int, observation: Observation, request_id: str) -> dict[str, str | int]:
    """What a span says of a request, in OpenTelemetry's own names where it has them."""
    facts = {
        "http.request.method": method,
        "http.route": observation.route,
        "http.response.status_code": status,
        "quiver.request_id": request_id,
    }
    store = observation.vector_store_id
    return facts if store is None else facts | {"quiver.vector_store_id": store}


def _caller_facts(caller: Caller | None) -> dict[str, str]:
    """Whose request it was, as far as that is more than the server's own key's; never the key."""
    if caller is None:
        return {}
    facts = {"api_key_id": caller.api_key_id, "tenant": caller.scope.tenant}
    return {name: value for name, value in facts.items() if value is not None}


def _milliseconds_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
