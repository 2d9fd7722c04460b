"""What is seen of one request or job while it is carried out: its route, its store, and where its time goes.

Whoever carries it out opens an `Observation`; the steps below add to it without knowing who that is. The log line, the
metrics and the traces are made of it. It never holds a key or a text.
"""

import functools
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, Final, Literal, ParamSpec, Self, TypeVar

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
    """A context manager: what is done inside is what is observed, the tasks it starts included."""

    route: str = UNMATCHED
    vector_store_id: str | None = None
    # Added up over the calls of a stage; those that run side by side count each by itself.
    seconds: dict[Stage, float] = field(default_factory=dict[Stage, float])
    _token: "Token[Observation | None] | None" = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None  # set on entering
        _current.reset(self._token)

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


def current() -> Observation | None:
    return _current.get()


class Stopwatch:
    """A context manager that adds the time that passes inside to a stage of what is observed, if anything is."""

    def __init__(self, stage: Stage) -> None:
        self._stage: Stage = stage
        self._span = tracing.span(stage, kind="CLIENT", attributes=DATABASE if stage == "sql" else None)

    def __enter__(self) -> None:
        self._started = time.perf_counter()
        self._span.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self._span.__exit__(*raised)
        if (observation := _current.get()) is not None:
            seconds = time.perf_counter() - self._started
            observation.seconds[self._stage] = observation.seconds.get(self._stage, 0.0) + seconds


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
                with Stopwatch(stage):
                    return await function(*args, **kwargs)
            finally:
                _stages.reset(token)

        return call

    return decorate
