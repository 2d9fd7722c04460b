"""How much there is in the queue, for whoever decides how many workers there are."""

import asyncio

from api.errors import DatabaseUnavailable
from api.resources import Resources
from api.tables import jobs

DEPTH_SECONDS = 3  # Prometheus waits for 10


async def depth(resources: Resources) -> dict[tuple[str, str], int] | None:
    """The number of jobs by queue and status; None if PostgreSQL does not tell in time."""
    try:
        async with asyncio.timeout(DEPTH_SECONDS), resources.database.connection() as connection:
            return await jobs.count(connection)
    except (TimeoutError, DatabaseUnavailable):
        return None
