"""From requests to an engine and back: admission by tokens, tokenising, threads, answers.

Small requests are tokenised where they arrive, since handing them over would take longer; large ones in a thread of
their own, a slice at a time. Each replica of a model has a thread that takes its batches straight from the queue, and
does not wait for the event loop between two of them, unless both share one core.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from embedder.admission import Backlog, Limits, characters_of, estimated_tokens
from embedder.engines import Engine, Rows, SparseVector, Text, Tokens
from embedder.errors import InvalidRequest, ModelFailed, ShuttingDown
from embedder.queue import Entry, Job, Queue

INLINE_CHARACTERS = 2_000  # tokenised within half a millisecond
SLICE_CHARACTERS = 50_000  # some 10 ms: then another request's slice has its turn
CUT_HEADER = "x-truncated-texts"  # how many of an answer's texts were cut
TURN_ROUNDS = 8  # of the event loop: the answers are sent in the first, and who asks again is in the queue soon after
TURN_SECONDS = 0.05  # the longest turn of an event loop that has more to do than that
SMOOTHING = 0.1  # of the measured speed: the weight of the latest batch

TINY = float(np.finfo(np.float32).tiny)  # the vector of length nothing stays one


class Vector(NamedTuple):
    """A dense vector: its direction, and how long it was. Nearly everybody wants the direction alone."""

    unit: NDArray[np.float32]
    length: float


Row = Vector | SparseVector | np.float32

log = structlog.get_logger()


class BatchReport(NamedTuple):
    """What a batch was, for whoever counts."""

    texts: int
    tokens: int
    padded_tokens: int
    seconds: float


class Computed(NamedTuple):
    """One row for each text, in the texts' order."""

    rows: Sequence[Row]
    tokens: int  # that the model read
    cut: int = 0  # of the texts: those that were longer than it reads


class Request(Job):
    """A request whose answer fills up, batch by batch."""

    __slots__ = ("answer", "rows", "unanswered")

    def __init__(self, texts: int) -> None:
        super().__init__()
        self.rows: list[Row | None] = [None] * texts
        self.unanswered = texts
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def accept(self, positions: Sequence[int], outcome: Row | ModelFailed) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, ModelFailed):
            self.answer.set_exception(outcome)
            return
        for position in positions:
            self.rows[position] = outcome
        self.unanswered -= len(positions)
        if not self.unanswered:
            self.answer.set_result(None)


