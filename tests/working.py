"""Workers: one in the test's own process that takes what is in the queue and stops, and real processes."""

import asyncio
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from api import worker
from api.resources import Resources
from tests.conftest import make_settings


@asynccontextmanager
async def opened(settings: dict[str, Any]) -> AsyncGenerator[Resources]:
    resources = Resources.of(make_settings(**settings))
    await resources.database.open()
    yield resources
    await resources.close()


async def work_off(settings: dict[str, Any], *, concurrency: int = 4) -> None:
    """Do every job that is due."""
    async with opened(settings) as resources, worker.create_queue(resources).open_async() as queue:
        await queue.run_worker_async(
            wait=False, concurrency=concurrency, install_signal_handlers=False, listen_notify=False
        )


@asynccontextmanager
async def worker_process(environment: Mapping[str, str], directory: Path) -> AsyncGenerator[Process]:
    """A worker that has said that it works, its log in `worker.log`; it is killed if it still runs at the end."""
    log = directory / "worker.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api.cli", "worker"), env={"PATH": "", **environment}, stderr=output
        )
    try:
        async with asyncio.timeout(60):
            while "worker_started" not in log.read_text():  # noqa: ASYNC110  # it writes
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
