"""Vectors of queries: remembered, asked for once however many ask at a time, and many in one call under load.

A call costs the proxy some 20 ms of processor time however many texts it has. A lone query goes off at once. Others
wait until they are as many as those of their model that are under way, or a call ends: so calls grow with the load, and
of two large ones one is embedded while what the other brought is searched for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from api.errors import InvalidRequest
from api.observation import timed

MAX_CALLS: Final = 4  # under way for one model
MAX_TEXTS: Final = 64  # in one call

_Model = tuple[str, int]  # its name and the dimension of its vectors
_Key = tuple[str, int, str]


class Remembered(Protocol):
    """A vector, dense or sparse."""

    @property
    def nbytes(self) -> int: ...
    def copy(self) -> Self: ...


V = TypeVar("V", bound=Remembered)
V_co = TypeVar("V_co", bound=Remembered, covariant=True)


class Source(Protocol[V_co]):
    """A client of a service that embeds texts."""

    def embed(self, texts: Sequence[str], *, model: str, dimension: int) -> Awaitable[Iterable[V_co]]: ...


@dataclass
class _Line:
    """The queries of one model that have no vector yet."""

    waiting: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    under_way: int = 0
    calls: int = 0

    def next_call(self) -> list[str]:
        """The texts that go off together; none while others may still join them."""
        if not self.waiting or len(self.waiting) < self.under_way or self.calls == MAX_CALLS:
            return []
        return [self.waiting.popitem(last=False)[0] for _ in range(min(len(self.waiting), MAX_TEXTS))]


class QueryVectors(Generic[V]):
    """A client of an embedding service as searches use it. One of each for a process."""

    def __init__(self, embeddings: Source[V], *, cache_bytes: int) -> None:
        self._embeddings = embeddings
        self._cache: _Cache[V] = _Cache(cache_bytes)
        self._pending: dict[_Key, asyncio.Future[V]] = {}
        self._lines: dict[_Model, _Line] = {}  # those that are not empty
        self._calls: set[asyncio.Task[None]] = set()

    @timed("embed")
    async def embed(self, texts: Sequence[str], *, model: str, dimension: int) -> list[V]:
        """A vector of that dimension for each text, in their order.

        Raises:
            As `Embeddings.embed` does. A text that the service refuses fails its own callers only.
        """
        vectors = [self._known_or_pending((model, dimension, text)) for text in texts]
        self._start_calls((model, dimension))  # now that all of them wait, so that they go together
        return [
            # Somebody else may wait for it, too.
            await asyncio.shield(vector) if isinstance(vector, asyncio.Future) else vector
            for vector in vectors
        ]

    async def close(self) -> None:
        self._lines.clear()  # so that no call follows one that ends here
        for call in self._calls:
            call.cancel()
        for pending in self._pending.values():
            pending.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _known_or_pending(self, key: _Key) -> V | asyncio.Future[V]:
        if (known := self._cache.get(key)) is not None:
            return known
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = asyncio.get_running_loop().create_future()
            pending.add_done_callback(_retrieve)
            model, dimension, text = key
            self._lines.setdefault((model, dimension), _Line()).waiting[text] = None
        return pending

    def _start_calls(self, model: _Model) -> None:
        line = self._lines.get(model)
        while line is not None and (texts := line.next_call()):
            line.calls += 1
            line.under_way += len(texts)
            call = asyncio.create_task(self._call(model, texts))
            self._calls.add(call)
            call.add_done_callback(partial(self._end_call, model, line, len(texts)))

    def _end_call(self, model: _Model, line: _Line, texts: int, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        line.calls -= 1
        line.under_way -= texts
        self._start_calls(model)
        if not line.calls:
            self._lines.pop(model, None)

    async def _call(self, model: _Model, texts: list[str]) -> None:
        try:
            self._accept(model, texts, await self._embed(model, texts))
        except InvalidRequest as error:
            if len(texts) == 1:
                self._fail(model, texts, error)
                return
            for text in texts:  # one of them is to blame: each by itself
                await self._call(model, [text])
        except Exception as error:  # noqa: BLE001  # whatever it is, those who wait must hear of it
            self._fail(model, texts, error)

    async def _embed(self, model: _Model, texts: list[str]) -> Iterable[V]:
        name, dimension = model
        return await self._embeddings.embed(texts, model=name, dimension=dimension)

    def _accept(self, model: _Model, texts: list[str], vectors: Iterable[V]) -> None:
        for text, vector in zip(texts, vectors, strict=True):
            own = vector.copy()  # a row of its own, so that remembering one does not keep all of them
            self._cache.put((*model, text), own)
            self._pending.pop((*model, text)).set_result(own)

    def _fail(self, model: _Model, texts: list[str], error: Exception) -> None:
        for text in texts:
            self._pending.pop((*model, text)).set_exception(error)


class _Cache(Generic[V]):
    """The vectors used last, up to a number of bytes of them and their texts."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._vectors: OrderedDict[_Key, V] = OrderedDict()

    def get(self, key: _Key) -> V | None:
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: _Key, vector: V) -> None:
        self._vectors[key] = vector
        self._bytes += _size(key, vector)
        while self._bytes > self._most_bytes:
            self._bytes -= _size(*self._vectors.popitem(last=False))


def _size(key: _Key, vector: Remembered) -> int:
    return vector.nbytes + 4 * len(key[2]) + 500  # what Python keeps besides


def _retrieve(pending: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more."""
    if not pending.cancelled():
        pending.exception()
