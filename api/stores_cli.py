"""`quiver stores`: the vector stores of a running Quiver and how far their indexes are. A client of its API."""

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

import typer

from api.client import ask

PAGE = 100
COLUMNS = ("id", "name", "chunks", "indexed", "dimension", "index")


def list_stores(
    url: Annotated[str | None, typer.Option(help="Where the API is, say http://quiver:8000.")] = None,
) -> None:
    """List the vector stores of a running Quiver, with the state of their indexes.

    The API is looked for at `HOST` and `PORT` unless `--url` says otherwise. The key is `SERVER_API_KEY`, or the one
    that `quiver up` has made in `QUIVER_DATA_DIR`.

    Example: `quiver stores --url http://quiver:8000`
    """
    rows = [_row(store, ask("GET", f"vector_stores/{quote(store['id'])}/index", url=url)) for store in _stores(url)]
    widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _stores(url: str | None) -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = ask("GET", "vector_stores", params={"limit": str(PAGE), **after}, url=url)
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def _row(store: dict[str, Any], index: dict[str, Any]) -> tuple[str, ...]:
    build = index["build"]
    state = index["status"]
    if state == "failed":
        state = f"failed: {build['last_error']}"
    elif state == "building":
        state = "waiting to be built" if build["progress"] is None else f"building {build['progress']:.0%}"
    counts = (str(index["chunk_count"]), str(index["indexed_count"]), str(index["dimension"] or "-"))
    return (store["id"], store["name"] or "-", *counts, state)
