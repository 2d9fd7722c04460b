"""One port served by several processes, each with its share of the connections.

Left to themselves, the one that is quickest accepts most of what comes at once, and clients keep their connections:
of four clients of two processes, one process had all in one run, and two in the next.
"""

import asyncio
import mmap
import socket
from typing import Final

import structlog
import uvicorn

log: structlog.stdlib.BoundLogger = structlog.get_logger()

BACKLOG: Final = 2048
LEFT_SECONDS: Final = 0.01  # to a process with fewer connections; if it is busy for longer, another one accepts
PAUSE_SECONDS: Final = 1  # after a failure that trying again at once would only repeat


class ConnectionCounts:
    """How many connections each process has, in memory that those forked later share."""

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, processes * 4)).cast("i")
        self._own = 0

    def become(self, process: int) -> None:
        """Count for this one of the processes from now on."""
        self._own = process

    def set(self, count: int) -> None:
        self._counts[self._own] = count

    def add_one(self) -> None:
        self._counts[self._own] += 1

    @property
    def has_fewest(self) -> bool:
        return self._counts[self._own] <= min(self._counts)


class SharingServer(uvicorn.Server):
    """A process of the port. It accepts one connection at a time, and leaves them to others that have fewer."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, counts: ConnectionCounts) -> None:
        super().__init__(config)
        self._listener = listener
        self._counts = counts
        self._starting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])  # uvicorn's own way to listen takes what it can get
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._resume()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await super().shutdown(sockets=[])

    async def on_tick(self, counter: int) -> bool:
        self._counts.set(len(self.server_state.connections))  # some have ended; uvicorn calls ten times a second
        return await super().on_tick(counter)

    def _on_connection(self) -> None:
        if self._counts.has_fewest:
            self._accept()
        else:
            self._wait(LEFT_SECONDS)

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._pause = loop.call_later(seconds, self._accept_and_resume)

    def _accept_and_resume(self) -> None:
        self._resume()
        self._accept()

    def _resume(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._listener, self._on_connection)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another process was quicker, or it ended
            return
        except OSError as error:  # no descriptors are left, most often
            log.warning("connection_not_accepted", reason=error.strerror)
            self._wait(PAUSE_SECONDS)
            return
        self._counts.add_one()
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _protocol(self) -> asyncio.Protocol:
        make: type[asyncio.Protocol] = self.config.http_protocol_class  # pyright: ignore[reportAssignmentType]  # of uvicorn's own kind
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # pyright: ignore[reportCallIssue]  # likewise
