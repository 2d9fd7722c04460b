"""Which kind of source a path or an address is, and opening it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from api.errors import ConfigurationError
from api.migrate.options import SourceOptions
from api.migrate.records import Source, StoreSettings
from api.migrate.sources import langchain, litellm_pgvector, llamaindex, postgres
from api.migrate.sources.json_lines import JsonLines

SUFFIXES: Final = {".jsonl": "jsonl", ".ndjson": "jsonl"}

Open = Callable[[SourceOptions], Awaitable[Sequence[Source]]]


async def open_sources(options: SourceOptions) -> Sequence[Source]:
    """The sources of a place, one for each store that they will go to.

    Raises:
        ConfigurationError: there is nothing, or nothing that is known.
    """
    kind = options.kind or kind_of(options.place)
    if kind not in OPEN:
        raise ConfigurationError(f"There is no kind of source called {kind!r}; there is {', '.join(OPEN)}.")
    return await OPEN[kind](options)


def kind_of(place: str) -> str:
    """The kind that a path or an address shows by itself.

    Raises:
        ConfigurationError: it shows none.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return "postgres"
    path = Path(place)
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    raise ConfigurationError(f"Nothing tells what kind of source {place!r} is; say it with --from: {', '.join(OPEN)}.")


def existing_file(place: str) -> Path:
    path = Path(place)
    if not path.is_file():
        raise ConfigurationError(f"There is no file {place!r}.")
    return path


async def _open_postgres(options: SourceOptions) -> Sequence[Source]:
    """A table or a query; without either, what is there: known layouts, else the one table that has vectors."""
    url, wanted = options.place, options.fields
    if options.table is not None and options.query is not None:
        raise ConfigurationError("--table and --query are two ways to say the same; give one.")
    if options.query is not None:
        relation = postgres.query_relation(options.query)
        return [await postgres.open_rows(url, relation, what="the query", wanted=wanted, key=options.key)]
    if options.table is not None:
        return [await _open_table(options, options.table)]
    tables = await postgres.list_vector_tables(url)
    bare = [table.rpartition(".")[2] for table in tables]
    if langchain.TABLE in bare:
        return await langchain.open_collections(url, wanted, collection=options.collection)
    if await llamaindex.list_tables(url):
        return await llamaindex.open_tables(url, wanted, collection=options.collection)
    if len(tables) == 1:
        return [await _open_table(options, tables[0])]
    names = ", ".join(tables)
    raise ConfigurationError(
        f"Say which with --table or --query; these tables have vectors: {names}."
        if tables
        else "No table of that database has pgvector's vectors; say what to read with --table or --query."
    )


async def _open_table(options: SourceOptions, table: str) -> Source:
    return await postgres.open_rows(
        options.place,
        postgres.table_relation(table),
        what=f"table {table}",
        wanted=options.fields,
        key=options.key,
        table=table,
        store=StoreSettings(name=table.rpartition(".")[2].strip('"')),
    )


async def _open_langchain(options: SourceOptions) -> Sequence[Source]:
    return await langchain.open_collections(options.place, options.fields, collection=options.collection)


async def _open_llamaindex(options: SourceOptions) -> Sequence[Source]:
    return await llamaindex.open_tables(options.place, options.fields, collection=options.collection)


async def _open_litellm_pgvector(options: SourceOptions) -> Sequence[Source]:
    return await litellm_pgvector.open_stores(options.place, options.fields, collection=options.collection)


async def _open_json_lines(options: SourceOptions) -> Sequence[Source]:
    return [JsonLines(existing_file(options.place), options.fields)]


OPEN: Final[Mapping[str, Open]] = {
    "postgres": _open_postgres,
    "litellm-pgvector": _open_litellm_pgvector,
    "langchain": _open_langchain,
    "llamaindex": _open_llamaindex,
    "jsonl": _open_json_lines,
}
