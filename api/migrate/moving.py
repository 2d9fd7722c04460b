"""The migration itself: read, check, pack and write in bounded memory, each step while the others wait."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from api.migrate.checks import Checked, Limits, check
from api.migrate.records import Reject, Source, Tally
from api.migrate.rejects import Rejects
from api.migrate.target import Prepared, StoreFacts, Target
from api.tables.migration_checkpoints import Checkpoint

T = TypeVar("T")
Embed = Callable[[Checked], Awaitable[Checked]]
AHEAD_BATCHES = 1  # that wait ready while one is written


@dataclass(frozen=True)
class Move:
    """What goes where."""

    source: Source
    target: Target
    store: StoreFacts
    limits: Limits
    embed: Embed | None = None  # makes the vectors, when they are made anew


async def move(work: Move, checkpoint: Checkpoint, rejects: Rejects, *, on_progress: Callable[[Tally], None]) -> Tally:
    """Write everything behind the checkpoint; what became of all the rows, those of earlier runs included.

    Raises:
        ApiError: the source, the target or the embedding service is away; what is written stays written.
    """
    tally = Tally(checkpoint["rows_written"], checkpoint["rows_skipped"], checkpoint["rows_rejected"])
    async with aclosing(ahead(_prepared(work, checkpoint["position"]))) as batches:
        async for batch in batches:
            outcome, checkpoint = await work.target.write(work.store, batch, checkpoint, rejects)
            tally.written += outcome.written
            tally.skipped += outcome.skipped
            tally.rejected += len(outcome.rejects)
            count_reasons(tally, outcome.rejects)
            on_progress(tally)
    rejects.cut()
    await work.target.finish(checkpoint)
    return tally


async def _prepared(work: Move, position: Any) -> AsyncGenerator[Prepared]:
    async with aclosing(work.source.read(position)) as batches:
        async for batch in batches:
            checked = check(batch.records, work.limits)
            if work.embed is not None and checked.records:
                checked = await work.embed(checked)
            yield work.target.prepare(work.store, checked, batch.position)


async def ahead(items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same items, the next one made while the last is dealt with."""
    ready = asyncio.Queue[T | None](AHEAD_BATCHES)

    async def fill() -> None:
        async with aclosing(items):
            async for item in items:
                await ready.put(item)
        await ready.put(None)

    task = asyncio.create_task(fill())
    try:
        while True:
            getting = asyncio.create_task(ready.get())
            await asyncio.wait({getting, task}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and task.done():
                getting.cancel()
                task.result()  # raises what went wrong
            item = await getting
            if item is None:
                return
            yield item
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def count_reasons(tally: Tally, rejects: list[Reject]) -> None:
    for reject in rejects:
        tally.reasons[reject.reason] = tally.reasons.get(reject.reason, 0) + 1
