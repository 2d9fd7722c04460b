"""`quiver keys`: callers' keys. A client of `/v1/keys`."""

import time
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.client import ask

DAY_SECONDS = 86_400

program = typer.Typer(
    help="Keys for callers of the API, each with a role, a tenant and limits.\n\n"
    "The API is looked for at `HOST` and `PORT` unless `--url` says otherwise. The key to ask with is "
    "`SERVER_API_KEY`: the server's own, or one with the role `admin`; unset, it is the one that `quiver up` made.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
Url = Annotated[str | None, typer.Option(help="Where the API is, say http://quiver:8000.")]
COLUMNS = ("id", "name", "key", "role", "tenant", "stores", "requests", "expires", "last used")


@program.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[str, typer.Option(help="read, write or admin.")] = "write",
    tenant: Annotated[str | None, typer.Option(help="Whose stores and files it sees. [default; an admin: all]")] = None,
    store: Annotated[
        list[str] | None, typer.Option(help="A vector store's id, to see no others; may be given several times.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0, help="How long it is good for. [for ever]")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="How many it may send. [the server's limit]")] = None,
    url: Url = None,
) -> None:
    """Make a key and print it: it is kept nowhere, and cannot be shown again.

    Examples: `quiver keys create chatbot --role read --tenant acme --days 90`,
    `quiver keys create "ops team" --role admin`
    """
    body = {
        "name": name,
        "role": role,
        "tenant": tenant,
        "vector_store_ids": store or None,
        "expires_at": None if days is None else int(time.time() + days * DAY_SECONDS),
        "requests_per_minute": requests_per_minute,
    }
    key = ask("POST", "keys", body=body, url=url)
    typer.echo(
        f"{key['id']}: role {key['role']}, tenant {key['tenant'] or 'all'}. This is the key, for this once:", err=True
    )
    typer.echo(key["value"])


@program.command("list")
def list_keys(url: Url = None) -> None:
    """List the keys, the youngest first.

    Example: `quiver keys list --url http://quiver:8000`
    """
    keys: list[dict[str, Any]] = []
    params: dict[str, str] = {"limit": "100"}
    while True:
        page = ask("GET", "keys", params=params, url=url)
        keys += page["data"]
        if not page["has_more"]:
            break
        params["after"] = page["last_id"]
    rows = [COLUMNS, *map(_cells, keys)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@program.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `quiver keys list` shows it.")],
    url: Url = None,
) -> None:
    """Refuse a key from now on. Every process of the API does within seconds.

    Example: `quiver keys revoke key_0651f3a2b4c5d00000000000`
    """
    ask("DELETE", f"keys/{quote(key_id, safe='')}", url=url)
    typer.echo(f"{key_id} is revoked")


def _cells(key: dict[str, Any]) -> tuple[str, ...]:
    stores = key["vector_store_ids"]
    return (
        key["id"],
        key["name"],
        key["redacted_value"],
        key["role"],
        key["tenant"] or "all",
        "all" if stores is None else ", ".join(stores),
        "-" if key["requests_per_minute"] is None else f"{key['requests_per_minute']}/min",
        _day(key["expires_at"]) or "never",
        _day(key["last_used_at"]) or "never",
    )


def _day(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


if __name__ == "__main__":
    program(prog_name="quiver keys")
