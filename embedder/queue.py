"""What waits for a model, and which of it is computed next. Knows tokens and requests, no asyncio and no engine.

Short requests go first, so that a long one does not hold them up; every `PATIENCE`-th batch belongs to whoever
has waited longest, so that nothing starves. Identical texts that wait or are being computed are one entry.
"""

import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from embedder.engines import Tokens

PATIENCE = 8
# A batch costs about as much to begin as this many tokens cost to compute: up to it, padding is the cheaper way.
BATCH_OVERHEAD_TOKENS = 32


@dataclass(eq=False, slots=True)
class Entry:
    """One distinct text: computed once, for every request that asks for it meanwhile."""

    key: Hashable
    tokens: Tokens
    length: int
    claims: "dict[Job, list[int]]" = field(default_factory=dict["Job", list[int]])  # who wants it, at which positions
    is_waiting: bool = True


class Job:
    """One request's texts in the queue. `waiting` is sorted by length and may hold entries that have been taken."""

    __slots__ = ("remaining_tokens", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Entry] = []
        self.remaining_tokens = 0

    def take(self, *, shortest: int, longest: int, most: int) -> Iterator[Entry]:
        """Take entries of like length, the longest first; others stay."""
        kept: list[Entry] = []
        while self.waiting and most:
            entry = self.waiting.pop()
            if not entry.is_waiting:
                continue
            if entry.length > longest:
                kept.append(entry)
            elif entry.length < shortest:
                self.waiting.append(entry)
                break
            else:
                most -= 1
                yield entry
        self.waiting += reversed(kept)


class Queue:
    """Filled from the event loop, emptied by the models' threads."""

    def __init__(self, *, max_batch_tokens: int, max_batch_texts: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_texts = max_batch_texts
        self._changed = threading.Condition()
        self._jobs: dict[Job, None] = {}  # those with something waiting, oldest first
        self._entries: dict[Hashable, Entry] = {}  # waiting or being computed
        self._batches_since_oldest = 0
        self._is_closed = False
        self.waiting_tokens = 0

    def put(self, job: Job, texts: Sequence[tuple[Hashable, Tokens]]) -> None:
        """Queue a request's texts under keys that say which are identical; an answer names their positions."""
        with self._changed:
            for position, (key, tokens) in enumerate(texts):
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = Entry(key, tokens, max(1, len(tokens.ids)))
                    self.waiting_tokens += entry.length
                positions = entry.claims.setdefault(job, [])
                if not positions and entry.is_waiting:
                    job.waiting.append(entry)
                    job.remaining_tokens += entry.length
                positions.append(position)
            job.waiting.sort(key=_length)
            if job.waiting:
                self._jobs[job] = None
                self._changed.notify()

    def drop(self, job: Job) -> None:
        """Forget what a request still waits for; others that want the same keep it."""
        with self._changed:
            self._jobs.pop(job, None)
            for entry in job.waiting:
                entry.claims.pop(job, None)
                if entry.is_waiting and not entry.claims:
                    self._settle(entry)
                    del self._entries[entry.key]
            job.waiting.clear()

    def take(self) -> list[Entry]:
        """Wait for a batch. Empty when the queue is closed and nothing waits."""
        with self._changed:
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            if not self._jobs:
                return []
            batch = self._form_batch()
            if self._jobs:
                self._changed.notify()  # another thread may have one as well
            return batch

    def finish(self, batch: Iterable[Entry]) -> None:
        """Close entries that have been computed: who asks for the same text from here on has it computed again."""
        with self._changed:
            for entry in batch:
                del self._entries[entry.key]

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _form_batch(self) -> list[Entry]:
        leader = self._choose_leader()
        longest = _longest_waiting(leader)
        padded = longest + max(longest // 4, BATCH_OVERHEAD_TOKENS // 4)
        shortest = longest * 3 // 4 - BATCH_OVERHEAD_TOKENS // 2
        most = max(1, min(self._max_batch_texts, self._max_batch_tokens // padded))
        batch: list[Entry] = []
        for job in self._companions(leader):
            for entry in job.take(shortest=shortest, longest=padded, most=most - len(batch)):
                self._settle(entry)
                batch.append(entry)
            if len(batch) >= most:
                break
        return batch

    def _choose_leader(self) -> Job:
        self._batches_since_oldest += 1
        if self._batches_since_oldest >= PATIENCE:
            self._batches_since_oldest = 0
            return next(iter(self._jobs))
        return min(self._jobs, key=_remaining)

    def _companions(self, leader: Job) -> list[Job]:
        """The leader, then who may join its batch: a request of several batches does not slow one of less than one."""
        others = [job for job in self._jobs if job is not leader]
        if leader.remaining_tokens <= self._max_batch_tokens:
            others = [job for job in others if job.remaining_tokens <= self._max_batch_tokens]
        others.sort(key=_remaining)
        return [leader, *others]

    def _settle(self, entry: Entry) -> None:
        """An entry waits no longer: it is taken, or nobody wants it."""
        entry.is_waiting = False
        self.waiting_tokens -= entry.length
        for job in entry.claims:
            job.remaining_tokens -= entry.length
            if not job.remaining_tokens:
                self._jobs.pop(job, None)


def _longest_waiting(job: Job) -> int:
    while not job.waiting[-1].is_waiting:  # taken for another request
        job.waiting.pop()
    return job.waiting[-1].length


def _length(entry: Entry) -> int:
    return entry.length


def _remaining(job: Job) -> int:
    return job.remaining_tokens