class Batcher:
    """Feeds a model's replicas. Made within the event loop that asks it; closing finishes what was admitted."""

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        limits: Limits,
        name: str,
        on_batch: Callable[[BatchReport], None] | None = None,
        takes_turns: bool = False,
    ) -> None:
        """Begin to serve.

        Args:
            engines: replicas of one model.
            limits: of its queue and batches.
            name: what errors and the log call it.
            on_batch: told of each batch, in the event loop.
            takes_turns: answers are sent, and who asks again is read, before the next batch begins. On a single core
                nothing could be computed meanwhile, and fuller batches save a twentieth; on two, it loses as much.
        """
        self.facts = engines[0].facts
        self.engine_name = engines[0].name
        self._engines = engines
        self._limits = limits
        self._name = name
        self._on_batch = on_batch
        self._takes_turns = takes_turns
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(
            max_batch_tokens=limits.max_batch_tokens,
            max_batch_texts=limits.max_batch_texts,
            shape=engines[0].shape,
            overhead_tokens=engines[0].overhead_tokens,
        )
        self._tokenizer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tokenizer of {name}")
        self._tokenizing = Backlog()  # admitted, and not yet in the queue
        self._under_way = 0
        self._is_closing = False
        self._finished = asyncio.Event()
        self._tokens_per_second = 0.0
        self._threads = [
            threading.Thread(target=self._feed, args=(engine,), name=f"model {name}", daemon=True) for engine in engines
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_tokens(self) -> int:
        return self._queue.backlog.tokens + self._tokenizing.tokens

    @property
    def requests_under_way(self) -> int:
        return self._under_way

    async def compute(
        self, texts: Sequence[Text], *, prompt: str = "", max_tokens: int | None = None, refuses_long: bool = False
    ) -> Computed:
        """Compute a row for each text. A cancelled caller's texts leave the queue, unless others want them too.

        Args:
            texts: single texts; pairs for a rerank model.
            prompt: put before each text.
            max_tokens: fewer than the model reads; texts are cut to it.
            refuses_long: a text that would be cut is an error instead.

        Raises:
            QueueFull: too many tokens wait already. An idle queue admits any number.
            InvalidRequest: a text is too long and may not be cut.
            ModelFailed: the model raised on these texts.
            ShuttingDown: the batcher is being closed.
        """
        if self._is_closing:
            raise ShuttingDown("The model is being taken out of service; try again.")
        self._under_way += 1
        try:
            tokens = await self._admit(texts, prompt)
            if max_tokens is not None:
                tokens = [shortened(one, max_tokens, self._engines[0]) for one in tokens]
            cut = [position for position, one in enumerate(tokens) if one.total > len(one.ids)]
            if cut and refuses_long:
                raise too_long(cut[0], tokens[cut[0]])
            keys = [(prompt, max_tokens, text) for text in texts]
            rows = await self._run(list(zip(keys, tokens, strict=True)))
            return Computed(rows, tokens_in(tokens), len(cut))
        finally:
            self._under_way -= 1
            if self._is_closing and not self._under_way:
                self._finished.set()

    async def close(self) -> None:
        """Admit no more, finish what was admitted, give the engines' memory back."""
        self._is_closing = True
        if self._under_way:
            await self._finished.wait()
        self._queue.close()
        await asyncio.to_thread(self._join)

    async def _admit(self, texts: Sequence[Text], prompt: str) -> list[Tokens]:
        self._check_room(1)  # before anything is tokenised
        lengths = [characters_of(text) for text in texts]
        if sum(lengths) <= INLINE_CHARACTERS:
            tokens = self._engines[0].tokenize(texts, prompt=prompt)
            self._check_room(tokens_in(tokens))
            return tokens
        estimate = estimated_tokens(texts, window=self.facts.max_tokens)
        self._check_room(estimate)
        with self._tokenizing.holding(estimate, is_short=self._limits.is_short(estimate)):
            tokens = list[Tokens]()
            for some in slices(texts, lengths):
                tokenize = partial(self._engines[0].tokenize, some, prompt=prompt)
                tokens += await self._loop.run_in_executor(self._tokenizer, tokenize)
            return tokens

    def _check_room(self, tokens: int) -> None:
        if self.queued_tokens + tokens <= self._limits.max_queued_tokens:
            return  # as nearly always, and each request asks
        self._limits.check_room(
            tokens,
            self._queue.backlog,
            self._tokenizing,
            name=self._name,
            tokens_per_second=self._tokens_per_second,
        )

    async def _run(self, texts: Sequence[tuple[object, Tokens]]) -> list[Row]:
        request = Request(len(texts))
        self._queue.put(request, texts)
        try:
            await request.answer
        finally:
            if request.unanswered:
                self._queue.drop(request)
        return request.rows  # pyright: ignore[reportReturnType]  # all of them are answered

    def _feed(self, engine: Engine) -> None:
        """What each replica's thread does until the queue is closed."""
        while batch := self._queue.take():
            started = time.perf_counter()
            outcomes = self._outcomes(engine, batch)
            seconds = time.perf_counter() - started
            for entry, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, ModelFailed):  # the rest of a request that has failed need not be computed
                    for job in tuple(entry.claims):
                        self._queue.drop(job)
            self._queue.finish(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, seconds)
            if self._takes_turns and self._queue.backlog.tokens:
                is_over = threading.Event()
                self._loop.call_soon_threadsafe(self._take_turn, TURN_ROUNDS, is_over)
                is_over.wait(TURN_SECONDS)

    def _take_turn(self, rounds: int, is_over: threading.Event) -> None:
        if rounds:
            self._loop.call_soon(self._take_turn, rounds - 1, is_over)
        else:
            is_over.set()

    def _outcomes(self, engine: Engine, batch: Sequence[Entry]) -> Sequence[Row | ModelFailed]:
        """Run a batch; when it fails, run its halves, until only those that share the bad text's request fail."""
        try:
            rows = rows_of(engine.run([entry.tokens for entry in batch]))
            if len(rows) != len(batch):
                raise ValueError(f"{len(rows)} rows for {len(batch)} texts")
            return rows
        except Exception as error:  # whatever a model raises, the callers of this batch must hear of it
            if len({frozenset(entry.claims) for entry in batch}) == 1:  # they stand and fall together
                log.error("model_failed", model=self._name, texts=len(batch), exc_info=error)
                return [ModelFailed("The model failed on these texts; the embedder's log says why.")] * len(batch)
        half = len(batch) // 2
        return [*self._outcomes(engine, batch[:half]), *self._outcomes(engine, batch[half:])]

    def _deliver(self, batch: Sequence[Entry], outcomes: Sequence[Row | ModelFailed], seconds: float) -> None:
        for entry, outcome in zip(batch, outcomes, strict=True):
            for job, positions in tuple(entry.claims.items()):  # another replica's thread may drop one of them
                assert isinstance(job, Request)  # the only jobs that are put
                job.accept(positions, outcome)
        tokens = sum(entry.length for entry in batch)
        speed = tokens / max(seconds, 1e-9) * len(self._engines)
        self._tokens_per_second += (speed - self._tokens_per_second) * (SMOOTHING if self._tokens_per_second else 1)
        if self._on_batch is not None:
            padded = max(entry.length for entry in batch) * len(batch)
            self._on_batch(BatchReport(len(batch), tokens, padded, seconds))

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
        self._tokenizer.shutdown()
        for engine in self._engines:
            engine.close()


