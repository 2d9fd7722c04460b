"""Whether the store has what the source has: one more pass over the source, and questions to both."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from api.migrate.checks import Limits, check
from api.migrate.records import Record, Source, Tally
from api.migrate.target import Kept, StoreFacts, Target
from api.vectors import Vector, Vectors

SAMPLED_ROWS: Final = 200
SAMPLED_SEARCHES: Final = 10
NEAREST: Final = 10
LOOKED_UP_ROWS: Final = 2000  # in one statement
# Half precision moves a cosine by less than this; of two rows nearer than that to each other either may come first.
TOLERANCE: Final = 2e-3
MISSED: Final = 0.1  # of the nearest rows, which an index of the vectors may miss


@dataclass
class Verdict:
    """What was compared, and what was found wrong with it."""

    rows: int = 0  # of the source that can go
    rejected: int = 0
    looked_up: int = 0
    compared: int = 0
    searches: int = 0
    problems: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # ids, by what is wrong with them

    def blame(self, problem: str, ids: Iterable[str]) -> None:
        if found := list(ids):
            self.problems.setdefault(problem, []).extend(found)


@dataclass
class _Search:
    """One of the store's own vectors, and what of the source is nearest to it."""

    vector: Vector
    nearest: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def see(self, ids: list[str], units: Vectors) -> None:
        cosines = units @ (self.vector / np.linalg.norm(self.vector))
        best = np.argsort(-cosines)[:NEAREST]
        found: list[tuple[float, str]] = [(float(cosines[number]), ids[number]) for number in best.tolist()]
        self.nearest = sorted([*self.nearest, *found], reverse=True)[:NEAREST]


async def verify(
    source: Source,
    target: Target,
    store: StoreFacts,
    limits: Limits,
    *,
    on_progress: Callable[[Tally], None],
) -> Verdict:
    """Compare source and store: every id, the texts, metadata and vectors of a sample, and the nearest of some rows.

    `limits` are those of the migration: what could not go then is not missed.
    """
    verdict = Verdict()
    count = await target.count(store) or 0
    sample = await target.get(store, await target.sample(store, of=count, limit=SAMPLED_ROWS))
    searches: list[_Search] | None = None
    tally = Tally()
    async with aclosing(source.read()) as batches:
        async for batch in batches:
            checked = check(batch.records, limits)
            verdict.rows += len(checked.records)
            verdict.rejected += len(checked.rejects)
            await _look_up(target, store, checked.records, verdict)
            _compare(target, checked.records, checked.vectors, sample, verdict)
            if checked.vectors is not None and checked.records:
                if searches is None:
                    searches = _searches(sample, checked.vectors)
                wide = checked.vectors.astype(np.float32)
                units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
                for search in searches:
                    search.see([target.found_as(record) for record in checked.records], units)
            tally.written, tally.rejected = verdict.rows, verdict.rejected
            on_progress(tally)
    if count < verdict.rows:
        verdict.blame("are missing by the count", [f"{count:,} of {verdict.rows:,}"])
    await _compare_searches(target, store, searches or [], verdict, is_alone=count == verdict.rows)
    return verdict


def _searches(sample: dict[str, Kept], first: Vectors) -> list[_Search]:
    """Searches for some rows of the store; of the source, where the store does not give its vectors."""
    vectors = [kept.vector for kept in sample.values() if kept.vector is not None] or list(first.astype(np.float32))
    step = max(1, len(vectors) // SAMPLED_SEARCHES)
    return [_Search(vector) for vector in vectors[::step][:SAMPLED_SEARCHES]]


async def _look_up(target: Target, store: StoreFacts, records: list[Record], verdict: Verdict) -> None:
    for start in range(0, len(records), LOOKED_UP_ROWS):
        wanted = [str(record.id) for record in records[start : start + LOOKED_UP_ROWS]]
        looked_up, missing = await target.look_up(store, wanted)
        verdict.looked_up += looked_up
        verdict.blame("are not in the store", sorted(missing))


def _compare(
    target: Target, records: list[Record], vectors: Vectors | None, sample: dict[str, Kept], verdict: Verdict
) -> None:
    for number, record in enumerate(records):
        id = str(record.id)
        kept = sample.get(id)
        if kept is None:
            continue
        verdict.compared += 1
        if kept.content != record.content:
            verdict.blame("have another text", [id])
        if kept.metadata != record.metadata:
            verdict.blame("have other metadata", [id])
        if vectors is None or kept.vector is None:
            continue
        wanted = target.storable(vectors[number : number + 1])[0]
        if wanted.shape != kept.vector.shape or not (wanted == kept.vector).all():
            verdict.blame("have another vector", [id])


async def _compare_searches(
    target: Target, store: StoreFacts, searches: Sequence[_Search], verdict: Verdict, *, is_alone: bool
) -> None:
    """The same rows are nearest, whichever way they are asked for; equals may change places.

    Where the source `is_alone` in the store, nothing else may be found.
    """
    wanted_rows, missed = 0, set[str]()
    for search in searches:
        found = _best(await target.search(store, search.vector, limit=NEAREST))
        wanted = _best([(id, cosine) for cosine, id in search.nearest])
        verdict.searches += 1
        wanted_rows += len(wanted)
        last_found, last_wanted = min(found.values(), default=-1.0), min(wanted.values(), default=1.0)
        missed |= {id for id, cosine in wanted.items() if id not in found and cosine > last_found + TOLERANCE}
        if is_alone:
            missed |= {id for id, cosine in found.items() if id not in wanted and cosine < last_wanted - TOLERANCE}
            if last_found > last_wanted + TOLERANCE:  # an index may miss rows, and invents none
                verdict.blame("are found nearer than they are in the source", sorted(found.keys() - wanted.keys()))
        moved = [id for id, cosine in found.items() if id in wanted and abs(cosine - wanted[id]) > TOLERANCE]
        verdict.blame("are found at another distance", moved)
    if len(missed) > MISSED * wanted_rows:
        verdict.blame("are found by a search of one side only", sorted(missed))


def _best(found: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The nearest of each, as several chunks of a file are found under its id."""
    best: dict[str, float] = {}
    for id, cosine in found:
        best[id] = max(cosine, best.get(id, -1.0))
    return best
