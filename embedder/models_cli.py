"""`quiver models`: what a running embedder serves, and changes of it. A client of `/admin/models`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import quote

import typer

if TYPE_CHECKING:
    import httpx

FAILED = 1
REPLY_SECONDS = 5  # but for a change, which may load a model

program = typer.Typer(
    help="The models of a running embedder: list them, and change them without a restart.\n\n"
    "The embedder is looked for at `EMBEDDER_HOST` and `EMBEDDER_PORT` unless `--url` says otherwise. The key is "
    "`EMBEDDER_ADMIN_KEY`, the embedder's own setting. Changes are kept in the embedder's `EMBEDDER_CONFIG`.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
Url = Annotated[str | None, typer.Option(help="Where the embedder is, say http://embedder:8001.")]
Name = Annotated[str, typer.Argument(help="The model's name, as `quiver models list` shows it.")]
COLUMNS = ("name", "state", "kind", "engine", "dimensions", "queued_tokens", "aliases")


@program.command("list")
def list_models(url: Url = None) -> None:
    """List the models, with their state.

    Example: `quiver models list --url http://embedder:8001`
    """
    answer = ask("GET", "", url=url)
    rows = [[shown(model[column]) for column in COLUMNS] for model in answer["data"]]
    widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    for row in ([column.replace("_", " ") for column in COLUMNS], *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if answer["config_error"]:
        typer.echo(f"The file of models was changed and cannot be read: {answer['config_error']}", err=True)


@program.command()
def status(name: Name, url: Url = None) -> None:
    """Show all that is known of a model; the exit status is 1 when it does not serve.

    Example: `quiver models status minilm`
    """
    model = ask("GET", name, url=url)
    for field, value in model.items():
        typer.echo(f"{field.replace('_', ' '):18} {shown(value)}")
    if model["state"] not in ("ready", "idle"):
        raise typer.Exit(FAILED)


@program.command()
def add(
    name: Annotated[str, typer.Argument(help="What callers call the model.")],
    model: Annotated[str | None, typer.Option(help="A directory or a name on Hugging Face's hub. [the name]")] = None,
    kind: Annotated[str | None, typer.Option(help="dense, sparse, rerank or http. [told from the files]")] = None,
    alias: Annotated[list[str] | None, typer.Option(help="Another name; may be given several times.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a declaration; several times."),
    ] = None,
    url: Url = None,
) -> None:
    """Load a model and serve it from here on. Returns when it is ready; one that cannot be loaded is not kept.

    Examples: `quiver models add reranker --model ./bge-reranker --alias rerank-1`,
    `quiver models add far --kind http --set url=http://10.0.0.7:8001/v1 --set timeout_seconds=5`
    """
    given: dict[str, Any] = {"name": name, "model": model, "kind": kind, "aliases": alias}
    declaration = {key: value for key, value in given.items() if value} | fields_of(field or [])
    tell(ask("POST", "", body=declaration, url=url))


@program.command()
def remove(name: Name, url: Url = None) -> None:
    """Serve a model no longer. Returns when it has answered what it was asked."""
    ask("DELETE", name, url=url)
    typer.echo(f"{name} is removed")


@program.command()
def enable(name: Name, url: Url = None) -> None:
    """Serve a disabled model again."""
    tell(ask("PATCH", name, body={"enabled": True}, url=url))


@program.command()
def disable(name: Name, url: Url = None) -> None:
    """Unload a model and keep its declaration."""
    tell(ask("PATCH", name, body={"enabled": False}, url=url))


@program.command()
def alias(
    name: Name,
    add: Annotated[list[str] | None, typer.Option("--add", help="A further name; may be given several times.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="One to take away; several times.")] = None,
    url: Url = None,
) -> None:
    """Give a model further names, or take them away.

    Example: `quiver models alias minilm --add text-embedding-3-small`
    """
    present: list[str] = ask("GET", name, url=url)["aliases"]
    kept = [one for one in present if one not in (remove or [])]
    aliases = [*kept, *(one for one in add or [] if one not in kept)]
    tell(ask("PATCH", name, body={"aliases": aliases}, url=url))


def fields_of(assignments: list[str]) -> dict[str, Any]:
    """`field=value`; a value that is JSON is read as such."""
    import orjson

    fields: dict[str, Any] = {}
    for assignment in assignments:
        field, separator, value = assignment.partition("=")
        if not separator:
            give_up(f"--set {assignment}: write FIELD=VALUE.")
        try:
            fields[field] = orjson.loads(value)
        except orjson.JSONDecodeError:
            fields[field] = value
    return fields


def ask(method: str, name: str, *, url: str | None, body: object = None) -> Any:
    """What the embedder answers; anything but success ends the program with its reason."""
    import httpx

    from embedder.settings import Settings

    settings = Settings()
    if settings.admin_key is None:
        give_up("Set EMBEDDER_ADMIN_KEY to the embedder's admin key.")
    base = url or f"http://{settings.host}:{settings.port}"
    address = "/".join([base.rstrip("/").removesuffix("/v1"), "admin/models", *([quote(name)] if name else [])])
    headers = {"Authorization": f"Bearer {settings.admin_key.get_secret_value()}"}
    timeout = httpx.Timeout(REPLY_SECONDS, read=None if method in ("POST", "PATCH", "DELETE") else REPLY_SECONDS)
    try:
        response = httpx.request(method, address, json=body, headers=headers, timeout=timeout)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        give_up(f"No embedder answers at {base} ({error}); start it, or say where it is with --url.")
    if not response.is_success:
        give_up(reason(response))
    return response.json()


def reason(response: "httpx.Response") -> str:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered with the status {response.status_code}; is it an embedder?"


def tell(model: dict[str, Any]) -> None:
    typer.echo(f"{model['name']} is {model['state']}" + (f": {model['error']}" if model["error"] else ""))
    if model["state"] == "failed":
        raise typer.Exit(FAILED)


def shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"  # pyright: ignore[reportUnknownArgumentType]  # of names
    return "-" if value is None else str(value)


def give_up(message: str) -> NoReturn:
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(FAILED)


if __name__ == "__main__":
    program(prog_name="quiver models")