def rows_of(rows: Rows) -> Sequence[Row]:
    """The rows of a batch, of our own: an engine may write its next answer over this one."""
    if isinstance(rows, list):
        return rows
    return list(rows.copy()) if rows.ndim == 1 else vectors_of(rows)


def vectors_of(rows: NDArray[np.float32]) -> list[Vector]:
    lengths = np.sqrt(np.vecdot(rows, rows))
    units = rows / np.maximum(lengths, TINY)[:, None]  # for a batch at once: for each answer it would take longer
    return list(map(Vector, units, lengths.tolist()))


def slices(texts: Sequence[Text], lengths: Sequence[int]) -> list[Sequence[Text]]:
    """Consecutive texts, so many that each slice has about `SLICE_CHARACTERS`."""
    ends = [0]
    characters = 0
    for position, length in enumerate(lengths, 1):
        characters += length
        if characters >= SLICE_CHARACTERS or position == len(texts):
            ends.append(position)
            characters = 0
    return [texts[start:end] for start, end in itertools.pairwise(ends)]


def tokens_in(texts: Sequence[Tokens]) -> int:
    return sum([len(text.ids) for text in texts])


def shortened(tokens: Tokens, most: int, engine: Engine) -> Tokens:
    """Cut to fewer tokens than the model reads, keeping the special one that ends the text, if one does."""
    if len(tokens.ids) <= most:
        return tokens
    keeps_last = most > 1 and not engine.decode(tokens.ids[-1:])
    ids = [*tokens.ids[: most - 1], tokens.ids[-1]] if keeps_last else tokens.ids[:most]
    types = None if tokens.type_ids is None else tokens.type_ids[:most]
    return Tokens(ids, tokens.total, types, tokens.text, tokens.prompt)


def too_long(position: int, tokens: Tokens) -> InvalidRequest:
    return InvalidRequest(
        f"The text at position {position} has {tokens.total} tokens; the model reads at most {len(tokens.ids)}. "
        "Send less, or declare the model with `truncate: cut`.",
        param="input",
    )
