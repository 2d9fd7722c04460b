"""Stores that others made: rows of the chunk table whose store Quiver does not know yet, or never counted."""

from api.resources import Resources
from api.settings import Settings
from api.tables import chunks, sql_search


async def adopt(settings: Settings) -> list[str]:
    """Register stores found in the table of chunks and count what is in them; have SQL search that table. Idempotent.

    Returns:
        One line to print for each store that was adopted.

    Raises:
        ConfigurationError: the mapping does not fit the table.
        DatabaseUnavailable: the database cannot be reached.
    """
    resources = Resources.of(settings)
    await resources.database.open()
    try:
        table = await resources.database.chunk_table()
        async with resources.database.transaction(is_long=True) as connection:
            adopted = await chunks.adopt_stores(connection, table)
            await sql_search.create(connection, table)
    finally:
        await resources.close()
    return [
        f"Adopted vector store {store['id']!r}: {store['chunks']} chunks of {store['dimension']} dimensions"
        f"{' (no URL can name an id with a slash: only SQL reaches it)' if '/' in store['id'] else ''}"
        for store in adopted
    ]
