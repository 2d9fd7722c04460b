"""What is seen of one request or job while it is carried out: its route, its store, and where its time goes.

Whoever carries it out opens an `Observation`; the steps below add to it without knowing who that is. The log line, the
metrics and the traces are made of it. It never holds a key or a text.
"""

import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, ParamSpec, TypeVar

from api import tracing

Stage = Literal["embed", "sql", "rerank", "rewrite", "extract"]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
AsyncFunction = Callable[Arguments, Coroutine[Any, Any, Result]]

# What a span says of the stages that are calls of PostgreSQL.
DATABASE: Final = {"db.system.name": "postgresql"}

UNMATCHED = "other"  # the one name of all paths that are no route: anybody can make up more


@dataclass
class Observation:
    route: str = UNMATCHED
    vector_store_id: str | None = None
    # Added up over the calls of a stage; those that run side by side count each by itself.
    seconds: dict[Stage, float] = field(default_factory=dict[Stage, float])

    def see(self, scope: Any) -> None:
        """Take route and store from an ASGI scope that has been routed."""
        if (route := scope.get("route")) is not None:
            self.route = route.path
            self.vector_store_id = scope["path_params"].get("vector_store_id")

    def facts(self) -> dict[str, str | float]:
        """What a log line says of it."""
        store = {"vector_store_id": self.vector_store_id} if self.vector_store_id is not None else {}
        return store | {f"{stage}_milliseconds": round(seconds * 1000, 1) for stage, seconds in self.seconds.items()}


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)
_stages: ContextVar[frozenset[Stage]] = ContextVar("stages", default=frozenset())


@contextmanager
def observed() -> Generator[Observation]:
    """Observe what is done inside, the tasks it starts included."""
    observation = Observation()
    token = _current.set(observation)
    try:
        yield observation
    finally:
        _current.reset(token)


def current() -> Observation | None:
    return _current.get()


@asynccontextmanager
async def measured(stage: Stage) -> AsyncGenerator[None]:
    """Add the time that passes inside to a stage of what is observed, if anything is."""
    observation = _current.get()
    started = time.perf_counter()
    try:
        with tracing.span(stage, kind="CLIENT", attributes=DATABASE if stage == "sql" else None):
            yield
    finally:
        if observation is not None:
            seconds = time.perf_counter() - started
            observation.seconds[stage] = observation.seconds.get(stage, 0.0) + seconds


def timed(
    stage: Stage,
) -> Callable[[AsyncFunction[Arguments, Result]], AsyncFunction[Arguments, Result]]:
    """Measure each call of an async function; one within another of the same stage counts once."""

    def decorate(function: AsyncFunction[Arguments, Result]) -> AsyncFunction[Arguments, Result]:
        @functools.wraps(function)
        async def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if stage in _stages.get():
                return await function(*args, **kwargs)
            token = _stages.set(frozenset((*_stages.get(), stage)))
            try:
                async with measured(stage):
                    return await function(*args, **kwargs)
            finally:
                _stages.reset(token)

        return call

    return decorate
