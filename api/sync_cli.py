"""`quiver sync`: tables that are kept searchable. A client of `/v1/table_syncs`."""

from typing import Annotated, Any

import typer

from api.client import FAILED, REPLY_SECONDS, ask

program = typer.Typer(
    help="Tables of the database that are kept searchable in vector stores.\n\n"
    "The API is looked for at `HOST` and `PORT` unless `--url` says otherwise; the key is `SERVER_API_KEY`. "
    "A `quiver worker` embeds the rows.\n\n"
    "`quiver sync --from-pgai --model text-embedding-3-small --drop-vectorizer` takes the database's vectorizer of "
    "pgai's over: only what changes from then on is embedded.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
Url = Annotated[str | None, typer.Option(help="Where the API is, say http://quiver:8000.")]
Id = Annotated[str, typer.Argument(help="The sync's id, as `quiver sync list` shows it.")]
Attribute = Annotated[
    list[str] | None,
    typer.Option("--attribute", help="A column that results show and filters know; may be given several times."),
]
Store = Annotated[str | None, typer.Option(help="The vector store's id. [a new store, named after the table]")]
COLUMNS = ("id", "table", "vector_store_id", "status", "waiting", "failed")


@program.callback(invoke_without_command=True)
def take_over(
    context: typer.Context,
    from_pgai: Annotated[
        bool, typer.Option("--from-pgai", help="Take a vectorizer of pgai's over; its vectors are copied as they are.")
    ] = False,
    vectorizer: Annotated[str | None, typer.Option(help="Its name or number. [the only one]")] = None,
    model: Annotated[str | None, typer.Option(help="What our proxy calls its model. [as pgai calls it]")] = None,
    attribute: Attribute = None,
    store: Store = None,
    drop_vectorizer: Annotated[
        bool, typer.Option("--drop-vectorizer", help="Drop pgai's trigger, queue and vectorizer; its vectors stay.")
    ] = False,
    url: Url = None,
) -> None:
    body = {
        "vectorizer": vectorizer,
        "embedding_model": model,
        "attributes": attribute or None,
        "vector_store_id": store,
        "drop_vectorizer": drop_vectorizer,
    }
    if from_pgai and context.invoked_subcommand is None:
        tell(ask_syncs("POST", "from_pgai", url=url, body=body))
    elif from_pgai or url or any(body.values()):
        raise typer.BadParameter(
            "these options are for `quiver sync --from-pgai`, which is a command of its own; "
            "those of another command stand behind its name."
        )


@program.command()
def create(
    table: Annotated[str, typer.Argument(help="The table; its schema may stand before it: kb.articles.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A column that is searched; may be given several times.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help=r"Instead of --text: a text with columns in braces. \n is a new line.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="A column that tells rows apart; several times. [the primary key]")
    ] = None,
    attribute: Attribute = None,
    max_tokens: Annotated[int, typer.Option(help="Longest chunk; the next repeats half of it.")] = 800,
    store: Store = None,
    url: Url = None,
) -> None:
    """Keep a table searchable: its rows are embedded now, and each change of them within seconds.

    Examples: `quiver sync create articles --text title --text body --attribute lang`,
    `quiver sync create kb.notes --template '{title}: {body}' --store vs_123`
    """
    if bool(text) == bool(template):
        raise typer.BadParameter(
            "say what is searched, either by --text COLUMN (several times) or by --template '{title}: {body}'"
        )
    schema, separator, name = table.rpartition(".")
    body = {
        "table": name,
        "table_schema": schema if separator else None,
        "text_columns": text or None,
        "template": template.replace("\\n", "\n") if template else None,
        "key": key or None,
        "attributes": attribute or None,
        "vector_store_id": store,
        "chunking_strategy": {
            "type": "static",
            "static": {"max_chunk_size_tokens": max_tokens, "chunk_overlap_tokens": max_tokens // 2},
        },
    }
    tell(ask_syncs("POST", "", url=url, body=body))


@program.command("list")
def list_syncs(url: Url = None) -> None:
    """List the syncs, with what waits and what failed."""
    syncs: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = ask_syncs("GET", "", url=url, params={"limit": "100", "order": "asc", **after})
        syncs += page["data"]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    rows = [
        [
            *(sync["id"], f"{sync['table_schema']}.{sync['table']}", sync["vector_store_id"]),
            *("stopped" if sync["last_error"] else sync["status"],),
            *(str(sync["row_counts"][count]) for count in ("waiting", "failed")),
        ]
        for sync in syncs
    ]
    widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    for row in ([column.replace("_", " ") for column in COLUMNS], *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@program.command()
def status(id: Id, url: Url = None) -> None:
    """Show how far a sync is and what failed; the exit status is 1 when a row or the whole of it does.

    Example: `quiver sync status ts_0123`
    """
    sync = ask_syncs("GET", id, url=url)
    tell(sync)
    if sync["errors"] or sync["last_error"]:
        raise typer.Exit(FAILED)


@program.command()
def drop(
    id: Id,
    delete_store: Annotated[
        bool, typer.Option(help="Delete the vector store as well, with all that is in it.")
    ] = False,
    url: Url = None,
) -> None:
    """Stop watching a table, and take its triggers, its queue and its chunks away. The table itself stays as it is."""
    store = ask_syncs("GET", id, url=url)["vector_store_id"]
    ask_syncs("DELETE", id, url=url, params={"delete_vector_store": str(delete_store).lower()})
    kept = "is deleted as well" if delete_store else "stays, without the table's rows; --delete-store would delete it"
    typer.echo(f"{id} is dropped; its vector store {store} {kept}")


def ask_syncs(method: str, path: str, *, url: str | None, **content: Any) -> dict[str, Any]:
    """What the API answers; what may copy or delete a whole table takes the time it needs."""
    reply_seconds = REPLY_SECONDS if method == "GET" else None
    return ask(
        method, "/".join(["table_syncs", *([path] if path else [])]), url=url, reply_seconds=reply_seconds, **content
    )


def tell(sync: dict[str, Any]) -> None:
    counts = sync["row_counts"]
    typer.echo(f"{sync['id']}: {sync['table_schema']}.{sync['table']} in vector store {sync['vector_store_id']}")
    scanned = "the table has been looked through" if sync["is_scanned"] else "the table is being looked through"
    typer.echo(f"{sync['status']}: {scanned}, {counts['waiting']} rows wait, {counts['failed']} failed")
    if sync["last_error"]:
        typer.echo(f"stopped: {sync['last_error']}", err=True)
    for error in sync["errors"]:
        typer.echo(f"row {error['key']}, {error['attempts']} attempts: {error['message']}", err=True)
