"""The command lines of `quiver migrate` and `quiver export`. Their work is imported when they run."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from api.errors import ConfigurationError

SOURCE, FIELDS, TARGET, WORK = "What is read", "What is what in it", "Where it goes", "How"
PROBLEMS = 1
INTERRUPTED = 130  # as shells have it
T = TypeVar("T")


def migrate(
    source: Annotated[
        str,
        typer.Argument(
            help="A file, a directory or an address: postgresql://…, vectors.parquet, docs.snapshot, ./chroma, "
            "http://qdrant:6333.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="postgres, litellm-pgvector, langchain, llamaindex, jsonl, csv, parquet, numpy, chroma, qdrant, "
            "qdrant-snapshot or openai. [told from SOURCE]",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    table: Annotated[str | None, typer.Option(help="Table, perhaps with its schema.", rich_help_panel=SOURCE)] = None,
    query: Annotated[
        str | None, typer.Option(help="SELECT to read instead of a table.", rich_help_panel=SOURCE)
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option(help="Only this collection, store or index of several. [all]", rich_help_panel=SOURCE),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Column that orders the rows, best an indexed one. [the id]", rich_help_panel=SOURCE),
    ] = None,
    source_key: Annotated[
        str | None,
        typer.Option(help="Key of Qdrant or of the OpenAI API.", envvar="SOURCE_API_KEY", rich_help_panel=SOURCE),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Texts of the vectors in an .npy: JSON Lines, or one a line.", rich_help_panel=SOURCE),
    ] = None,
    id: Annotated[str | None, typer.Option(help="Field of the id.", rich_help_panel=FIELDS)] = None,
    text: Annotated[str | None, typer.Option(help="Field of the text.", rich_help_panel=FIELDS)] = None,
    vector: Annotated[
        str | None, typer.Option(help="Field of the vector, whatever its form.", rich_help_panel=FIELDS)
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Field with a JSON object of attributes.", rich_help_panel=FIELDS)
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(help="Field that becomes one attribute; may be given several times.", rich_help_panel=FIELDS),
    ] = None,
    created_at: Annotated[str | None, typer.Option(help="Field of the time.", rich_help_panel=FIELDS)] = None,
    store: Annotated[
        str | None, typer.Option(help="Id of a store that is there. [a new one]", rich_help_panel=TARGET)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the new store. [the source's]", rich_help_panel=TARGET)
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="Quiver's database. [DATABASE_URL]", rich_help_panel=TARGET)
    ] = None,
    api_url: Annotated[
        str | None, typer.Option(help="Quiver's API, to go through it instead.", rich_help_panel=TARGET)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Its key.", envvar="SERVER_API_KEY", rich_help_panel=TARGET)
    ] = None,
    embedding_model: Annotated[
        str | None,
        typer.Option(help="Model that made the vectors, as the proxy calls it.", rich_help_panel=TARGET),
    ] = None,
    re_embed: Annotated[
        bool, typer.Option("--re-embed", help="Embed the texts anew, with that model.", rich_help_panel=WORK)
    ] = False,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Dimension of the vectors. [the commonest]", rich_help_panel=WORK)
    ] = None,
    max_text_bytes: Annotated[
        int | None, typer.Option(min=1, help="Longer texts are rejected. [1048576]", rich_help_panel=WORK)
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="File for the rows that cannot go.", rich_help_panel=WORK)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check everything, write nothing.", rich_help_panel=WORK)
    ] = False,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Compare the store with the source.", rich_help_panel=WORK)
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare them when all is there.", rich_help_panel=WORK)
    ] = True,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether the fields are right.", rich_help_panel=WORK)
    ] = False,
) -> None:
    """Bring texts and vectors from another place into a store.

    Shows first what it takes for the id, the text, the vector and the metadata, and asks. Whenever it is
    interrupted, by Ctrl-C, a lost connection or a power cut, the same command goes on where it was, and no row is
    lost or there twice. Rows that cannot go are written to a file with the reason. In the end it compares.

    - `quiver migrate postgresql://me@db/shop --table documents --dry-run` reads, counts and estimates.
    - `quiver migrate postgresql://me@db/shop --table documents --text body --vector vec` moves a table.
    - `quiver migrate postgresql://me@db/app` finds LangChain's and LlamaIndex's tables by itself.
    - `quiver migrate vectors.jsonl --name handbook` makes a store of a file.
    - `quiver migrate vectors.jsonl --re-embed --embedding-model text-embedding-3-small` embeds the texts anew.
    """
    from api.migrate import migration
    from api.migrate.checks import MAX_TEXT_BYTES
    from api.migrate.fields import Fields
    from api.migrate.options import Options, SourceOptions
    from api.settings import Settings

    fields = Fields(
        id=id,
        content=text,
        vector=vector,
        metadata=metadata,
        created_at=created_at,
        attributes=tuple(attribute or ()),
    )
    options = Options(
        SourceOptions(source, kind, table, query, collection, key, source_key, texts, fields),
        store=store,
        name=name,
        api_url=api_url,
        api_key=api_key,
        embedding_model=embedding_model,
        re_embed=re_embed,
        dimension=dimension,
        max_text_bytes=max_text_bytes or MAX_TEXT_BYTES,
        rejects=rejects,
        dry_run=dry_run,
        verify_only=verify_only,
        verifies=verify,
        yes=yes,
    )
    settings = Settings(database_url=database_url) if database_url else Settings()  # pyright: ignore[reportArgumentType]
    if not _run(migration.run(options, settings), interrupted="Start the same command again to go on."):
        raise typer.Exit(PROBLEMS)


def export(
    store: Annotated[str, typer.Argument(help="Id of the store, vs_….", metavar="STORE", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="File to write: .jsonl or .parquet.", metavar="FILE", show_default=False)
    ],
    database_url: Annotated[str | None, typer.Option(help="Quiver's database. [DATABASE_URL]")] = None,
) -> None:
    """Write a store with its texts, vectors and attributes into a file.

    The vectors are as they are stored, bit for bit, and `quiver migrate` makes the same store of the file again. The
    bytes of uploaded files are not in it; their chunks are, with the names of the files and their places in them.

    - `quiver export vs_68f handbook.jsonl` writes one JSON object a line, after one that describes the store.
    - `quiver export vs_68f handbook.parquet` needs `pip install 'quiver[migrate]'`.
    """
    from api.migrate import export as exporting
    from api.settings import Settings

    settings = Settings(database_url=database_url) if database_url else Settings()  # pyright: ignore[reportArgumentType]
    if settings.database_url is None:
        raise ConfigurationError("Say where the store is: --database-url or DATABASE_URL.")
    _run(exporting.export(settings, store, file), interrupted="Nothing was written.")


def _run(work: Coroutine[None, None, T], *, interrupted: str) -> T:
    """Do the work; what the libraries would log of it goes to standard error, or is said by the error anyway."""
    import logging

    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        typer.echo(f"Interrupted. {interrupted}", err=True)
        raise typer.Exit(INTERRUPTED) from None
