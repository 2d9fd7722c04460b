"""Whether a request would find what it needs: the database, its tables, the embedding service."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from api.errors import ApiError, ConfigurationError
from api.resources import Resources
from api.schemas import Readiness
from api.tables import migrations

OK = "ok"


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
        await part
    except (ApiError, ConfigurationError) as error:
        return str(error)
    return OK


async def _ping(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        await connection.execute("SELECT 1")


async def _check_tables(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        status = await migrations.read_status(connection)
    if status.pending:
        raise ConfigurationError(f"Not applied: {', '.join(status.pending)}; run `quiver db migrate`.")
    await resources.database.chunk_table()
