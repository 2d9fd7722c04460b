"""Traces for OpenTelemetry: a span for each request and job and for their stages, sent to where its variables say.

Nothing of OpenTelemetry is loaded unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Spans hold no key and no text, and of an
error its type alone.
"""

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from api.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Kind = Literal["SERVER", "CLIENT", "CONSUMER", "INTERNAL"]
NO_SPAN: "AbstractContextManager[Span | None]" = nullcontext()


class _Tracing:
    """What sends the spans of this process; None while nobody wants them."""

    provider: "TracerProvider | None" = None


_tracing = _Tracing()


def start(service: str) -> None:
    """Send spans from here on, if an endpoint is configured. To be called by each process that is to send any.

    Raises:
        ConfigurationError: one is, and the packages are missing.
    """
    if _tracing.provider is not None or not any(os.environ.get(name) for name in ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{ENDPOINTS[0]} asks for traces, which need their own packages: pip install 'quiver[otel]', or unset it."
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracing.provider = provider


def stop() -> None:
    """Send what is left; blocks for as long as that takes, up to the exporter's timeout."""
    provider, _tracing.provider = _tracing.provider, None
    if provider is not None:
        provider.shutdown()


def span(
    name: str,
    *,
    kind: Kind = "INTERNAL",
    attributes: Mapping[str, str] | None = None,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> "AbstractContextManager[Span | None]":
    """A span around what is done inside, below the one around it or, first of all, the one that `headers` name."""
    if _tracing.provider is None:
        return NO_SPAN
    return _span(_tracing.provider, name, kind=kind, attributes=attributes, headers=headers)


@contextmanager
def _span(
    provider: "TracerProvider",
    name: str,
    *,
    kind: Kind,
    attributes: Mapping[str, str] | None,
    headers: Iterable[tuple[bytes, bytes]],
) -> "Generator[Span]":
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
    context = TraceContextTextMapPropagator().extract(carrier) if carrier else None
    tracer = provider.get_tracer("quiver")
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=SpanKind[kind],
        attributes=attributes,
        record_exception=False,  # its message may quote what a caller sent
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__name__)
            current.set_status(Status(StatusCode.ERROR))
            raise


def request_span(scope: Mapping[str, Any]) -> "AbstractContextManager[Span | None]":
    """A span around what answers a request, by its ASGI scope."""
    return span(scope["method"], kind="SERVER", headers=scope["headers"])


async def inject(request: "httpx.Request") -> None:
    """Hook of an HTTP client: whoever answers may continue the trace."""
    if _tracing.provider is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(request.headers)
