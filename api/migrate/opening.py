"""Which kind of source a path or an address is, and opening it."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from api.errors import ConfigurationError
from api.migrate.options import SourceOptions
from api.migrate.records import Source, StoreSettings
from api.migrate.sources import (
    chroma,
    langchain,
    litellm_pgvector,
    llamaindex,
    openai_store,
    postgres,
    qdrant,
    qdrant_snapshot,
)
from api.migrate.sources.csv_file import CsvFile
from api.migrate.sources.json_lines import JsonLines
from api.migrate.sources.numpy_file import NumpyFile
from api.migrate.sources.parquet import Parquet

SUFFIXES: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".npy": "numpy",
    ".npz": "numpy",
    ".snapshot": "qdrant-snapshot",
}
HTTP: Final = ("http://", "https://")
QDRANT_PORT: Final = ":6333"

Open = Callable[[SourceOptions], AbstractAsyncContextManager[Sequence[Source]]]


def open_sources(options: SourceOptions) -> AbstractAsyncContextManager[Sequence[Source]]:
    """The sources of a place, one for each store that they will go to.

    Raises:
        ConfigurationError: there is nothing, or nothing that is known.
    """
    kind = options.kind or kind_of(options.place)
    if kind not in OPEN:
        raise ConfigurationError(f"There is no kind of source called {kind!r}; there is {', '.join(OPEN)}.")
    return OPEN[kind](options)


def kind_of(place: str) -> str:
    """The kind that a path or an address shows by itself.

    Raises:
        ConfigurationError: it shows none.
    """
    if place.startswith(("postgresql://", "postgres://")):
        return "postgres"
    if place.startswith(HTTP) and QDRANT_PORT in place:
        return "qdrant"
    path = Path(place)
    if path.is_dir() and (path / chroma.DATABASE).exists():
        return "chroma"
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    if "://" not in place and not path.exists():
        raise ConfigurationError(f"There is no file or directory {place!r}.")
    raise ConfigurationError(f"Nothing tells what kind of source {place!r} is; say it with --from: {', '.join(OPEN)}.")


def existing_file(place: str) -> Path:
    path = Path(place)
    if not path.is_file():
        raise ConfigurationError(f"There is no file {place!r}.")
    return path


@asynccontextmanager
async def _open_postgres(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    """A table or a query; without either, what is there: known layouts, else the one table that has vectors."""
    url, wanted = options.place, options.fields
    if options.table is not None and options.query is not None:
        raise ConfigurationError("--table and --query are two ways to say the same; give one.")
    if options.query is not None:
        relation = postgres.query_relation(options.query)
        yield [await postgres.open_rows(url, relation, what="the query", wanted=wanted, key=options.key)]
    elif options.table is not None:
        yield [await _open_table(options, options.table)]
    else:
        yield await _recognise(options)


async def _recognise(options: SourceOptions) -> Sequence[Source]:
    url, wanted = options.place, options.fields
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
        store=StoreSettings(name=postgres.split_name(table)[-1]),
    )


@asynccontextmanager
async def _open_langchain(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield await langchain.open_collections(options.place, options.fields, collection=options.collection)


@asynccontextmanager
async def _open_llamaindex(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield await llamaindex.open_tables(options.place, options.fields, collection=options.collection)


@asynccontextmanager
async def _open_litellm_pgvector(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield await litellm_pgvector.open_stores(options.place, options.fields, collection=options.collection)


@asynccontextmanager
async def _open_json_lines(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield [JsonLines(existing_file(options.place), options.fields)]


@asynccontextmanager
async def _open_csv(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield [CsvFile(existing_file(options.place), options.fields)]


@asynccontextmanager
async def _open_parquet(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield [Parquet(existing_file(options.place), options.fields)]


@asynccontextmanager
async def _open_numpy(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    texts = existing_file(str(options.texts)) if options.texts else None
    yield [NumpyFile(existing_file(options.place), texts, options.fields)]


@asynccontextmanager
async def _open_chroma(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    yield chroma.open_collections(Path(options.place), collection=options.collection)


@asynccontextmanager
async def _open_qdrant(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    async with qdrant.connected(options.place, options.source_key) as service:
        yield await qdrant.open_collections(service, options.fields, collection=options.collection)


@asynccontextmanager
async def _open_qdrant_snapshot(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    async with qdrant_snapshot.unpacked(existing_file(options.place)) as points:
        yield [await qdrant.open_collection(points, options.fields)]


@asynccontextmanager
async def _open_openai(options: SourceOptions) -> AsyncGenerator[Sequence[Source]]:
    async with openai_store.connected(options.place, options.source_key) as service:
        yield await openai_store.open_stores(service, collection=options.collection)


OPEN: Final[Mapping[str, Open]] = {
    "postgres": _open_postgres,
    "litellm-pgvector": _open_litellm_pgvector,
    "langchain": _open_langchain,
    "llamaindex": _open_llamaindex,
    "jsonl": _open_json_lines,
    "csv": _open_csv,
    "parquet": _open_parquet,
    "numpy": _open_numpy,
    "chroma": _open_chroma,
    "qdrant": _open_qdrant,
    "qdrant-snapshot": _open_qdrant_snapshot,
    "openai": _open_openai,
}
