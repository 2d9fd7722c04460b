"""`--dry-run`: everything but the writing, with an estimate of what that would take."""

import time
from contextlib import aclosing

from api.migrate.checks import Limits, check
from api.migrate.moving import count_reasons
from api.migrate.progress import Progress, duration, rows_of, say, size
from api.migrate.records import Source, Tally
from api.migrate.target import Prepared, StoreFacts, Target

TRIAL_ROWS = 2000


async def try_out(source: Source, target: Target, limits: Limits, *, total: int | None) -> None:
    """Read and check every row, write some of them where they leave nothing, and say what came of it."""
    tally, trial = Tally(), _Trial(target)
    dimensions: dict[int, int] = {}
    reading_seconds, started = 0.0, time.monotonic()
    with Progress("Reading", total=total) as progress:
        async with aclosing(source.read()) as batches:
            async for batch in batches:
                for record in batch.records:
                    if record.vector is not None:
                        dimensions[record.vector.size] = dimensions.get(record.vector.size, 0) + 1
                checked = check(batch.records, limits)
                reading_seconds += time.monotonic() - started
                tally.written += len(checked.records)
                tally.rejected += len(checked.rejects)
                count_reasons(tally, checked.rejects)
                if limits.needs_vectors and trial.rows < TRIAL_ROWS and checked.records:
                    await trial.run(target.prepare(StoreFacts("trial", "", None, None), checked, None))
                progress.show(tally)
                started = time.monotonic()
    say(f"{rows_of(tally.read)}, of which {tally.written:,} can go and {tally.rejected:,} cannot.")
    for reason, count in sorted(tally.reasons.items(), key=lambda item: -item[1]):
        say(f"  {rows_of(count)}: {reason}")
    if dimensions:
        say("Dimensions: " + ", ".join(f"{size} ({rows_of(count)})" for size, count in sorted(dimensions.items())))
    if trial.rows:
        seconds = max(reading_seconds, tally.written * trial.seconds / trial.rows)
        taken = size(tally.written * trial.bytes / trial.rows)
        say(f"It would take about {duration(seconds)} and {taken} of the database, its indexes for filters included.")
    say("Nothing was written.")


class _Trial:
    def __init__(self, target: Target) -> None:
        self._target = target
        self.rows = 0
        self.seconds = 0.0
        self.bytes = 0

    async def run(self, batch: Prepared) -> None:
        if not batch.records:
            return
        started = time.monotonic()
        taken = await self._target.trial(StoreFacts("trial", "", None, None), batch)
        if taken is None:
            return
        self.bytes += taken
        self.seconds += time.monotonic() - started
        self.rows += len(batch.records)
