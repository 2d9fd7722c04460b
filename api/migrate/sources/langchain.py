"""LangChain's PGVector: `langchain_pg_embedding`, whose rows belong to the collections of `langchain_pg_collection`."""

import dataclasses

from psycopg import sql

from api.errors import ConfigurationError
from api.migrate.fields import Fields
from api.migrate.records import StoreSettings, none_found
from api.migrate.sources.postgres import PostgresRows, connected, open_rows

TABLE = "langchain_pg_embedding"

LIST_COLLECTIONS = "SELECT uuid::text, name FROM langchain_pg_collection ORDER BY name"

FIND_TABLE = "SELECT 1 WHERE to_regclass('langchain_pg_embedding') IS NOT NULL"

# The key's name tells the versions apart: `id` is langchain-postgres', `uuid` langchain-community's.
FIND_KEY = """
SELECT attname FROM pg_attribute
WHERE attrelid = 'langchain_pg_embedding'::regclass AND attname IN ('id', 'uuid') ORDER BY attname LIMIT 1
"""

OF_COLLECTION = "(SELECT * FROM langchain_pg_embedding WHERE collection_id = {collection}::uuid) AS source"


async def open_collections(url: str, wanted: Fields, *, collection: str | None) -> list[PostgresRows]:
    """One source a collection.

    Raises:
        ConfigurationError: there is no such collection.
    """
    async with connected(url) as connection:
        if await (await connection.execute(FIND_TABLE)).fetchone() is None:
            raise ConfigurationError(f"That database has no tables of LangChain's: {TABLE} is not there.")
        collections = await (await connection.execute(LIST_COLLECTIONS)).fetchall()
        row = await (await connection.execute(FIND_KEY)).fetchone()
    key = "uuid" if row is None else row[0]
    chosen = [(uuid, name) for uuid, name in collections if collection in (None, name, uuid)]
    if not chosen:
        raise none_found("LangChain's tables have", "collection", collection, [name for _, name in collections])
    fields = dataclasses.replace(
        wanted,
        id=wanted.id or key,
        content=wanted.content or "document",
        vector=wanted.vector or "embedding",
        metadata=wanted.metadata or "cmetadata",
    )
    return [
        await open_rows(
            url,
            sql.SQL(OF_COLLECTION).format(collection=sql.Literal(uuid)),
            what=f"LangChain's collection {name!r}",
            wanted=fields,
            key=key,
            store=StoreSettings(name=name),
        )
        for uuid, name in chosen
    ]
