"""When periodic jobs are put into the queue: by one task of each worker's process."""

import time
from collections.abc import Iterable
from typing import Any, Self

import procrastinate
from procrastinate.periodic import PeriodicDeferrer, PeriodicRegistry, PeriodicTask

from api.tables import jobs

Due = tuple[PeriodicTask[..., Any, ...], int]  # a task, and the moment at which it was due


class Schedule(PeriodicDeferrer):
    """Leaves out a job of which one waits already; PostgreSQL would refuse it, with an ERROR in its log."""

    def __init__(self, registry: PeriodicRegistry, queue: procrastinate.BaseConnector) -> None:
        super().__init__(registry)
        self._queue = queue  # with connections of its own: those of a busy worker's files would be waited for

    @classmethod
    def taken_from(cls, app: procrastinate.App) -> Self:
        """What is periodic in `app`. Its workers then leave it alone, each of which would defer all of it."""
        registry, app.periodic_registry = app.periodic_registry, PeriodicRegistry()
        return cls(registry, app.connector)

    async def defer_due(self) -> None:
        await self.defer_jobs(self.get_previous_tasks(at=time.time()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # partly untyped

    async def defer_jobs(self, jobs_to_defer: Iterable[Due]) -> None:
        # The name of each is its queueing lock; of moments that were missed, the last does for all.
        latest = {periodic.task.name: (periodic, timestamp) for periodic, timestamp in jobs_to_defer}
        rows = await self._queue.execute_query_all_async(jobs.LIST_WAITING, locks=list(latest))
        waiting = {row["queueing_lock"] for row in rows}
        await super().defer_jobs(due for name, due in latest.items() if name not in waiting)  # pyright: ignore[reportUnknownMemberType]  # as above
