"""The queue in front of a model: whatever waits while the model is busy becomes its next batch.

Requests take turns, one batch's worth each, so that a long one does not hold up a short one behind it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import structlog

from embedder.engines import Encoded, Engine
from embedder.errors import ModelFailed, QueueFull, ShuttingDown

log = structlog.get_logger()


class Job:
    """One caller's texts: which of them still wait, and the answer as it fills."""

    def __init__(self, texts: Sequence[str], *, dimensions: int) -> None:
        self.texts = texts
        # Texts of like length share a batch, so that little of it is padding. The longest go first: the last.
        self.waiting = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        self.unanswered = len(texts)
        self.answer = Encoded(np.empty((len(texts), dimensions), dtype=np.float32), [0] * len(texts))
        self.future: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()

    def take(self, *, most_texts: int, most_characters: int) -> list[int]:
        """Positions of texts that, padded to the longest of them, have that many characters; at least one."""
        longest = len(self.texts[self.waiting[-1]])
        count = max(1, min(most_texts, most_characters // max(1, longest)))
        taken = self.waiting[-count:]
        del self.waiting[-count:]
        return taken

    def accept(self, positions: list[int], encoded: Encoded) -> None:
        self.answer.vectors[positions] = encoded.vectors
        for position, tokens in zip(positions, encoded.tokens, strict=True):
            self.answer.tokens[position] = tokens
        self.unanswered -= len(positions)
        if not self.unanswered and not self.future.done():
            self.future.set_result(self.answer)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class Part:
    """What one job has in a batch."""

    job: Job
    positions: list[int]


class Batcher:
    """Feeds one engine from one thread. An async context manager; leaving it finishes what was admitted."""

    def __init__(
        self, engine: Engine, *, max_batch_texts: int, max_batch_characters: int, max_queued_texts: int
    ) -> None:
        self.engine = engine
        self._max_batch_texts = max_batch_texts
        self._max_batch_characters = max_batch_characters
        self._max_queued_texts = max_queued_texts
        self._jobs: deque[Job] = deque()
        self.queued_texts = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._worker is not None  # set on entering
        self._closing = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    async def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors and token counts in the order of the texts. A cancelled caller's waiting texts are dropped.

        Raises:
            QueueFull: too many texts wait already. An idle queue admits any number.
            ModelFailed: the model raised on these texts.
            ShuttingDown: the batcher is being left.
        """
        if self._closing:
            raise ShuttingDown("The embedder is shutting down; try again.")
        if self.queued_texts and self.queued_texts + len(texts) > self._max_queued_texts:
            raise QueueFull(f"{self.queued_texts} texts wait for the model already; try again in a second.")
        job = Job(texts, dimensions=self.engine.dimensions)
        self._jobs.append(job)
        self.queued_texts += len(texts)
        self._changed.set()
        try:
            return await job.future
        finally:
            self.queued_texts -= len(job.waiting)  # some are left when it was cancelled or failed
            job.waiting.clear()

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            if batch := self._next_batch():
                await self._encode(batch)
            elif self._closing:
                return
            else:
                await self._changed.wait()

    def _next_batch(self) -> list[Part]:
        batch: list[Part] = []
        texts, characters = self._max_batch_texts, self._max_batch_characters
        for _ in range(len(self._jobs)):
            job = self._jobs.popleft()
            if job.future.done():
                continue
            positions = job.take(most_texts=texts, most_characters=characters)
            self.queued_texts -= len(positions)
            texts -= len(positions)
            characters -= sum(len(job.texts[position]) for position in positions)
            batch.append(Part(job, positions))
            if job.waiting:
                self._jobs.append(job)
            if texts <= 0 or characters <= 0:
                break
        return batch

    async def _encode(self, batch: list[Part]) -> None:
        texts = [part.job.texts[position] for part in batch for position in part.positions]
        try:
            encoded = await asyncio.get_running_loop().run_in_executor(self._thread, self.engine.encode, texts)
        except Exception as error:  # noqa: BLE001  # whatever a model raises, the callers of this batch must hear of it
            await self._encode_apart(batch, error)
            return
        start = 0
        for part in batch:
            end = start + len(part.positions)
            part.job.accept(part.positions, Encoded(encoded.vectors[start:end], encoded.tokens[start:end]))
            start = end

    async def _encode_apart(self, batch: list[Part], error: Exception) -> None:
        """Give each caller of a failed batch a batch of its own: only the one with the bad text fails."""
        if len(batch) > 1:
            for part in batch:
                await self._encode([part])
            return
        log.error("model_failed", model=self.engine.name, texts=len(batch[0].positions), exc_info=error)
        batch[0].job.fail(ModelFailed("The model failed on these texts; the embedder's log says why."))
