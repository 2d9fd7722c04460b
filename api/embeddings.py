"""The client of the embedding service: a LiteLLM proxy, or any server with OpenAI's embeddings API."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from api import tracing
from api.errors import ApiError, ConfigurationError, EmbeddingTimeout, EmbeddingUnavailable, InvalidRequest
from api.observation import timed
from api.settings import EmbeddingSettings
from api.vectors import Vector, Vectors, as_rows, from_numbers, have_directions, joined
from api.wire import decode_base64_vector

DEFAULT_BASE_URL = "http://localhost:4000"
PARALLEL_CALLS = 4  # of one request with many texts
RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER_SECONDS = 20.0  # a service that asks for more is given up instead, the caller is waiting
CONNECT_TIMEOUT_SECONDS = 5.0
CHECK_SECONDS = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()
_wait_with_jitter = wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.2)


class _Retryable(Exception):
    """One try failed in a way that the next may not; `error` is what the caller gets if none is left."""

    def __init__(self, error: ApiError, retry_after_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class _EncodingRefused(Exception):
    """The service does not know `encoding_format`."""


class Embeddings:
    """One pooled HTTP client for all calls of the process.

    Raises:
        ConfigurationError: EMBEDDING__BASE_URL is not the address of an HTTP server.
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        self.default_model = settings.model
        self.base_url = api_base(settings.base_url or DEFAULT_BASE_URL)
        self._service = f"The embedding service at {_without_password(self.base_url)}"
        self._timeout_seconds = settings.timeout_seconds
        self._batch_size = settings.batch_size
        self._max_attempts = settings.max_attempts
        self._without_base64: set[str] = set()  # models whose service does not know it
        # Dimensions that a model gives only when asked for them. Others are never asked: most models refuse the field.
        self._reducible: set[tuple[str, int]] = set()
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._client = httpx.AsyncClient(
            # Compressed by LiteLLM, vectors are a quarter smaller, and cost it and us 0.15 ms each.
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(settings.timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30),
            event_hooks={"request": [tracing.inject]},
        )

    async def close(self) -> None:
        await self._client.aclose()

    @timed("embed")
    async def embed(self, texts: Sequence[str], *, model: str, dimension: int | None) -> Vectors:
        """Embed texts in one or more calls, in input order.

        Returns:
            One float32 row per text, shape (len(texts), dimension).

        Raises:
            InvalidRequest: the service has no such model, or refuses the texts.
            EmbeddingUnavailable: it cannot be reached, keeps failing, or answers with something else.
            EmbeddingTimeout: it took longer than the configured time.
        """
        slots = asyncio.Semaphore(PARALLEL_CALLS)

        async def embed_batch(batch: Sequence[str]) -> Vectors:
            async with slots:
                return await self._embed_batch(batch, model=model, dimension=dimension)

        starts = range(0, len(texts), self._batch_size)
        tasks = [asyncio.create_task(embed_batch(texts[start : start + self._batch_size])) for start in starts]
        try:
            parts = await asyncio.gather(*tasks)
        finally:  # of one failure, or of a caller that went away
            for task in tasks:
                task.cancel()
        if len({part.shape[1] for part in parts}) > 1:
            raise EmbeddingUnavailable(f"The embedding model {model!r} answered with vectors of different dimensions.")
        return joined(parts)

    async def check(self) -> None:
        """Ask the service for its models, which every OpenAI-compatible one can list.

        Raises:
            EmbeddingUnavailable: it does not answer with success within two seconds.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                response = await self._client.get(f"{self.base_url}/models")
        except (httpx.RequestError, TimeoutError) as error:
            raise EmbeddingUnavailable(f"{self._service} does not answer.") from error
        if response.status_code in (401, 403):
            raise EmbeddingUnavailable(f"{self._service} refuses EMBEDDING__API_KEY.")
        if response.is_error:
            raise EmbeddingUnavailable(f"{self._service} answers with HTTP {response.status_code}.")

    async def _embed_batch(self, texts: Sequence[str], *, model: str, dimension: int | None) -> Vectors:
        asks_dimension = dimension is not None and (model, dimension) in self._reducible
        vectors = await self._call(texts, model=model, dimensions=dimension if asks_dimension else None)
        if dimension is None or vectors.shape[1] == dimension:
            return vectors
        if not asks_dimension and vectors.shape[1] > dimension:
            reduced = await self._call_reduced(texts, model=model, dimension=dimension)
            if reduced is not None:
                self._reducible.add((model, dimension))
                return reduced
        raise EmbeddingUnavailable(
            f"The embedding model {model!r} answered with {vectors.shape[1]} dimensions where the vector store has "
            f"{dimension}; the proxy must route {model!r} to the model that the store was filled with.",
            code="embedding_dimension_mismatch",
        )

    async def _call_reduced(self, texts: Sequence[str], *, model: str, dimension: int) -> Vectors | None:
        """The vectors at a smaller dimension, None if the model cannot make them."""
        try:
            vectors = await self._call(texts, model=model, dimensions=dimension)
        except InvalidRequest:
            return None
        return vectors if vectors.shape[1] == dimension else None

    async def _call(self, texts: Sequence[str], *, model: str, dimensions: int | None) -> Vectors:
        """One call with its retries. Base64 first: through the proxy it costs a fifth of what numbers cost."""
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        if model not in self._without_base64:
            try:
                return await self._post(body | {"encoding_format": "base64"})
            except _EncodingRefused:
                self._without_base64.add(model)
        return await self._post(body)

    async def _post(self, body: dict[str, Any]) -> Vectors:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, _Retryable)),
            stop=stop_after_attempt(self._max_attempts),
            wait=_wait,
            before_sleep=_log_retry,
            reraise=True,
        )
        try:
            return await retrying(self._try, body)
        except _Retryable as failure:
            raise failure.error from failure

    async def _try(self, body: dict[str, Any]) -> Vectors:
        try:
            async with asyncio.timeout(self._timeout_seconds):  # httpx bounds each read, and not all of them
                response = await self._client.post(f"{self.base_url}/embeddings", json=body)
        except httpx.DecodingError as error:
            raise _garbage(body) from error
        except (httpx.ReadTimeout, httpx.WriteTimeout, TimeoutError) as error:  # the caller has waited long enough
            raise EmbeddingTimeout(f"The embedding model {body['model']!r} took too long to answer.") from error
        except httpx.RequestError as error:
            raise _Retryable(EmbeddingUnavailable(f"{self._service} cannot be reached.")) from error
        if response.is_success:
            return _read_vectors(response.content, body)
        if response.status_code in (400, 422) and "encoding_format" in body and b"encoding_format" in response.content:
            raise _EncodingRefused
        raise self._failure(response, model=body["model"])

    def _failure(self, response: httpx.Response, *, model: str) -> Exception:
        status = response.status_code
        log.warning("embedding_call_failed", status=status, model=model, answer=response.text[:500])
        if status in RETRIED_STATUSES:
            error = EmbeddingUnavailable(f"The embedding model {model!r} fails with HTTP {status}.")
            retry_after = _retry_after_seconds(response)
            too_long = retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS
            return error if too_long else _Retryable(error, retry_after)
        if status in (401, 403):
            return EmbeddingUnavailable(f"{self._service} refuses EMBEDDING__API_KEY (HTTP {status}).")
        if status == 404 or b"Invalid model name" in response.content:  # the latter is LiteLLM's 400
            return InvalidRequest(
                f"The embedding service has no model called {model!r}; see `model_list` in litellm_config.yaml.",
                param="embedding_model",
                code="model_not_found",
            )
        if status in (400, 413, 422):
            return InvalidRequest(
                f"The embedding model {model!r} refuses these texts; one may be longer than it can read.",
                code="embedding_refused",
            )
        return EmbeddingUnavailable(f"The embedding model {model!r} fails with HTTP {status}.")


def api_base(url: str) -> str:
    """The address that paths such as `/embeddings` follow: litellm-pgvector's users write it without `/v1`."""
    stripped = url.rstrip("/")
    return stripped if stripped.endswith("/v1") else f"{stripped}/v1"


