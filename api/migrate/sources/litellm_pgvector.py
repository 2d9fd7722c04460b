"""litellm-pgvector's own database: each store of `vector_stores`, whose rows are in `embeddings`."""

import dataclasses
from typing import Any, cast

from psycopg import sql
from psycopg.rows import dict_row

from api.errors import ConfigurationError
from api.migrate.fields import Fields
from api.migrate.records import StoreSettings, none_found
from api.migrate.sources.postgres import PostgresRows, connected, open_rows

TABLE = "vector_stores"

FIND_TABLE = "SELECT 1 WHERE to_regclass('vector_stores') IS NOT NULL"

LIST_STORES = "SELECT id, name, metadata, expires_after FROM vector_stores ORDER BY created_at, id"

OF_STORE = "(SELECT * FROM embeddings WHERE vector_store_id = {store}) AS source"


async def open_stores(url: str, wanted: Fields, *, collection: str | None) -> list[PostgresRows]:
    """One source a store, each with the id that it has.

    Raises:
        ConfigurationError: there is no such store.
    """
    async with connected(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        if await (await cursor.execute(FIND_TABLE)).fetchone() is None:
            raise ConfigurationError(f"That database is not litellm-pgvector's: it has no table {TABLE!r}.")
        stores = await (await cursor.execute(LIST_STORES)).fetchall()
    chosen = [store for store in stores if collection in (None, store["id"], store["name"])]
    if not chosen:
        raise none_found("That database has", "store", collection, [store["id"] for store in stores])
    fields = dataclasses.replace(
        wanted, id="id", content="content", vector="embedding", metadata="metadata", created_at="created_at"
    )
    return [
        await open_rows(
            url,
            sql.SQL(OF_STORE).format(store=sql.Literal(store["id"].replace("%", "%%"))),
            what=f"store {store['id']!r} ({store['name']})",
            wanted=fields,
            key="id",
            store=_settings(store),
        )
        for store in chosen
    ]


def _settings(store: dict[str, Any]) -> StoreSettings:
    metadata, expires_after = _object(store["metadata"]), _object(store["expires_after"])
    days = expires_after.get("days")
    return StoreSettings(
        id=store["id"],
        name=store["name"],
        metadata={key: str(value) for key, value in metadata.items()} or None,
        expires_after_days=days if isinstance(days, int) and days > 0 else None,
        embedding_model=metadata.get("embedding_model"),
    )


def _object(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
