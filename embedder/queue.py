"""What waits for a model, and which of it is computed next. Knows tokens and requests, no asyncio and no engine.

Short requests go first, so that a long one does not hold them up, and of those of like size who came first; every
`PATIENCE`-th batch belongs to whoever has waited longest, so that nothing starves. Identical texts that wait or are
being computed are one entry.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from operator import attrgetter, neg

from embedder.admission import Backlog
from embedder.engines import OVERHEAD_TOKENS, Shape, Tokens, as_asked

PATIENCE = 8
SHORT_BITS = 7  # requests below 128 tokens are of like size: with the shortest of them first, p99 was twice as long

_length, _remaining = attrgetter("length"), attrgetter("remaining_tokens")


@dataclass(eq=False, slots=True)
class Entry:
    """One distinct text: computed once, for every request that asks for it meanwhile."""

    key: Hashable
    tokens: Tokens
    length: int
    claims: "dict[Job, list[int]]" = field(default_factory=dict["Job", list[int]])  # who wants it, at which positions
    is_waiting: bool = True
    is_short: bool = False  # as the request is that asked for it first


class Job:
    """One request's texts in the queue. `waiting` is sorted by length."""

    __slots__ = ("remaining_tokens", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Entry] = []
        self.remaining_tokens = 0

    def between(self, shortest: int, longest: int) -> Sequence[Entry]:
        if len(self.waiting) == 1:  # as of most requests: looked at for each of them, at each batch
            return self.waiting if shortest <= self.waiting[0].length <= longest else ()
        start = bisect_left(self.waiting, shortest, key=_length)
        return self.waiting[start : bisect_right(self.waiting, longest, key=_length)]


def _size(job: Job) -> int:
    """In doublings of tokens."""
    return max(SHORT_BITS, job.remaining_tokens.bit_length())


class Queue:
    """Filled from the event loop, emptied by the models' threads."""

    def __init__(
        self,
        *,
        max_batch_tokens: int,
        max_batch_texts: int,
        shape: Callable[[int, int], Shape] = as_asked,
        overhead_tokens: int = OVERHEAD_TOKENS,
    ) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_texts = max_batch_texts
        self._shape = shape  # what a number of texts, the longest of so many tokens, is computed as
        self._overhead_tokens = overhead_tokens
        self._changed = threading.Condition()
        self._jobs: dict[Job, None] = {}  # those with something waiting, oldest first
        self._entries: dict[Hashable, Entry] = {}  # waiting or being computed
        self._batches_since_oldest = 0
        self._is_closed = False
        self.backlog = Backlog()

    def put(self, job: Job, texts: Sequence[tuple[Hashable, Tokens]]) -> None:
        """Queue a request's texts under keys that say which are identical; an answer names their positions."""
        is_short = sum(len(tokens.ids) for _, tokens in texts) <= self._max_batch_tokens
        with self._changed:
            for position, (key, tokens) in enumerate(texts):
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = Entry(key, tokens, max(1, len(tokens.ids)), is_short=is_short)
                    self.backlog.add(entry.length, is_short=is_short)
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
        first = leader.waiting[-1]
        batch = self._densest(first, self._companions_of(first, leader))
        for entry in batch:
            self._settle(entry)
        for job in {job: None for entry in batch for job in entry.claims}:
            job.waiting = [entry for entry in job.waiting if entry.is_waiting]
        return batch

    def _densest(self, first: Entry, others: Sequence[Entry]) -> list[Entry]:
        """The batch of this entry and any of the others that computes most tokens for its cost, padding included."""
        lengths = [entry.length for entry in others]  # the longest first
        tokens_before = [0, *accumulate(lengths)]
        rows, columns = self._shape(1, first.length)
        best = (first.length / (rows * columns + self._overhead_tokens), first.length, 1)
        for longest in {first.length, *(length for length in lengths if length > first.length)}:
            start = bisect_left(lengths, -longest, key=neg)  # the first that fits
            most = min(1 + len(lengths) - start, self._max_batch_texts)
            texts, density, columns = 1, 0.0, 0
            # Another text makes a batch denser only while it fills more of its row than the batch does of its own.
            while texts < most and lengths[start + texts - 1] >= density * columns:
                rows, columns = self._shape(texts + 1, longest)
                if rows * columns > self._max_batch_tokens:
                    break
                texts = min(rows, most)  # as many as are computed anyway
                tokens = first.length + tokens_before[start + texts - 1] - tokens_before[start]
                density = tokens / (rows * columns + self._overhead_tokens)
                if (density, longest, texts) > best:
                    best = density, longest, texts
        _, longest, texts = best
        start = bisect_left(lengths, -longest, key=neg)
        return [first, *others[start : start + texts - 1]]

    def _choose_leader(self) -> Job:
        self._batches_since_oldest += 1
        if self._batches_since_oldest >= PATIENCE:
            self._batches_since_oldest = 0
            return next(iter(self._jobs))
        return min(self._jobs, key=_size)

    def _companions_of(self, first: Entry, leader: Job) -> list[Entry]:
        """Entries of like length, the longest first, of the leader and of who may join its batch.

        A request of several batches does not slow one of less than one.
        """
        longest = first.length + max(first.length // 4, self._overhead_tokens // 4)
        shortest = first.length * 3 // 4 - self._overhead_tokens // 2
        others = [job for job in self._jobs if job is not leader]
        if leader.remaining_tokens <= self._max_batch_tokens:
            others = [job for job in others if job.remaining_tokens <= self._max_batch_tokens]
        others.sort(key=_remaining)
        like = (entry for job in (leader, *others) for entry in reversed(job.between(shortest, longest)))
        found = dict.fromkeys(entry for entry in like if entry is not first)  # one may belong to several
        return sorted(islice(found, self._max_batch_texts), key=_length, reverse=True)

    def _settle(self, entry: Entry) -> None:
        """An entry waits no longer: it is taken, or nobody wants it."""
        entry.is_waiting = False
        self.backlog.add(-entry.length, is_short=entry.is_short)
        for job in entry.claims:
            job.remaining_tokens -= entry.length
            if not job.remaining_tokens:
                self._jobs.pop(job, None)
