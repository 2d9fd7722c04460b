"""Waiting for PostgreSQL's answers: what psycopg does, at half the price."""

import asyncio
import contextlib
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus
from psycopg.rows import DictRow
from psycopg.waiting import Ready, Wait

RV = TypeVar("RV")

CANCEL_SECONDS = 5.0  # for a statement that nobody waits for any more to end


class WatchedConnection(psycopg.AsyncConnection[DictRow]):
    """A connection whose socket the event loop watches from one statement to the next.

    psycopg has it watched for each wait anew, and sets a timer besides, which costs as much as reading the rows.
    """

    _watched: int | None = None  # the socket's descriptor; it must not be closed while the loop watches it
    _waiter: asyncio.Future[None] | None = None

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109
        """Consume one of psycopg's generators; those that write as well as read, or have a timeout, as psycopg does."""
        try:
            state = next(gen)
            while state == Wait.R and timeout is None:
                await self._readable()
                state = gen.send(Ready.R)
        except StopIteration as done:
            return done.value
        except asyncio.CancelledError:
            self._unwatch()
            with contextlib.suppress(psycopg.Error):  # it is still at work then, and the pool closes it
                await self.cancel_safe(timeout=CANCEL_SECONDS)
                await super().wait(gen, timeout=CANCEL_SECONDS)
            raise
        finally:
            if self.pgconn.status != ConnStatus.OK:  # libpq has closed the socket
                self._unwatch()
        self._unwatch()
        return await super().wait(gen, interval, timeout)  # a generator that is asked again says the same

    async def close(self) -> None:
        self._unwatch()
        await super().close()

    def _readable(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if self._watched is None:
            self._watched = self.pgconn.socket
            loop.add_reader(self._watched, self._wake)
        self._waiter = loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is None or self._waiter.done():  # the server says something unasked, or went away
            self._unwatch()
        else:
            self._waiter.set_result(None)

    def _unwatch(self) -> None:
        if self._watched is not None:
            asyncio.get_running_loop().remove_reader(self._watched)
            self._watched = None
