"""What Prometheus is told. The numbers of one application: two in one process do not mix."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from embedder.batching import BatchReport

if TYPE_CHECKING:
    from embedder.pool import Pool

PREFIX = "quiver_embedder_"
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Distribution:
    """A histogram that is filled by one thread: prometheus_client's own takes a lock for each number of it."""

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def add_to(self, family: HistogramMetricFamily, label: str) -> None:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric([label], list(zip(bounds, accumulate(self._counts), strict=True)), self.sum)


class Batches:
    """What was computed by one model."""

    def __init__(self) -> None:
        self.tokens = self.padded_tokens = 0
        self.texts = Distribution(TEXTS)
        self.seconds = Distribution(SECONDS)


class Metrics(Collector):
    """Counted in the event loop, and read there when Prometheus asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter[tuple[str, int]]()
        self._request_seconds = defaultdict[str, Distribution](lambda: Distribution(SECONDS))
        self._batches = defaultdict[str, Batches](Batches)
        self.registry.register(self)

    def watch(self, pool: "Pool") -> None:
        self.registry.register(PoolCollector(pool))

    def count_request(self, path: str, status: int, seconds: float) -> None:
        self._requests[path, status] += 1
        self._request_seconds[path].observe(seconds)

    def count_batch(self, model: str, batch: BatchReport) -> None:
        batches = self._batches[model]
        batches.tokens += batch.tokens
        batches.padded_tokens += batch.padded_tokens
        batches.texts.observe(batch.texts)
        batches.seconds.observe(batch.seconds)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(f"{PREFIX}requests", "Requests answered.", labels=["path", "status"])
        for (path, status), times in self._requests.items():
            requests.add_metric([path, str(status)], times)
        request_seconds = HistogramMetricFamily(f"{PREFIX}request_seconds", "How long a request took.", labels=["path"])
        for path, seconds in self._request_seconds.items():
            seconds.add_to(request_seconds, path)
        texts = CounterMetricFamily(f"{PREFIX}texts", "Texts computed.", labels=["model"])
        tokens = CounterMetricFamily(f"{PREFIX}tokens", "Tokens computed.", labels=["model"])
        padded = CounterMetricFamily(f"{PREFIX}padded_tokens", "Tokens computed, padding included.", labels=["model"])
        batch_texts = HistogramMetricFamily(f"{PREFIX}batch_texts", "Texts in a batch.", labels=["model"])
        batch_seconds = HistogramMetricFamily(f"{PREFIX}batch_seconds", "How long a batch took.", labels=["model"])
        for model, batches in self._batches.items():
            texts.add_metric([model], batches.texts.sum)
            tokens.add_metric([model], batches.tokens)
            padded.add_metric([model], batches.padded_tokens)
            batches.texts.add_to(batch_texts, model)
            batches.seconds.add_to(batch_seconds, model)
        yield from (requests, request_seconds, texts, tokens, padded, batch_texts, batch_seconds)

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
