"""`quiver up`: every part of the service on this machine, from the first process to the last one's end."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
from pydantic import SecretStr

from api.errors import ApiError, ConfigurationError
from api.services import adoption
from api.settings import Settings
from api.tables import migrations
from api.up import keys
from api.up.display import Display
from api.up.embedded_postgres import EmbeddedPostgres
from api.up.plan import Plan, make_plan
from api.up.processes import LAST_LINES, Child, Guardian

POSTGRES, MIGRATIONS = "PostgreSQL", "migrations"
EMBEDDER, PROXY, API, WORKER = "embedder", "LiteLLM proxy", "API", "worker"
WHY_IT_TAKES_LONG = {EMBEDDER: "the first start exports the model, once, which takes about a minute"}
GRACE_SECONDS = 12  # a part that has not ended by then is killed; the worker gives its jobs 10
GRACE_OF_ITS_OWN = (EMBEDDER,)  # it ends by itself, within EMBEDDER_SHUTDOWN_SECONDS
FAILED_GRACE_SECONDS = 3  # with a part gone, the others wait for it in vain
POLL_SECONDS = 0.1
STOPPED, FAILED, MISCONFIGURED = 0, 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Part(Protocol):
    name: str

    async def start(self, watched_by: Guardian) -> None: ...
    async def ended(self) -> str: ...
    def last_lines(self) -> list[str]: ...
    async def stop(self, grace_seconds: float | None) -> None: ...
    def kill(self) -> None: ...


class PartEnded(Exception):
    """A part ended by itself."""

    def __init__(self, part: Part, how: str) -> None:
        super().__init__(f"The part {part.name!r} {how}.")
        self.last_lines = part.last_lines()


def up(settings: Settings) -> int:
    """Run until SIGINT, SIGTERM or a part's end; returns the exit status.

    Raises:
        ConfigurationError: found before anything was started.
    """
    return asyncio.run(_Stack(make_plan(settings)).run())


class DatabaseServer:
    """The embedded PostgreSQL as a part."""

    name = POSTGRES

    def __init__(self, data_dir: Path, *, write: Callable[[str, str], None]) -> None:
        self.server = EmbeddedPostgres(data_dir)
        self._write = write
        self._forget: Callable[[], None] | None = None

    async def start(self, watched_by: Guardian) -> None:
        # In the loop's own pool of threads, which outlives the server, as the server's death signal asks for.
        starting = asyncio.create_task(asyncio.to_thread(self.server.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            while not starting.done():  # a recovery may take minutes
                self.server.request_stop()
                await asyncio.wait([starting], timeout=POLL_SECONDS)
            raise
        if self.server.process is not None:
            watched_by.watch(self.server.process.pid)
            self._forget = partial(watched_by.forget, self.server.process.pid)

    async def ended(self) -> str:
        """Wait until the server ends by itself; its log goes to the stream meanwhile."""
        process = self.server.process
        with self.server.log_path.open(errors="replace") as log:
            while process is not None and process.poll() is None:
                for line in log:
                    self._write(self.name, line.rstrip())
                await asyncio.sleep(5 * POLL_SECONDS)
        return f"ended (its log: {self.server.log_path})"

    def last_lines(self) -> list[str]:
        return self.server.last_log_lines(LAST_LINES)

    async def stop(self, grace_seconds: float | None) -> None:
        del grace_seconds  # it takes the time its last checkpoint takes
        await asyncio.to_thread(self.server.stop)
        if self._forget is not None:
            self._forget()

    def kill(self) -> None:
        self.server.request_stop(at_once=True)


class _Stack:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._display = Display((POSTGRES, MIGRATIONS, EMBEDDER, PROXY, API, WORKER))
        self._guardian = Guardian()
        self._parts: list[Part] = []  # those started, in order
        self._watches: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        living = asyncio.create_task(self._live())
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            loop.add_signal_handler(number, self._interrupt, living)
        status = FAILED
        try:
            status = await self._outcome(living)
        finally:
            await self._stop(is_orderly=status == STOPPED)
        return status

    async def _outcome(self, living: asyncio.Task[None]) -> int:
        try:
            await living
        except asyncio.CancelledError:
            return STOPPED
        except PartEnded as error:
            self._display.complain(f"{error} Its last lines:", error.last_lines)
            return FAILED
        except (ConfigurationError, ApiError) as error:
            self._display.complain(str(error))
            return MISCONFIGURED
        return STOPPED

    def _interrupt(self, living: asyncio.Task[None]) -> None:
        """The first signal stops everything in order, the second kills it."""
        if not living.done() and not living.cancelling():
            living.cancel()
            return
        for part in reversed(self._parts):
            part.kill()

    async def _live(self) -> None:
        began = time.monotonic()
        with self._display.starting():
            database_url = await self._start_database()
            await self._start_services(database_url)
        self._display.summarize(self._rows(database_url, time.monotonic() - began), example=self._example())
        self._display.stream(True)
        while not self._display.broken:
            await self._while_all_live(asyncio.sleep(POLL_SECONDS * 10))

    async def _start_database(self) -> str:
        settings = self._plan.settings
        if settings.database_url is not None:
            url = settings.database_url.get_secret_value()
        else:
            self._display.begin(POSTGRES)
            part = DatabaseServer(self._plan.home / "postgres", write=self._display.log)
            await self._start(part)
            url = part.server.url
            self._display.ready(POSTGRES)
        self._display.begin(MIGRATIONS)
        unpooled = (settings.database_url and settings.database_direct_url) or SecretStr(url)
        applied = await migrations.apply(unpooled.get_secret_value())
        adopted = await adoption.adopt(settings.model_copy(update={"database_url": unpooled}))
        self._display.ready(MIGRATIONS, note=f"{len(applied)} applied" if applied else "up to date")
        for line in adopted:
            self._display.say(line)
        return url

    async def _start_services(self, database_url: str) -> None:
        """Start the rest side by side: each spends seconds on imports."""
        plan, checks = self._plan, dict[str, str]()
        environment = plan.api_environment(database_url)
        if plan.starts_embedder:
            await self._start_child(EMBEDDER, plan.embedder_command(), plan.embedder_environment())
            checks[EMBEDDER] = plan.embedder_url.removesuffix("/v1") + "/health"
        if plan.starts_proxy:
            await self._start_child(PROXY, plan.proxy_command(), plan.proxy_environment())
            checks[PROXY] = plan.proxy_url + "/health/liveliness"
        await self._start_child(API, plan.api_command("api"), environment)
        checks[API] = plan.api_url + "/ready"
        await self._start_child(WORKER, plan.api_command("worker"), environment)
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            await self._while_all_live(_all(self._wait_until_ready(client, name, url) for name, url in checks.items()))
        self._display.ready(WORKER)

    async def _start_child(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self._display.begin(name)
        await self._start(Child(name, command, environment, write=self._display.log))

    async def _start(self, part: Part) -> None:
        self._parts.append(part)  # first: what is interrupted half-way must be stopped, too
        try:
            await part.start(self._guardian)
        except ConfigurationError:
            self._parts.remove(part)  # it has cleaned up behind itself
            raise
        self._watches.add(asyncio.create_task(_watch(part)))

    async def _wait_until_ready(self, client: httpx.AsyncClient, name: str, url: str) -> None:
        while (missing := await _ask(client, url)) is not None:
            self._display.waits(name, missing or WHY_IT_TAKES_LONG.get(name, ""))
            await asyncio.sleep(POLL_SECONDS)
        self._display.ready(name)

    async def _while_all_live(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`, or raise PartEnded as soon as any part ends."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, *self._watches}, return_when=asyncio.FIRST_COMPLETED)
            for watch in self._watches:
                if watch.done():
                    await watch
            await task
        finally:
            task.cancel()

    async def _stop(self, *, is_orderly: bool) -> None:
        """Stop everything; only then is the guardian let go."""
        self._display.stream(False)
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        if self._parts:
            self._display.say(f"Stopping {', '.join(part.name for part in reversed(self._parts))}")
        await stop_all(self._parts, is_orderly=is_orderly)
        self._guardian.close()
        if self._parts:
            self._display.say("Everything is stopped")

    def _rows(self, database_url: str, seconds: float) -> list[tuple[str, str]]:
        plan = self._plan
        generated = f"{plan.server_key}  (generated, kept in {plan.home / keys.FILE_NAME})"
        rows = [
            ("Quiver", f"{plan.api_url}/v1  (ready after {seconds:.0f} s)"),
            ("Key", generated if plan.key_setting is None else f"yours, from {plan.key_setting}"),
            ("LiteLLM proxy", f"{plan.proxy_url}  {'' if plan.starts_proxy else '(yours, from EMBEDDING__BASE_URL)'}"),
        ]
        if plan.starts_proxy:
            yours = "" if plan.starts_embedder else "(yours, from EMBEDDER_BASE_URL)"
            rows.append(("Embedder", f"{plan.embedder_url}  {yours}"))
        rows.append((POSTGRES, database_url if plan.starts_postgres else "yours, from DATABASE_URL"))
        return [(name, value.rstrip()) for name, value in rows]

    def _example(self) -> str:
        key = self._plan.server_key if self._plan.key_setting is None else f"${self._plan.key_setting}"
        return (
            f'curl {self._plan.api_url}/v1/vector_stores -H "Authorization: Bearer {key}" '
            """-H "Content-Type: application/json" -d '{"name": "first"}'"""
        )


async def stop_all(parts: Sequence[Part], *, is_orderly: bool) -> None:
    """Stop the last one first; an orderly end leaves each the time to finish what it was asked."""
    for part in reversed(parts):
        grace_seconds = None if part.name in GRACE_OF_ITS_OWN else GRACE_SECONDS
        await part.stop(grace_seconds if is_orderly else FAILED_GRACE_SECONDS)


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


async def _watch(part: Part) -> None:
    how = await part.ended()
    raise PartEnded(part, how)


async def _ask(client: httpx.AsyncClient, url: str) -> str | None:
    """Ask a part whether it is ready; None when it is, else what it says is missing, if it says anything."""
    try:
        answer = await client.get(url)
    except httpx.HTTPError:
        return ""
    if answer.is_success:
        return None
    try:
        checks: dict[str, str] = answer.json()["checks"]
    except (ValueError, KeyError, TypeError):
        return f"it answers {answer.status_code}"
    return "; ".join(state for state in checks.values() if state != "ok")
