"""A declared model and what serves it at present: loaded when it is needed, replaced without failing a request."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol, TypedDict

import structlog

from embedder.admission import Backlog, Limits, estimated_tokens
from embedder.batching import Computed
from embedder.engines import ModelFacts, Text
from embedder.errors import ModelUnavailable, NotFound, Unready
from embedder.registry import Declaration

State = Literal["loading", "ready", "failed", "disabled", "idle"]

log = structlog.get_logger()


class Runtime(Protocol):
    """What answers for a model: its own engines behind a batcher, or another server."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def engine_name(self) -> str: ...

    @property
    def queued_tokens(self) -> int: ...

    @property
    def requests_under_way(self) -> int: ...

    async def compute(
        self, texts: Sequence[Text], *, prompt: str = "", max_tokens: int | None = None, refuses_long: bool = False
    ) -> Computed: ...

    async def close(self) -> None: ...


class Status(TypedDict):
    name: str
    state: State
    kind: str
    aliases: list[str]
    source: str
    engine: str | None
    dimensions: int | None
    max_tokens: int | None
    replicas: int
    queued_tokens: int
    requests_under_way: int
    error: str | None


class Model:
    """A declared model and what serves it at present."""

    def __init__(
        self,
        declaration: Declaration,
        open_runtime: Callable[[Declaration], Coroutine[Any, Any, Runtime]],
        *,
        limits_of: Callable[[Declaration], Limits],
    ) -> None:
        self.declaration = declaration
        self.error: str | None = None
        self.used_at = time.monotonic()
        self._open_runtime = open_runtime
        self._limits_of = limits_of
        self._backlog = Backlog()  # of requests that wait for the model to be loaded
        self._runtime: Runtime | None = None
        self._loading: asyncio.Task[None] | None = None
        self._is_gone = False
        self._retiring: set[asyncio.Task[None]] = set()
        self.facts: ModelFacts | None = None  # since it was first loaded

    @property
    def kind(self) -> str:
        """`auto` until the model has been loaded. Another server's models are dense."""
        if self.declaration.kind == "http":
            return "dense"
        return self.facts.kind if self.facts is not None else self.declaration.kind

    @property
    def state(self) -> State:
        if not self.declaration.enabled:
            return "disabled"
        if self._runtime is not None:
            return "ready"
        if self._loading is not None:
            return "loading"
        return "failed" if self.error else "idle"

    @property
    def is_retiring(self) -> bool:
        return bool(self._retiring)

    @property
    def is_loading(self) -> bool:
        return self._loading is not None

    @property
    def loaded(self) -> Runtime | None:
        return self._runtime

    async def runtime(self, texts: Sequence[Text] = ()) -> Runtime:
        """What serves the model, loaded if need be. Ask it at once: later it may have been replaced.

        Args:
            texts: what it will be asked for. They count as queued while the model is loaded.

        Raises:
            NotFound: the model is disabled.
            QueueFull: too many tokens wait for it to be loaded.
            Unready: it cannot be loaded.
        """
        self.used_at = time.monotonic()
        while self._runtime is None:
            if self._is_gone:
                raise NotFound(f"The model {self.declaration.name!r} has been removed.", param="model")
            if not self.declaration.enabled:
                raise NotFound(
                    f"The model {self.declaration.name!r} is disabled.", param="model", code="model_disabled"
                )
            if self.error is not None and self._loading is None:
                raise Unready(f"The model {self.declaration.name!r} cannot be loaded: {self.error}")
            limits, estimate = self._limits_of(self.declaration), estimated_tokens(texts)
            limits.check_room(estimate, self._backlog, name=self.declaration.name)
            with self._backlog.holding(estimate, is_short=limits.is_short(estimate)):
                await asyncio.wait([self.load()])
        return self._runtime

    def load(self) -> "asyncio.Task[None]":
        """Begin to load what is declared, unless that is under way. The task does not fail: `error` says what did."""
        if self._loading is None:
            self._loading = asyncio.create_task(self._load(), name=f"load {self.declaration.name}")
        return self._loading

    async def _load(self) -> None:
        try:
            loaded: Declaration | None = None
            while loaded is None or not self.declaration.is_loaded_like(loaded):  # it may change meanwhile
                loaded = self.declaration
                await self._load_once(loaded)
        finally:
            if self._loading is asyncio.current_task():
                self._loading = None

    async def _load_once(self, declaration: Declaration) -> None:
        started = time.perf_counter()
        try:
            runtime = await self._open_runtime(declaration)
        except Exception as error:  # whatever a model's files do, the other models are served
            is_known = isinstance(error, ModelUnavailable)
            self.error = str(error) if is_known else f"{type(error).__name__}: {error}"
            log.error("model_not_loaded", model=declaration.name, reason=self.error, exc_info=not is_known)
            return
        self.error = None
        self.facts = runtime.facts
        self._replace_runtime(runtime)
        log.info(
            "model_loaded",
            model=declaration.name,
            engine=runtime.engine_name,
            dimensions=runtime.facts.dimensions,
            seconds=round(time.perf_counter() - started, 2),
        )

    def unload(self) -> None:
        """Serve no more with what is loaded or being loaded. It finishes what it was asked: see `retired`."""
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        self.error = None
        self._replace_runtime(None)

    def remove(self) -> None:
        """Unload, for good: who still waits for the model hears that it is gone."""
        self._is_gone = True
        self.unload()

    async def retired(self) -> None:
        """Wait until what was unloaded or replaced has finished, and given its memory back."""
        while self._retiring:
            await asyncio.wait(self._retiring)

    def _replace_runtime(self, runtime: Runtime | None) -> None:
        old, self._runtime = self._runtime, runtime
        if old is not None:
            task = asyncio.create_task(old.close(), name=f"retire {self.declaration.name}")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def status(self) -> Status:
        runtime, declaration = self._runtime, self.declaration
        facts = runtime.facts if runtime is not None else self.facts
        return {
            "name": declaration.name,
            "state": self.state,
            "kind": self.kind,
            "aliases": declaration.aliases,
            "source": declaration.source,
            "engine": runtime.engine_name if runtime is not None else None,
            "dimensions": facts.dimensions if facts is not None else None,
            "max_tokens": facts.max_tokens if facts is not None else None,
            "replicas": declaration.replicas,
            "queued_tokens": runtime.queued_tokens if runtime is not None else self._backlog.tokens,
            "requests_under_way": runtime.requests_under_way if runtime is not None else 0,
            "error": self.error,
        }
