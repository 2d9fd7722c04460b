"""When periodic jobs are put into the queue: by one task of each worker's process."""

import time
from collections.abc import Iterable
from typing import Any, Self

import procrastinate
from procrastinate.periodic import PeriodicDeferrer, PeriodicRegistry, PeriodicTask

from api.tables import jobs
from api.tables.database import Database

Due = tuple[PeriodicTask[..., Any, ...], int]  # a task, and the moment at which it was due


class Schedule(PeriodicDeferrer):
    """Leaves out a job of which one waits already; PostgreSQL would refuse it, with an ERROR in its log."""

    def __init__(self, registry: PeriodicRegistry, database: Database) -> None:
        super().__init__(registry)
        self._database = database

    @classmethod
    def taken_from(cls, app: procrastinate.App, database: Database) -> Self:
        """What is periodic in `app`. Its workers then leave it alone, each of which would defer all of it."""
        registry, app.periodic_registry = app.periodic_registry, PeriodicRegistry()
        return cls(registry, database)

    async def defer_due(self) -> None:
        await self.defer_jobs(self.get_previous_tasks(at=time.time()))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # partly untyped

    async def defer_jobs(self, jobs_to_defer: Iterable[Due]) -> None:
        # The name of each is its queueing lock; of moments that were missed, the last does for all.
        latest = {periodic.task.name: (periodic, timestamp) for periodic, timestamp in jobs_to_defer}
        async with self._database.connection() as connection:
            waiting = await jobs.list_waiting(connection, list(latest))
        await super().defer_jobs(due for name, due in latest.items() if name not in waiting)  # pyright: ignore[reportUnknownMemberType]  # as above
