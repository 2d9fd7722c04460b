"""The client of the embedding service: a LiteLLM proxy, or any server with OpenAI's embeddings API."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from api.errors import ApiError, EmbeddingTimeout, EmbeddingUnavailable, InvalidRequest
from api.settings import EmbeddingSettings
from api.wire import Vector, decode_base64_vector

Vectors = npt.NDArray[np.float32]

DEFAULT_BASE_URL = "http://localhost:4000"
PARALLEL_CALLS = 4  # of one request with many texts
RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER_SECONDS = 20.0  # a service that asks for more is given up instead, the caller is waiting
CONNECT_TIMEOUT_SECONDS = 5.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()
_wait_with_jitter = wait_exponential_jitter(multiplier=0.2, max=5.0, jitter=0.2)


class _Retryable(Exception):
    """One try failed in a way that the next may not; `error` is what the caller gets if none is left."""

    def __init__(self, error: ApiError, retry_after_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


class Embeddings:
    """One pooled HTTP client for all calls of the process."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        self.default_model = settings.model
        self.base_url = api_base(settings.base_url or DEFAULT_BASE_URL)
        self._batch_size = settings.batch_size
        self._max_attempts = settings.max_attempts
        self._base64_refused = False
        # Dimensions that a model gives only when asked for them. Others are never asked: most models refuse the field.
        self._reducible: set[tuple[str, int]] = set()
        key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30),
        )

    async def close(self) -> None:
        await self._client.aclose()

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
        return np.concatenate(parts)

    async def check(self) -> None:
        """Ask the service for its models, which every OpenAI-compatible one can list.

        Raises:
            EmbeddingUnavailable: it does not answer with success within two seconds.
        """
        try:
            response = await self._client.get(f"{self.base_url}/models", timeout=2)
        except httpx.HTTPError as error:
            raise EmbeddingUnavailable(f"The embedding service at {self.base_url} does not answer.") from error
        if response.status_code in (401, 403):
            raise EmbeddingUnavailable(f"The embedding service at {self.base_url} refuses EMBEDDING__API_KEY.")
        if response.is_error:
            raise EmbeddingUnavailable(
                f"The embedding service at {self.base_url} answers with HTTP {response.status_code}."
            )

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
        if not self._base64_refused:
            try:
                return await self._post(body | {"encoding_format": "base64"})
            except InvalidRequest:
                # Was it the format? Then the same texts pass as numbers, and later calls start there.
                vectors = await self._post(body)
                self._base64_refused = True
                return vectors
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
            response = await self._client.post(f"{self.base_url}/embeddings", json=body)
        except httpx.ConnectTimeout as error:
            raise _Retryable(self._unreachable()) from error
        except httpx.TimeoutException as error:  # not tried again: the caller has waited long enough
            raise EmbeddingTimeout(f"The embedding model {body['model']!r} took too long to answer.") from error
        except httpx.TransportError as error:
            raise _Retryable(self._unreachable()) from error
        if response.is_success:
            return _read_vectors(response.content, model=body["model"], count=len(body["input"]))
        raise self._failure(response, model=body["model"])

    def _unreachable(self) -> EmbeddingUnavailable:
        return EmbeddingUnavailable(f"The embedding service at {self.base_url} cannot be reached.")

    def _failure(self, response: httpx.Response, *, model: str) -> Exception:
        status = response.status_code
        log.warning("embedding_call_failed", status=status, model=model, answer=response.text[:500])
        if status in RETRIED_STATUSES:
            error = EmbeddingUnavailable(f"The embedding model {model!r} fails with HTTP {status}.")
            retry_after = _retry_after_seconds(response)
            too_long = retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS
            return error if too_long else _Retryable(error, retry_after)
        if status in (401, 403):
            return EmbeddingUnavailable(f"The embedding service refuses EMBEDDING__API_KEY (HTTP {status}).")
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


def _read_vectors(content: bytes, *, model: str, count: int) -> Vectors:
    """Read OpenAI's answer, of either encoding, whatever order its items have."""
    garbage = EmbeddingUnavailable(
        f"The embedding model {model!r} answered with something else than {count} vectors.",
        code="embedding_garbage",
    )
    try:
        items = sorted(orjson.loads(content)["data"], key=lambda item: item["index"])
        vectors = np.stack([_read_vector(item["embedding"]) for item in items])
    except (KeyError, TypeError, ValueError) as error:
        raise garbage from error
    if vectors.ndim != 2 or vectors.shape[0] != count or not vectors.shape[1]:
        raise garbage
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise garbage
    return vectors


def _read_vector(value: Any) -> Vector:
    return decode_base64_vector(value) if isinstance(value, str) else np.asarray(value, dtype=np.float32)


def _retry_after_seconds(response: httpx.Response) -> float | None:
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_seconds if isinstance(error, _Retryable) else None
    return asked if asked is not None else _wait_with_jitter(state)


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.log(logging.WARNING, "embedding_call_retried", attempt=state.attempt_number, error=str(error))
