"""LlamaIndex's PGVectorStore: tables called `data_` and the index's name."""

import dataclasses

from api.migrate.fields import Fields
from api.migrate.records import StoreSettings, none_found
from api.migrate.sources.postgres import PostgresRows, connected, open_rows, table_relation

LIST_TABLES = """
SELECT format('%%I.%%I', nspname, relname) AS name, relname FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind IN ('r', 'p') AND starts_with(relname, 'data_')
  AND (SELECT count(*) = 4 FROM pg_attribute
       WHERE attrelid = pg_class.oid AND attname IN ('text', 'metadata_', 'node_id', 'embedding'))
ORDER BY name
"""


NODE = frozenset({"_node_content", "_node_type"})  # the node as JSON once more, some 700 bytes a row


async def list_tables(url: str) -> dict[str, str]:
    """Its tables, as they are written in SQL, with their bare names."""
    async with connected(url) as connection:
        return dict(await (await connection.execute(LIST_TABLES, {})).fetchall())


async def open_tables(url: str, wanted: Fields, *, collection: str | None) -> list[PostgresRows]:
    """One source a table.

    Raises:
        ConfigurationError: there is no such table.
    """
    tables = await list_tables(url)
    chosen = {
        table: bare for table, bare in tables.items() if collection in (None, table, bare, bare.removeprefix("data_"))
    }
    if not chosen:
        raise none_found("That database has", "table of LlamaIndex's", collection, list(tables.values()))
    fields = dataclasses.replace(
        wanted,
        id=wanted.id or "node_id",
        content=wanted.content or "text",
        vector=wanted.vector or "embedding",
        metadata=wanted.metadata or "metadata_",
    )
    opened = [
        await open_rows(
            url,
            table_relation(table),
            what=f"LlamaIndex's table {bare!r}",
            wanted=fields,
            key="id",
            table=table,
            store=StoreSettings(name=bare.removeprefix("data_")),
        )
        for table, bare in chosen.items()
    ]
    for rows in opened:
        rows.left_out = NODE
    return opened
