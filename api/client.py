"""The API as commands of `quiver` see it: where it is, with which key, and its answers or the reason why not."""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import httpx

    from api.settings import Settings

FAILED = 1
REPLY_SECONDS = 60  # counting the chunks of a large store takes a while


def ask(
    method: str,
    path: str,
    *,
    url: str | None,
    body: object = None,
    params: dict[str, str] | None = None,
    reply_seconds: float | None = REPLY_SECONDS,
) -> dict[str, Any]:
    """What the API answers to a request of the path, such as `keys`; anything but success ends the program."""
    import httpx

    from api.settings import Settings

    settings = Settings()
    base = (url or f"http://{settings.host}:{settings.port}").rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {_key(settings)}"}
    timeout = httpx.Timeout(REPLY_SECONDS, read=reply_seconds)
    try:
        response = httpx.request(
            method, f"{base}/v1/{path}", json=body, params=params, headers=headers, timeout=timeout
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        give_up(f"No API answers at {base} ({error}); start it, or say where it is with --url.")
    if not response.is_success:
        give_up(_reason(response))
    return response.json()


def give_up(message: str) -> NoReturn:
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(FAILED)


def _key(settings: "Settings") -> str:
    """`SERVER_API_KEY`, or the key that `quiver up` made."""
    from api.up import keys

    if settings.server_api_key is not None:
        return settings.server_api_key.get_secret_value().strip()
    if (settings.quiver_data_dir / keys.FILE_NAME).exists():
        return keys.load_or_create(settings.quiver_data_dir, ["server_api_key"])["server_api_key"]
    give_up("SERVER_API_KEY is not set: set it to the API's key, or to one of yours.")


def _reason(response: "httpx.Response") -> str:
    try:
        return response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"{response.url} answered with the status {response.status_code}; is it Quiver's API?"
