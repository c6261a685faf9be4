"""What Prometheus is told at `/metrics`: of the cluster, as Redis knows it at this moment, and of this process.

Every API process tells the same of the cluster, so queries take the `max` over instances and not the sum.
docs/monitoring.md explains each one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladle_contracts import JobState
from ladle_contracts.counts import STAGE_BOUNDS_S

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NODE_STATES = ("ready", "busy", "cordoned", "draining", "drained", "gone")
WEBHOOK_OUTCOMES = ("delivered", "retrying", "given-up")
REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
OTHER = "other"
"""The route of a request that no route answers, and a method that HTTP does not know: anybody can make up names."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure.lua` answers."""

    now_ms: int = 0
    counts: Mapping[str, float] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)
    oldest_queued_ms: int | None = None
    nodes: Mapping[str, int] = field(default_factory=dict)
    untold: int = 0
    """Jobs that have ended and of which somebody is still to be told."""

    @classmethod
    def read(cls, answer: Sequence[Any]) -> Measured:
        now_ms, counts, jobs, oldest, nodes, untold = answer
        return cls(
            now_ms=int(now_ms),
            counts={name: float(value) for name, value in _pairs(counts)},
            jobs={state: int(number) for state, number in _pairs(jobs)},
            oldest_queued_ms=int(float(oldest)) if oldest else None,
            nodes={state: int(number) for state, number in _pairs(nodes)},
            untold=int(untold),
        )


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


class Metrics:
    """Those of this process, and the text for Prometheus."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("method", "route")
        self.requests = Counter(
            "ladle_http_requests",
            "Requests that this process has answered.",
            (*labels, "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "ladle_http_request_seconds", "How long they took; of a stream, until it began.", labels,
            registry=self._registry, buckets=REQUEST_BOUNDS_S,
        )  # fmt: skip

    def text(self, measured: Measured | None) -> bytes:
        """`measured` is None while Redis does not answer."""
        registry = CollectorRegistry()
        registry.register(_Families(self._families(measured)))
        return generate_latest(self._registry) + generate_latest(registry)

    def _families(self, measured: Measured | None) -> list[Metric]:
        found: list[Metric] = [
            InfoMetricFamily("ladle_build", "The version of the service.", value={"version": self._version}),
            GaugeMetricFamily("ladle_redis_up", "Whether Redis answers.", value=measured is not None),
        ]
        return found if measured is None else found + list(_of_cluster(measured))


class _Families:
    """A collector of families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_cluster(measured: Measured) -> Iterator[Metric]:
    yield _gauge(
        "ladle_jobs", "Jobs in each state.", "state", {**{str(state): 0 for state in JobState}, **measured.jobs}
    )
    age_s = (measured.now_ms - (measured.oldest_queued_ms or measured.now_ms)) / 1000
    yield GaugeMetricFamily(
        "ladle_queue_oldest_age_seconds", "How long ago the oldest queued job was submitted.", value=max(0.0, age_s)
    )
    yield _gauge("ladle_nodes", "Nodes in each state.", "state", {**dict.fromkeys(NODE_STATES, 0), **measured.nodes})
    yield _ended(measured.counts)
    yield from _stages(measured.counts)
    yield _total("ladle_training_steps", "Steps of training coefficients.", measured.counts.get("steps", 0))
    yield _total(
        "ladle_read_bytes", "Bytes of checkpoints and data that jobs have read.", measured.counts.get("bytes_read", 0)
    )
    calls = CounterMetricFamily("ladle_webhook_calls", "Calls of webhooks by how they went.", labels=["outcome"])
    for outcome in WEBHOOK_OUTCOMES:
        calls.add_metric([outcome], measured.counts.get(f"webhook {outcome}", 0))
    yield calls
    yield GaugeMetricFamily(
        "ladle_webhook_jobs_waiting", "Jobs that have ended and whose webhooks are still called.", value=measured.untold
    )


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family


def _total(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _ended(counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily("ladle_jobs_ended", "Jobs that have ended, by why.", labels=["state", "reason"])
    for name, value in counts.items():
        kind, _, rest = name.partition(" ")
        if kind == "ended":
            state, _, reason = rest.partition(" ")
            family.add_metric([state, reason], value)
    return family


def _stages(counts: Mapping[str, float]) -> Iterator[Metric]:
    """Stage -> how many took at most how long, and all together."""
    family = HistogramMetricFamily("ladle_stage_seconds", "How long the stages of jobs took.", labels=["stage"])
    by_stage: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in counts.items():
        kind, _, rest = name.partition(" ")
        if kind == "stage":
            stage, _, part = rest.partition(" ")
            by_stage[stage][part] = value
    for stage, parts in sorted(by_stage.items()):
        total, buckets = 0.0, []
        for bound in (*STAGE_BOUNDS_S, "+Inf"):
            total += parts.get(str(bound), 0.0)
            buckets.append((str(bound), total))
        family.add_metric([stage], buckets, parts.get("sum", 0.0))
    yield family


class CountRequests:
    """Counts and times every answer, by the route and not by the path, which may be anything."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else OTHER
        route = getattr(scope.get("route"), "path", OTHER)
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
