"""A model that another server has: asked over HTTP, answered as if it were ours."""

import asyncio
import base64
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from embedder.admission import Backlog, Limits, estimated_tokens
from embedder.batching import CUT_HEADER, Computed, vectors_of
from embedder.engines import ModelFacts, Text
from embedder.errors import InvalidRequest, QueueFull, ShuttingDown, UpstreamFailed, UpstreamTimeout
from embedder.registry import Declaration

if TYPE_CHECKING:
    import httpx

MAX_CONNECTIONS = 32  # to one server; more requests wait here
MAX_SHOWN_CHARACTERS = 200  # of an answer that nobody understands, in the log

log = structlog.get_logger()


class Remote:
    """One model of another server. Tokens are as that server counts them, or estimated where it does not say."""

    engine_name = "http"

    def __init__(self, declaration: Declaration, *, limits: Limits, max_connections: int = MAX_CONNECTIONS) -> None:
        import httpx

        key = os.environ.get(declaration.api_key_env or "", "")
        self.facts = ModelFacts(kind="dense", dimensions=None, max_tokens=None, vocabulary_size=0)
        self._name = declaration.name
        self._remote_model = declaration.remote_model or declaration.name
        self._shape = declaration.shape
        self._timeout_seconds = declaration.timeout_seconds
        self._limits = limits
        self._backlog = Backlog()
        self._connections = asyncio.Semaphore(max_connections)
        self._http = httpx.AsyncClient(
            base_url=(declaration.url or "").rstrip("/") + "/",
            timeout=None,  # noqa: S113  # `_ask` bounds the answer as a whole; httpx would each part of it
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=max_connections),
        )
        self._under_way = 0
        self._is_closing = False
        self._finished = asyncio.Event()

    @property
    def queued_tokens(self) -> int:
        return self._backlog.tokens

    @property
    def requests_under_way(self) -> int:
        return self._under_way

    async def compute(
        self, texts: Sequence[Text], *, prompt: str = "", max_tokens: int | None = None, refuses_long: bool = False
    ) -> Computed:
        """Ask the other server for the texts' vectors. How long a text may be is its affair.

        Raises:
            QueueFull: too much is under way already, there or here.
            UpstreamFailed: the other server cannot be reached, or its answer is none.
            UpstreamTimeout: it took longer than this model may.
        """
        del max_tokens, refuses_long
        if self._is_closing:
            raise ShuttingDown("The model is being taken out of service; try again.")
        estimate = estimated_tokens(texts)
        self._limits.check_room(estimate, self._backlog, name=self._name)
        self._under_way += 1
        try:
            with self._backlog.holding(estimate, is_short=self._limits.is_short(estimate)):
                answer, cut = await self._ask([prompt + text for text in texts if isinstance(text, str)])
            rows = self._rows(answer, len(texts))
            self.facts = ModelFacts(kind="dense", dimensions=rows.shape[1], max_tokens=None, vocabulary_size=0)
            usage = answer.get("usage")
            counted = usage.get("prompt_tokens") if isinstance(usage, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # whatever the other server said
            return Computed(vectors_of(rows), counted if isinstance(counted, int) else estimate, cut)
        finally:
            self._under_way -= 1
            if self._is_closing and not self._under_way:
                self._finished.set()

    async def close(self) -> None:
        self._is_closing = True
        if self._under_way:
            await self._finished.wait()
        await self._http.aclose()

    async def _ask(self, texts: list[str]) -> tuple[dict[str, Any], int]:
        """The other server's answer, and how many texts it has cut."""
        import httpx

        path, body = {
            "openai": ("embeddings", {"model": self._remote_model, "input": texts, "encoding_format": "base64"}),
            "embed": ("embed", {"model": self._remote_model, "texts": texts}),
            "batch_embed": ("batch_embed", {"texts": texts}),
        }[self._shape]
        try:
            async with self._connections, asyncio.timeout(self._timeout_seconds):
                response = await self._http.post(path, json=body)
        except TimeoutError as error:
            raise UpstreamTimeout(f"The server of the model {self._name!r} took too long to answer.") from error
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"The server of the model {self._name!r} cannot be reached.") from error
        cut = response.headers.get(CUT_HEADER, "")
        return self._understood(response), int(cut) if cut.isdecimal() else 0

    def _understood(self, response: "httpx.Response") -> dict[str, Any]:
        if response.status_code == QueueFull.status:
            wait = response.headers.get("retry-after", "")
            seconds = int(wait) if wait.isdecimal() else 1
            raise QueueFull(f"The server of the model {self._name!r} is busy.", retry_after_seconds=seconds)
        try:
            answer = response.json() if response.is_success else None
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return cast("dict[str, Any]", answer)
        log.error(
            "upstream_failed",
            model=self._name,
            status=response.status_code,
            answer=response.text[:MAX_SHOWN_CHARACTERS],
        )
        if response.status_code == InvalidRequest.status:
            raise InvalidRequest(f"The server of the model {self._name!r} refused the texts.", param="input")
        raise UpstreamFailed(f"The server of the model {self._name!r} failed (status {response.status_code}).")

    def _rows(self, answer: dict[str, Any], texts: int) -> NDArray[np.float32]:
        try:
            if self._shape == "openai":
                data = sorted(answer["data"], key=lambda item: item["index"])
                rows = np.array([decoded(item["embedding"]) for item in data], dtype=np.float32)
            else:
                rows = np.array(answer["embeddings"], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamFailed(f"The server of the model {self._name!r} gave no vectors.") from error
        if rows.ndim != 2 or len(rows) != texts or not np.isfinite(rows).all():
            raise UpstreamFailed(f"The server of the model {self._name!r} gave other vectors than were asked for.")
        return rows


def decoded(embedding: str | list[float]) -> NDArray[np.float32] | list[float]:
    return np.frombuffer(base64.b64decode(embedding), dtype="<f4") if isinstance(embedding, str) else embedding
