"""Declaring which of the user's tables are kept in which store, and taking that back."""

import string
from collections.abc import Iterable, Sequence
from typing import Any, cast

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_fixed

from api import ids
from api.errors import Conflict, InvalidRequest, NotFound
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.chunking_strategies import ChunkingStrategy
from api.schemas.requests import PageQuery
from api.schemas.table_syncs import CreateTableSyncRequest, TableSync, TableSyncDeleted, TableSyncPage
from api.schemas.vector_stores import CreateVectorStoreRequest
from api.services import attachments, idempotency, paging, stores
from api.tables import source_tables, synced_chunks, table_syncs, vector_stores
from api.tables.database import Connection
from api.tables.source_tables import KEY_TYPES, Source, SourceTable
from api.tables.table_syncs import Declaration

# A lock on the source table is waited for a moment only, again and again, so that its writers are not kept waiting.
LOCK_RETRY_SECONDS = 10
LOCK_PAUSE_SECONDS = 0.3

MAX_TEXT_COLUMNS = 16


async def create(resources: Resources, request: CreateTableSyncRequest) -> TableSync:
    """Watch a table from here on, and have workers write its rows into a store.

    Raises:
        NotFound: there is no such store, or no such table that may be a source.
        InvalidRequest: see `declaration`.
        Conflict: the store has the table already, or others hold the table.
    """
    chunk_table = await resources.database.chunk_table()
    attachments.require_file_columns(chunk_table)
    async with resources.database.connection() as connection:
        if request.vector_store_id is not None:
            await stores.get_unexpired(connection, request.vector_store_id)
        table = await source_tables.find(connection, request.table, schema=request.table_schema)
    if table is None or (table.schema, table.name) == (chunk_table.schema, chunk_table.name):
        raise NotFound(
            f"There is no table {request.table!r} to sync in {_place(request)}; views, foreign and temporary tables, "
            "catalogues and Quiver's own tables cannot be synced.",
            param="table",
        )
    template = request.template or "\n\n".join(braced(column) for column in request.text_columns or ())
    values = declaration(
        table,
        key=request.key,
        template=template,
        attributes=request.attributes,
        strategy=request.chunking_strategy,
        param="template" if request.template else "text_columns",
    )
    store = request.vector_store_id or CreateVectorStoreRequest(name=table.name)
    return await declare(resources, values, store=store, is_partitioned=table.is_partitioned)


def declaration(
    table: SourceTable,
    *,
    key: Sequence[str] | None,
    template: str,
    attributes: Sequence[str] | None,
    strategy: ChunkingStrategy | None,
    param: str,
) -> dict[str, Any]:
    """The columns of a declaration but for its id and its store; `param` is what the template was made of.

    Raises:
        InvalidRequest: a column is not there, the key does not tell rows apart, or the template cannot be read.
    """
    key = _key(table, key)
    _require_columns(table, text_columns(template), param=param)
    _require_columns(table, attributes or (), param="attributes")
    return {
        "table_schema": table.schema,
        "table_name": table.name,
        "key_columns": key,
        "key_types": [table.columns[column] for column in key],
        "template": template,
        "attribute_columns": list(dict.fromkeys(attributes or ())),
        "chunking_strategy": attachments.chunking_of(strategy),
        "scan": "rows",
        "error": None,
    }


async def declare(
    resources: Resources, values: dict[str, Any], *, store: str | CreateVectorStoreRequest, is_partitioned: bool
) -> TableSync:
    """Write a declaration down and put the triggers in place, together, and with the store if it is a new one."""
    chunk_table = await resources.database.chunk_table()
    id = ids.new_ids("ts", 1)[0]
    values = values | {"id": id, "created_at": ids.created_at(id)}
    shown: TableSync | None = None
    async for attempt in while_in_use():
        with attempt:
            async with resources.database.transaction() as connection:
                store_id = await _hold_or_create(connection, chunk_table, resources, store)
                await table_syncs.insert(connection, values | {"vector_store_id": store_id})
                sync = await get_on(connection, id)
                await source_tables.watch(connection, id, source_of(sync), is_partitioned=is_partitioned)
                shown = await _shown(connection, sync)
                await idempotency.settle(resources, connection, shown)
    assert shown is not None  # the last attempt raises
    await resources.wake.send()
    return shown


async def get(resources: Resources, id: str) -> TableSync:
    async with resources.database.connection() as connection:
        return await _shown(connection, await get_on(connection, id))


async def get_on(connection: Connection, id: str) -> Declaration:
    sync = await table_syncs.find(connection, id)
    if sync is None:
        raise NotFound(f"No table sync found with id {id!r}.", param="table_sync_id")
    return sync


async def list_page(resources: Resources, query: PageQuery) -> TableSyncPage:
    async with resources.database.connection() as connection:
        after = await paging.position(connection, query.after, param="after", find=table_syncs.find_created_at)
        before = await paging.position(connection, query.before, param="before", find=table_syncs.find_created_at)
        above, below = paging.bounds(query, after, before)
        found = await table_syncs.list_between(
            connection, above=above, below=below, direction=paging.direction(query), limit=query.limit + 1
        )
        rows = [await _shown(connection, sync) for sync in found]
    return paging.page(query, rows)


