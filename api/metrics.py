"""What Prometheus is told of the API and the worker. The numbers of one process: two applications do not mix.

Labels are of bounded sets only: routes and not paths, tasks and not jobs, never a store, a tenant or a key.
"""

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api import tracing
from api.observation import Observation

PREFIX = "quiver_"
CONTENT_TYPE = "text/plain; version=0.0.4"
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})  # callers can make up others
REQUEST_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
JOB_SECONDS = (0.05, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)

FileOutcome = Literal["completed", "failed", "retried", "superseded"]
Labelled = TypeVar("Labelled", Counter, Histogram)
PoolStats = Callable[[], Mapping[str, int]]


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._child = functools.cache(_labelled)  # asking prometheus_client takes as long as counting does
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "Requests answered.", ["method", "route", "status"])
        self._request_seconds = self._histogram("request_seconds", "How long a request took.", ["route"])
        self._stage_seconds = self._histogram(
            "stage_seconds", "How long a request spent embedding, in PostgreSQL, reranking.", ["route", "stage"]
        )
        self._jobs = self._counter("jobs", "Jobs that a worker carried out.", ["task", "outcome"])
        self._job_seconds = self._histogram("job_seconds", "How long a job took.", ["task"], buckets=JOB_SECONDS)
        self._job_stage_seconds = self._histogram(
            "job_stage_seconds",
            "How long a job spent extracting, embedding, in PostgreSQL.",
            ["task", "stage"],
            buckets=JOB_SECONDS,
        )
        self._files = self._counter("files_ingested", "Files that left the queue, or go back to it.", ["outcome"])
        self._chunks = self._counter("chunks_ingested", "Chunks of files that came into their stores.", [])
        self._queue = Gauge(f"{PREFIX}queue_jobs", "Jobs in the queue.", ["queue", "status"], registry=self.registry)
        self._database_up = Gauge(
            f"{PREFIX}database_up", "1 if PostgreSQL could be asked for the queue.", registry=self.registry
        )

    def watch_pool(self, stats: PoolStats) -> None:
        self.registry.register(_PoolCollector(stats))

    def count_request(self, method: str, status: int, seconds: float, observation: Observation) -> None:
        route = observation.route
        self._child(self._requests, method if method in METHODS else "other", route, str(status)).inc()
        self._child(self._request_seconds, route).observe(seconds)
        for stage, stage_seconds in observation.seconds.items():
            self._child(self._stage_seconds, route, stage).observe(stage_seconds)

    @asynccontextmanager
    async def job(self, task: str) -> AsyncGenerator[Observation]:
        """Count what is carried out inside as a job of a task."""
        started, outcome = time.perf_counter(), "failed"
        with Observation() as observation, tracing.span(task, kind="CONSUMER"):
            try:
                yield observation
                outcome = "succeeded"
            except asyncio.CancelledError:
                outcome = "interrupted"
                raise
            finally:
                self._jobs.labels(task, outcome).inc()
                self._job_seconds.labels(task).observe(time.perf_counter() - started)
                for stage, seconds in observation.seconds.items():
                    self._job_stage_seconds.labels(task, stage).observe(seconds)

    def count_file(self, outcome: FileOutcome, *, chunks: int = 0) -> None:
        self._files.labels(outcome).inc()
        self._chunks.inc(chunks)

    def set_queue(self, counts: Mapping[tuple[str, str], int] | None) -> None:
        """The jobs by queue and status; None if PostgreSQL could not be asked."""
        self._database_up.set(counts is not None)
        self._queue.clear()
        for (queue, status), count in (counts or {}).items():
            self._queue.labels(queue, status).set(count)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"{PREFIX}{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: list[str], *, buckets: tuple[float, ...] = REQUEST_SECONDS
    ) -> Histogram:
        return Histogram(f"{PREFIX}{name}", text, labels, buckets=buckets, registry=self.registry)


def _labelled(metric: Labelled, *labels: str) -> Labelled:
    return metric.labels(*labels)


class _PoolCollector(Collector):
    """Reads the pool of connections when Prometheus asks."""

    def __init__(self, stats: PoolStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        connections = GaugeMetricFamily(
            f"{PREFIX}pool_connections", "Connections to PostgreSQL, in use or idle.", labels=["state"]
        )
        connections.add_metric(["idle"], stats["pool_available"])
        connections.add_metric(["used"], stats["pool_size"] - stats["pool_available"])
        yield connections
        yield GaugeMetricFamily(f"{PREFIX}pool_connections_max", "Most connections there may be.", stats["pool_max"])
        yield GaugeMetricFamily(
            f"{PREFIX}pool_waiting", "Requests that wait for a connection.", stats["requests_waiting"]
        )
        # The pool leaves out what is zero.
        for name, text, value in (
            ("pool_wait_seconds", "Time spent waiting for a connection.", stats.get("requests_wait_ms", 0) / 1000),
            ("pool_errors", "Requests that got no connection in time.", stats.get("requests_errors", 0)),
            ("pool_lost", "Connections that broke.", stats.get("connections_lost", 0)),
        ):
            yield CounterMetricFamily(f"{PREFIX}{name}", text, value)
