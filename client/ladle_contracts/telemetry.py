"""Traces for OpenTelemetry, where the environment says where to: `OTEL_EXPORTER_OTLP_ENDPOINT`. docs/monitoring.md.

A job is one trace: the request that submitted it, its wait for nodes, its attempts, and their stages. What joins them
is `traceparent` of the W3C, which the job's hash in Redis keeps. Without the variable nothing is imported, and every
function here returns at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
OFF = "OTEL_SDK_DISABLED"
INSTALL = "pip install 'ladle[telemetry]'"
END_S = 3
"""How long a process that ends waits until its last spans have been taken."""

Attributes = Mapping[str, str | int | float]


class _Process:
    """The tracer of this process. A forked child makes its own: threads that send do not survive a fork."""

    def __init__(self) -> None:
        self.service = "ladle"
        self.pid = 0
        self.provider: Any = None
        self.tracer: Any = None

    def get(self) -> Any:
        """None where traces are off."""
        if not is_on():
            return None
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.provider, self.tracer = _made(self.service)
        return self.tracer


_process = _Process()


def is_on() -> bool:
    """Whether the environment says where traces go."""
    return any(os.environ.get(name) for name in ENDPOINTS) and os.environ.get(OFF, "").lower() != "true"


def name_service(service: str) -> None:
    """What this process is called in traces: `ladle-service` or `ladle-worker`. `OTEL_SERVICE_NAME` replaces it."""
    _process.service = service


def _made(service: str) -> tuple[Any, Any]:
    """The provider and the tracer; None for both where the library is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("traces are not sent, because %s is not installed: `%s`", error.name, INSTALL)
        return None, None
    own = {"service.name": os.environ.get("OTEL_SERVICE_NAME", service), "service.version": version("ladle")}
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider, provider.get_tracer("ladle", version("ladle"))


@contextmanager
def span(name: str, attributes: Attributes | None = None, *, parent: str | None = None) -> Iterator[str | None]:
    """A span around the block, with its `traceparent`, for what follows elsewhere. An error of the block is noted."""
    tracer = _process.get()
    if tracer is None:
        yield None
        return
    with tracer.start_as_current_span(name, context=_context(parent), attributes=dict(attributes or {})) as made:
        yield _traceparent(made)


def add_span(
    name: str, start_s: float, end_s: float | None = None, *, parent: str | None, attributes: Attributes | None = None
) -> None:
    """A span that has begun earlier, and is over. Times are seconds since 1970."""
    tracer = _process.get()
    if tracer is None or parent is None:
        return
    made = tracer.start_span(
        name, context=_context(parent), attributes=dict(attributes or {}), start_time=round(start_s * 1e9)
    )
    made.end(round((time.time() if end_s is None else end_s) * 1e9))


def describe(attributes: Attributes) -> None:
    """More about the span that is open here, if there is one."""
    if _process.get() is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(dict(attributes))


def traceparent() -> str:
    """Of the span that is open here. Empty if there is none."""
    if _process.get() is None:
        return ""
    from opentelemetry import trace

    return _traceparent(trace.get_current_span())


def end() -> None:
    """Sends what is left. Call it where a process, or an attempt, ends."""
    if _process.provider is not None and _process.pid == os.getpid():
        _process.provider.force_flush(END_S * 1000)


def _traceparent(made: Any) -> str:
    context = made.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""


def _context(parent: str | None) -> Any:
    """What a span hangs below: `parent`, or the span that is open here."""
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})
