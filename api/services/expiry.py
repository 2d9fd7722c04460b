"""Stores that have expired give their contents back."""

from api.resources import Resources
from api.tables import chunks, vector_store_files, vector_stores


async def sweep(resources: Resources) -> list[str]:
    """Delete what expired stores hold, each store in a transaction of its own, and answer with their ids."""
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        expired = await vector_stores.list_expired(connection)
    swept: list[str] = []
    for id in expired:
        async with resources.database.transaction(is_long=True) as connection:
            if not await vector_stores.lock_expired(connection, id):
                continue
            await vector_store_files.delete_of_store(connection, id)
            await chunks.delete_of_store(connection, table, id)
            await vector_stores.set_expired(connection, id)
        swept.append(id)
    return swept
