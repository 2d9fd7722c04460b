"""Calls of the LiteLLM proxy's models beside the embedding ones: one pooled HTTP client, time-outs and retries."""

import asyncio
from typing import Any

import httpx
import orjson
import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from api import tracing
from api.errors import ApiError, InvalidRequest, ModelTimeout, ModelUnavailable

RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER_SECONDS = 2.0  # of a search somebody waits for; a model that asks for more is given up
CONNECT_TIMEOUT_SECONDS = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()
_wait_with_jitter = wait_exponential_jitter(multiplier=0.1, max=2.0, jitter=0.1)


class _Retryable(Exception):
    """One try failed in a way that the next may not; `error` is what the caller gets if none is left."""

    def __init__(self, error: ApiError, retry_after_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class Proxy:
    def __init__(self, base_url: str, *, key: str) -> None:
        self._base_url = base_url
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=30),
            event_hooks={"request": [tracing.inject]},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, path: str, body: dict[str, Any], *, timeout_seconds: float, max_attempts: int) -> Any:
        """Call `body["model"]` and answer with the JSON that comes back.

        Raises:
            InvalidRequest: the proxy has no such model, or the model refuses the texts.
            ModelTimeout: it took longer than `timeout_seconds`.
            ModelUnavailable: it cannot be reached, keeps failing, or answers with something else than JSON.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Retryable),
            stop=stop_after_attempt(max_attempts),
            wait=_wait,
            reraise=True,
        )
        try:
            return await retrying(self._try, path, body, timeout_seconds)
        except _Retryable as failure:
            raise failure.error from failure

    async def _try(self, path: str, body: dict[str, Any], timeout_seconds: float) -> Any:
        model = body["model"]
        timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds))
        try:
            async with asyncio.timeout(timeout_seconds):  # httpx bounds each read, and not all of them
                response = await self._client.post(f"{self._base_url}{path}", json=body, timeout=timeout)
        except (httpx.ReadTimeout, httpx.WriteTimeout, TimeoutError) as error:  # the caller has waited long enough
            raise ModelTimeout(f"The model {model!r} took too long to answer.") from error
        except httpx.RequestError as error:
            raise _Retryable(ModelUnavailable(f"The proxy of the model {model!r} cannot be reached.")) from error
        if response.is_error:
            raise _failure(response, model)
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise garbage(model) from error


def garbage(model: str) -> ModelUnavailable:
    return ModelUnavailable(f"The model {model!r} answered with something else than was asked for.")


def _failure(response: httpx.Response, model: str) -> Exception:
    status = response.status_code
    log.warning("model_call_failed", status=status, model=model, answer=response.text[:500])
    if status == 404 or b"Invalid model name" in response.content:  # the latter is LiteLLM's 400
        return InvalidRequest(
            f"The proxy has no model called {model!r}; see `model_list` in litellm_config.yaml.", code="model_not_found"
        )
    if status in (400, 413, 422):
        return InvalidRequest(
            f"The model {model!r} refuses this; it may be of another kind, or the texts longer than it can read.",
            code="model_refused",
        )
    error = ModelUnavailable(f"The model {model!r} fails with HTTP {status}.")
    retry_after = _retry_after_seconds(response)
    if status not in RETRIED_STATUSES or (retry_after or 0) > MAX_RETRY_AFTER_SECONDS:
        return error
    return _Retryable(error, retry_after)


def _retry_after_seconds(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() else None


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, _Retryable) else None
    return asked if asked is not None else _wait_with_jitter(state)