async def drop(resources: Resources, id: str, *, deletes_store: bool = False) -> TableSyncDeleted:
    """Stop watching, and take everything of the sync away: triggers, function, queue and chunks.

    The triggers go first and by themselves, so that the table is locked for that moment only; a drop that was cut
    off behind it is simply asked for again.

    Raises:
        NotFound: there is no such sync.
        Conflict: others hold the table.
    """
    chunk_table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        sync = await get_on(connection, id)
    source = source_of(sync)
    async for attempt in while_in_use():
        with attempt:
            async with resources.database.transaction() as connection:
                await source_tables.unwatch(connection, id, source)
    store_id = sync["vector_store_id"]
    async with resources.database.transaction(is_long=True) as connection:
        is_there = await vector_stores.hold(connection, store_id)
        await table_syncs.delete(connection, id)
        if is_there and not deletes_store:
            gone = await synced_chunks.delete_all(connection, chunk_table, store_id, source.filename)
            await vector_stores.count_files(
                connection, store_id, {"completed": -gone.rows}, usage_bytes=-gone.bytes, dimension=None
            )
    if is_there and deletes_store:
        await stores.delete(resources, store_id)
    return {"id": id, "object": "table_sync.deleted", "deleted": True}


def source_of(sync: Declaration) -> Source:
    return Source(
        schema=sync["table_schema"],
        table=sync["table_name"],
        key_columns=sync["key_columns"],
        key_types=sync["key_types"],
        text_columns=text_columns(sync["template"]),
        attribute_columns=sync["attribute_columns"],
    )


def text_columns(template: str) -> list[str]:
    """The columns that a template names, each once.

    Raises:
        InvalidRequest: it names none, or its braces are not in pairs.
    """
    names = list(dict.fromkeys(column for _, column in _parts(template) if column is not None))
    if not 1 <= len(names) <= MAX_TEXT_COLUMNS:
        raise InvalidRequest(
            f"The template must name 1 to {MAX_TEXT_COLUMNS} columns in braces, such as {{body}}.", param="template"
        )
    return names


def render(template: str, texts: Sequence[str | None]) -> str:
    """The text of a row, whose columns are in the order of `text_columns`; empty if all of them are."""
    if not any(text and text.strip() for text in texts):
        return ""
    values = dict(zip(text_columns(template), texts, strict=True))
    return "".join(
        literal + ((values[column] or "") if column is not None else "") for literal, column in _parts(template)
    ).strip()


def _parts(template: str) -> list[tuple[str, str | None]]:
    """A template as literals, each with the column behind it; anything else in braces is part of the name."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InvalidRequest(
            "The template has a brace without its other one; a brace that is meant is written twice.", param="template"
        ) from error
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise InvalidRequest("The template may have nothing but names of columns in braces.", param="template")
    return [(literal, column) for literal, column, _, _ in parsed]


def braced(column: str) -> str:
    if set(column) & set("{}:!["):
        raise InvalidRequest(f"A column called {column!r} cannot be a text column.", param="text_columns")
    return f"{{{column}}}"


def _key(table: SourceTable, wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        if not table.keys:
            raise InvalidRequest(
                f"Table {table.schema}.{table.name} has no primary key; give it one, or a unique index over columns "
                "that are NOT NULL.",
                param="table",
            )
        key = table.keys[0]
    else:
        _require_columns(table, wanted, param="key")
        if sorted(wanted) not in [sorted(key) for key in table.keys]:
            raise InvalidRequest(
                f"The columns {', '.join(wanted)} do not tell the rows of {table.schema}.{table.name} apart: there is "
                "no unique index of just these, all of them NOT NULL.",
                param="key",
            )
        key = list(wanted)
    for column in key:
        if table.columns[column] not in KEY_TYPES:
            raise InvalidRequest(
                f"Column {column!r} of the key is {table.columns[column]}; a key may be {', '.join(KEY_TYPES)}.",
                param="key",
            )
    return key


def _require_columns(table: SourceTable, wanted: Iterable[str], *, param: str) -> None:
    for column in wanted:
        if column not in table.columns:
            raise InvalidRequest(
                f"Table {table.schema}.{table.name} has no column {column!r}; it has {', '.join(table.columns)}.",
                param=param,
            )


def _place(request: CreateTableSyncRequest) -> str:
    return f"schema {request.table_schema!r}" if request.table_schema else "the search path"


async def _hold_or_create(
    connection: Connection, table: ChunkTable, resources: Resources, store: str | CreateVectorStoreRequest
) -> str:
    """The id of the store, which stays until the transaction ends."""
    if not isinstance(store, str):
        return (await stores.create_on(connection, table, resources, store))["id"]
    if not await vector_stores.hold(connection, store):
        raise stores.no_such_store(store)
    return store


def while_in_use() -> AsyncRetrying:
    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, Conflict) and error.code == "source_table_in_use"),
        stop=stop_after_delay(LOCK_RETRY_SECONDS),
        wait=wait_fixed(LOCK_PAUSE_SECONDS),
        reraise=True,
    )


async def _shown(connection: Connection, sync: Declaration) -> TableSync:
    counts = await table_syncs.count(connection, sync["id"])
    errors = await table_syncs.list_errors(connection, sync["id"]) if counts["failed"] else []
    waiting = counts["changes"] + counts["waiting"]
    is_scanned = sync["scan"] == "done"
    return {
        "id": sync["id"],
        "object": "table_sync",
        "created_at": sync["created"],
        "vector_store_id": sync["vector_store_id"],
        "table": sync["table_name"],
        "table_schema": sync["table_schema"],
        "key": sync["key_columns"],
        "template": sync["template"],
        "attributes": sync["attribute_columns"],
        "chunking_strategy": sync["chunking_strategy"],
        "status": "completed" if is_scanned and not waiting else "in_progress",
        "is_scanned": is_scanned,
        "row_counts": {"waiting": waiting, "failed": counts["failed"]},
        "errors": cast("Any", errors),
        "last_error": sync["error"],
    }
