"""`quiver stores`: the vector stores of a running Quiver and how far their indexes are. A client of its API."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from api.errors import ApiError, ConfigurationError

if TYPE_CHECKING:
    import httpx

    from api.settings import Settings

PAGE = 100
REPLY_SECONDS = 60  # counting the chunks of a large store takes a while
COLUMNS = ("id", "name", "chunks", "indexed", "dimension", "index")


def list_stores(
    url: Annotated[str | None, typer.Option(help="Where the API is, say http://quiver:8000.")] = None,
) -> None:
    """List the vector stores of a running Quiver, with the state of their indexes.

    The API is looked for at `HOST` and `PORT` unless `--url` says otherwise. The key is `SERVER_API_KEY`, or the one
    that `quiver up` has made in `QUIVER_DATA_DIR`.

    Example: `quiver stores --url http://quiver:8000`
    """
    import httpx

    from api.settings import Settings

    settings = Settings()
    base = (url or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {_key(settings)}"}
    try:
        with httpx.Client(base_url=f"{base}/v1", headers=headers, timeout=REPLY_SECONDS) as client:
            rows = [
                _row(store, _get(client, f"/vector_stores/{quote(store['id'])}/index")) for store in _stores(client)
            ]
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"No Quiver answers at {base} ({error}); start it, or say where it is with --url."
        ) from error
    widths = [max(map(len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _stores(client: "httpx.Client") -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = _get(client, "/vector_stores", limit=str(PAGE), **after)
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


def _get(client: "httpx.Client", path: str, **query: str) -> dict[str, Any]:
    response = client.get(path, params=query)
    if not response.is_success:
        raise ApiError(_reason(response))
    return response.json()


def _reason(response: "httpx.Response") -> str:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answers with status {response.status_code}, which is not Quiver's; see --url."


def _key(settings: "Settings") -> str:
    from api.up import keys

    if settings.server_api_key is not None:
        return settings.server_api_key.get_secret_value()
    if not (settings.quiver_data_dir / keys.FILE_NAME).exists():
        raise ConfigurationError("SERVER_API_KEY is not set; set it to the key of the Quiver that is asked.")
    return keys.load_or_create(settings.quiver_data_dir, ["SERVER_API_KEY"])["SERVER_API_KEY"]
