"""JSON over HTTP from services that may be busy: what passes is tried again, the rest is an error with a sentence."""

from typing import Any

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from api.errors import ApiError

ATTEMPTS = 6  # some 30 seconds
TIMEOUT_SECONDS = 120
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class ServiceUnavailable(ApiError):
    """A service on the way cannot be reached or keeps failing; the same command goes on when it is back."""

    default_code = "service_unavailable"


class ServiceRefused(ApiError):
    """A service does not do what it was asked to; `answered` is its HTTP status."""

    default_code = "service_refused"

    def __init__(self, message: str, *, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class _Passing(Exception):
    pass


class Service:
    """One HTTP server, by the name that messages have for it."""

    def __init__(self, base_url: str, *, name: str, headers: dict[str, str]) -> None:
        self.base_url = base_url.rstrip("/")
        self._name = name
        self._client = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_SECONDS)

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, path: str, **params: Any) -> Any:
        """Read; parameters that are None are left out."""
        return await self._call("GET", path, params={k: v for k, v in params.items() if v is not None})

    async def post(self, path: str, body: Any, *, headers: dict[str, str] | None = None) -> Any:
        """Send, and send again: whoever is asked must do the same thing once only."""
        return await self._call("POST", path, json=body, headers=headers)

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(multiplier=0.2, max=10),
            reraise=True,
        )
        try:
            response: httpx.Response = await retrying(self._try, method, path, **request)
        except _Passing as error:
            raise ServiceUnavailable(f"{self._name} {error}. Start the same command again to go on.") from error
        if response.is_error:
            raise ServiceRefused(
                f"{self._name} answers {method} {path} with HTTP {response.status_code}: {_message(response)}",
                answered=response.status_code,
            )
        try:
            return response.json()
        except ValueError as error:
            raise ServiceUnavailable(f"{self._name} answers {method} {path} with something else than JSON.") from error

    async def _try(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, f"{self.base_url}{path}", **request)
        except httpx.HTTPError as error:
            raise _Passing("cannot be reached") from error
        if response.status_code in RETRIED_STATUSES:
            raise _Passing(f"fails with HTTP {response.status_code}")
        return response


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
