"""Whether a request would find what it needs: the database, its tables, the embedding service."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from api.errors import ApiError, ConfigurationError, DatabaseUnavailable
from api.resources import Resources
from api.schemas.operations import Readiness
from api.tables import migrations

log: structlog.stdlib.BoundLogger = structlog.get_logger()

OK = "ok"
CHECK_SECONDS = 3


async def check(resources: Resources) -> Readiness:
    """Each part's state: `ok`, or a sentence on what is wrong with it."""
    database, proxy = await asyncio.gather(_state(_ping(resources)), _state(resources.embeddings.check()))
    tables = await _state(_check_tables(resources)) if database == OK else "The database cannot be asked."
    is_ready = database == tables == proxy == OK
    return {
        "status": "ok" if is_ready else "unavailable",
        "checks": {"database": database, "migrations": tables, "embedding_service": proxy},
    }


async def _state(part: Coroutine[Any, Any, None]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await part
    except TimeoutError:
        return f"There is no answer within {CHECK_SECONDS} seconds."
    except ConfigurationError as error:  # who may not see the tables may ask whether we are ready
        log.error("misconfigured", message=str(error))
        return "The field mapping does not fit the table; the log says how."
    except ApiError as error:
        return error.message
    return OK


async def _ping(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        await connection.execute("SELECT 1")


async def _check_tables(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        status = await migrations.read_status(connection)
    if status.pending:
        raise DatabaseUnavailable(f"Not applied: {', '.join(status.pending)}; run `quiver db migrate`.")
    await resources.database.chunk_table()
