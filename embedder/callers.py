"""Callers who hang up before their answer: what they asked for is given up."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import Request

from embedder.errors import ClientGone

PATIENCE_SECONDS = 0.2  # most answers come sooner; only then is it worth to watch for a caller who hangs up

Result = TypeVar("Result")


class Callers:
    """Those who wait for an answer, the first first. One timer for all looks who has waited for long."""

    def __init__(self) -> None:
        self._waiting: dict[Caller, None] = {}
        self._is_looking = False

    async def answer(self, request: Request, work: Awaitable[Result]) -> Result:
        """Await the work; it is cancelled when the caller hangs up meanwhile.

        Raises:
            ClientGone: that happened.
        """
        caller = Caller(request)
        self._waiting[caller] = None
        if not self._is_looking:
            self._look_later()
        try:
            return await work
        except asyncio.CancelledError:
            if not caller.is_gone or caller.task.uncancel():
                raise
            raise ClientGone("The caller hung up.") from None
        finally:
            del self._waiting[caller]
            if caller.watcher is not None:
                caller.watcher.cancel()

    def _look_later(self) -> None:
        self._is_looking = True
        asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        latest = time.monotonic() - PATIENCE_SECONDS
        for caller in self._waiting:
            if caller.since > latest:
                break
            if caller.watcher is None:
                caller.watcher = asyncio.create_task(caller.watch())
        if self._waiting:
            self._look_later()


class Caller:
    __slots__ = ("is_gone", "request", "since", "task", "watcher")

    def __init__(self, request: Request) -> None:
        task = asyncio.current_task()
        assert task is not None  # a request is handled in one
        self.task: asyncio.Task[Any] = task
        self.request = request
        self.since = time.monotonic()
        self.watcher: asyncio.Task[None] | None = None
        self.is_gone = False

    async def watch(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.task.cancel()
