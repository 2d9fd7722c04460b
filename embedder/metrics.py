"""What Prometheus is told. The numbers of one application: two in one process do not mix."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from embedder.batching import BatchReport

if TYPE_CHECKING:
    from embedder.pool import Pool

PREFIX = "quiver_embedder_"
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(f"{PREFIX}requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self._request_seconds = Histogram(
            f"{PREFIX}request_seconds", "How long a request took.", ["path"], buckets=SECONDS, registry=self.registry
        )
        self._by_path: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._by_model: dict[str, tuple[Counter, Counter, Counter, Histogram, Histogram]] = {}
        self._texts = Counter(f"{PREFIX}texts", "Texts computed.", ["model"], registry=self.registry)
        self._tokens = Counter(f"{PREFIX}tokens", "Tokens computed.", ["model"], registry=self.registry)
        self._padded = Counter(
            f"{PREFIX}padded_tokens", "Tokens computed, padding included.", ["model"], registry=self.registry
        )
        self._batch_texts = Histogram(
            f"{PREFIX}batch_texts", "Texts in a batch.", ["model"], buckets=TEXTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            f"{PREFIX}batch_seconds", "How long a batch took.", ["model"], buckets=SECONDS, registry=self.registry
        )

    def watch(self, pool: "Pool") -> None:
        self.registry.register(PoolCollector(pool))

    def count_request(self, path: str, status: int, seconds: float) -> None:
        counters = self._by_path.get((path, status))
        if counters is None:  # looking labels up costs more than counting
            counters = self._requests.labels(path, status), self._request_seconds.labels(path)
            self._by_path[path, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def count_batch(self, model: str, batch: BatchReport) -> None:
        counters = self._by_model.get(model)
        if counters is None:
            counters = self._by_model[model] = (
                self._texts.labels(model),
                self._tokens.labels(model),
                self._padded.labels(model),
                self._batch_texts.labels(model),
                self._batch_seconds.labels(model),
            )
        texts, tokens, padded, batch_texts, batch_seconds = counters
        texts.inc(batch.texts)
        tokens.inc(batch.tokens)
        padded.inc(batch.padded_tokens)
        batch_texts.observe(batch.texts)
        batch_seconds.observe(batch.seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class PoolCollector(Collector):
    """Reads the pool when Prometheus asks."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily(f"{PREFIX}queued_tokens", "Tokens that wait for a model.", labels=["model"])
        under_way = GaugeMetricFamily(f"{PREFIX}requests_under_way", "Requests being computed.", labels=["model"])
        states = GaugeMetricFamily(f"{PREFIX}model_state", "1 for the state a model is in.", labels=["model", "state"])
        for model in self._pool.models:
            status = model.status()
            queued.add_metric([status["name"]], status["queued_tokens"])
            under_way.add_metric([status["name"]], status["requests_under_way"])
            states.add_metric([status["name"], status["state"]], 1)
        yield from (queued, under_way, states)
