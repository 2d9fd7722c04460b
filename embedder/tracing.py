"""Traces for OpenTelemetry: a span for each request, below the caller's, sent to where OpenTelemetry's variables say.

Nothing of OpenTelemetry is loaded unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set. A span holds no key and no text.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedder.errors import ConfigurationWrong

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "quiver-embedder"


@asynccontextmanager
async def tracer_provider() -> "AsyncGenerator[TracerProvider | None]":
    """What sends spans, if an endpoint is configured; leaving sends what is left.

    Raises:
        ConfigurationWrong: one is, and the packages are missing.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigurationWrong(
            f"{ENDPOINTS[0]} asks for traces, which need their own packages: pip install 'quiver[otel]', or unset it."
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider
    finally:
        await asyncio.to_thread(provider.shutdown)


class Traced:
    """ASGI middleware that puts a span around each request that is work."""

    def __init__(self, app: ASGIApp, *, provider: "TracerProvider") -> None:
        self._app = app
        self._tracer = provider.get_tracer("quiver")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context = TraceContextTextMapPropagator().extract(headers)
        with self._tracer.start_as_current_span(
            "POST", context=context, kind=SpanKind.SERVER, record_exception=False
        ) as span:

            async def send_and_tell(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, send_and_tell)
            if (route := scope.get("route")) is not None:
                span.update_name(f"POST {route.path}")
                span.set_attribute("http.route", route.path)