def _without_password(url: str) -> str:
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigurationError(f"EMBEDDING__BASE_URL is no address: {error}.") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise ConfigurationError("EMBEDDING__BASE_URL must begin with http:// or https:// and name a host.")
    return str(address.copy_with(username=None, password=None))


def _read_vectors(content: bytes, body: dict[str, Any]) -> Vectors:
    """Read OpenAI's answer, of either encoding, whatever order its items have."""
    try:
        items = sorted(orjson.loads(content)["data"], key=lambda item: item["index"])
        vectors = as_rows([_read_vector(item["embedding"]) for item in items])
    except (KeyError, TypeError, ValueError) as error:
        raise _garbage(body) from error
    is_whole = [item["index"] for item in items] == list(range(len(body["input"])))
    if not is_whole or not vectors.shape[1] or not have_directions(vectors):
        raise _garbage(body)
    return vectors


def _garbage(body: dict[str, Any]) -> EmbeddingUnavailable:
    return EmbeddingUnavailable(
        f"The embedding model {body['model']!r} answered with something else than {len(body['input'])} vectors.",
        code="embedding_garbage",
    )


def _read_vector(value: Any) -> Vector:
    return decode_base64_vector(value) if isinstance(value, str) else from_numbers(value)


def _retry_after_seconds(response: httpx.Response) -> float | None:
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, _Retryable) else None
    return asked if asked is not None else _wait_with_jitter(state)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.log(logging.WARNING, "embedding_call_retried", attempt=state.attempt_number, error=str(error))
