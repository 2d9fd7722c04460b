"""Taking a vectorizer of pgai's over: its vectors become chunks as they are, and the table is synced from then on."""

import string
from dataclasses import replace

from api.errors import InvalidRequest, NotFound
from api.resources import Resources
from api.schemas.table_syncs import AdoptVectorizerRequest, TableSync
from api.schemas.vector_stores import CreateVectorStoreRequest
from api.services import attachments, stores, table_syncs
from api.tables import pgai, source_tables, vector_stores
from api.tables import table_syncs as declarations
from api.tables.pgai import Vectorizer

CHUNK = "chunk"  # pgai's name of the text in its templates
COPYING = "The vectors are being copied from pgai; if that was cut off, drop this sync and adopt the vectorizer again."


async def adopt(resources: Resources, request: AdoptVectorizerRequest) -> TableSync:
    """Copy a vectorizer's vectors into a store and keep the table in sync; only what changes is embedded.

    Changes are recorded from before the copy on, and the copy sees pgai's queue and its vectors of one moment, so that
    nothing is missed while pgai's worker goes on.

    Raises:
        NotFound: there is no such vectorizer, or store.
        InvalidRequest: the vectorizer reads files, or has vectors of another dimension than the store.
        Conflict: the store has the table already, or others hold the table.
    """
    table = await resources.database.chunk_table()
    attachments.require_file_columns(table)
    if table.id.type in ("uuid", "int4", "int8") or table.vector_store_id.type == "uuid":
        raise InvalidRequest(
            f"The ids of table {table.name!r} are no texts, which vectors of pgai's need.", code="not_supported"
        )
    async with resources.database.connection() as connection:
        vectorizer = _choose(await pgai.list_vectorizers(connection), request.vectorizer)
        source_table = await source_tables.find(connection, vectorizer["table_name"], schema=vectorizer["table_schema"])
    if source_table is None:
        raise NotFound(f"The table of vectorizer {vectorizer['name']!r} is gone.", param="vectorizer")
    values = table_syncs.declaration(
        source_table,
        key=vectorizer["key_columns"],
        template=_template(vectorizer),
        attributes=request.attributes,
        strategy=None,
        param="vectorizer",
    )
    sync = await table_syncs.declare(
        replace(resources, settle=None),  # it is not carried out before the copy
        values | {"scan": "done", "error": COPYING},
        store=await _store(resources, vectorizer, request),
        is_partitioned=source_table.is_partitioned,
    )
    try:
        await _copy(resources, vectorizer, sync["id"])
        if request.drop_vectorizer:
            await _drop(resources, vectorizer, sync["id"])
    except BaseException:
        await table_syncs.drop(resources, sync["id"], deletes_store=request.vector_store_id is None)
        raise
    return await table_syncs.get(resources, sync["id"])


async def _copy(resources: Resources, vectorizer: Vectorizer, sync_id: str) -> None:
    table = await resources.database.chunk_table()
    async with resources.database.transaction(is_long=True) as connection:
        await pgai.freeze(connection)
        sync = await table_syncs.get_on(connection, sync_id)
        source = table_syncs.source_of(sync)
        store_id = sync["vector_store_id"]
        await vector_stores.hold(connection, store_id)
        copied = await pgai.copy_vectors(connection, table, store_id, sync_id, source, vectorizer)
        await pgai.queue_rest(connection, table, store_id, sync_id, source, vectorizer)
        await declarations.start(connection, sync_id)
        is_counted = await vector_stores.count_files(
            connection,
            store_id,
            {"completed": copied.rows},
            usage_bytes=copied.bytes,
            dimension=vectorizer["config"]["embedding"]["dimensions"],
        )
        if not is_counted:
            raise InvalidRequest(
                f"Vectorizer {vectorizer['name']!r} has vectors of another dimension than the store.",
                param="vector_store_id",
                code="embedding_dimension_mismatch",
            )


async def _drop(resources: Resources, vectorizer: Vectorizer, sync_id: str) -> None:
    async for attempt in table_syncs.while_in_use():
        with attempt:
            async with resources.database.transaction() as connection:
                source = table_syncs.source_of(await table_syncs.get_on(connection, sync_id))
                await pgai.drop_vectorizer(connection, vectorizer, source)


def _choose(vectorizers: list[Vectorizer], wanted: str | None) -> Vectorizer:
    chosen = [one for one in vectorizers if wanted is None or wanted in (one["name"], str(one["id"]))]
    if not vectorizers:
        raise NotFound("There is no vectorizer of pgai's in this database.", param="vectorizer")
    if len(chosen) != 1:
        raise NotFound(
            f"Name one of pgai's vectorizers: {', '.join(one['name'] for one in vectorizers)}.", param="vectorizer"
        )
    return chosen[0]


def _template(vectorizer: Vectorizer) -> str:
    """The template of pgai, `$title: $chunk`, as ours: `{title}: {body}`.

    Raises:
        InvalidRequest: the texts are not in a column of the table.
    """
    loading, formatting = (vectorizer["config"][part] for part in ("loading", "formatting"))
    if loading["implementation"] != "column":
        raise InvalidRequest(
            f"Vectorizer {vectorizer['name']!r} reads files that a column names; put those into a store as files.",
            param="vectorizer",
        )
    column = loading["column_name"]
    template = formatting["template"] if formatting["implementation"] == "python_template" else f"${CHUNK}"
    parts: list[str] = []
    end = 0
    for found in string.Template.pattern.finditer(template):
        name = found["named"] or found["braced"]
        literal = template[end : found.start()] + ("" if name else "$")
        parts.append(literal.replace("{", "{{").replace("}", "}}"))
        if name:
            parts.append(table_syncs.braced(column if name == CHUNK else name))
        end = found.end()
    return "".join(parts) + template[end:].replace("{", "{{").replace("}", "}}")


async def _store(
    resources: Resources, vectorizer: Vectorizer, request: AdoptVectorizerRequest
) -> str | CreateVectorStoreRequest:
    if request.vector_store_id is not None:
        async with resources.database.connection() as connection:
            await stores.get_unexpired(connection, request.vector_store_id)
        return request.vector_store_id
    embedding = vectorizer["config"]["embedding"]
    return CreateVectorStoreRequest(
        name=vectorizer["table_name"],
        embedding_model=request.embedding_model or embedding["model"],
        embedding_dimension=embedding["dimensions"],
    )
