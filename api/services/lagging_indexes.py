"""What the indexes that are kept behind the writes have in common, whatever they hold."""

from collections.abc import Awaitable, Callable

from api.field_mapping import ChunkTable
from api.resources import Resources
from api.tables.database import Connection
from api.tables.lagging_index import LaggingIndex

ForgetDeleted = Callable[[Connection, ChunkTable, str], Awaitable[None]]


async def sweep(resources: Resources, index: LaggingIndex, forget_deleted: ForgetDeleted) -> list[str]:
    """Forget the chunks that are gone, and all of stores that are; answer with the stores that are left."""
    table = await resources.database.chunk_table()
    if not table.has_seq:
        return []
    async with resources.database.connection() as connection:
        kept, orphaned = await index.list_stores(connection)
    for id in orphaned:
        async with resources.database.transaction(is_long=True) as connection:
            await index.clear(connection, id)
    for id in kept:
        async with resources.database.transaction(is_long=True) as connection:
            if await index.claim(connection, id):
                await forget_deleted(connection, table, id)
    return kept
