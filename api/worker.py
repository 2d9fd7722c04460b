"""The background process: takes jobs from the queue in PostgreSQL. Any number may run, on any number of machines."""

import asyncio
import signal
from contextlib import suppress

import procrastinate
import structlog
from procrastinate import exceptions

from api.errors import ConfigurationError, DatabaseUnavailable
from api.resources import Resources
from api.services import expiry, files, idempotency
from api.settings import Settings
from api.tables import queue

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CONCURRENCY = 4  # jobs at once in one process
RECONNECT_SECONDS = 2.0
SHUTDOWN_SECONDS = 10.0  # for jobs under way; a sweep that is cut off is undone and made up for a minute later


def create_queue(resources: Resources) -> procrastinate.App:
    """The queue with every task that Quiver has."""
    app = procrastinate.App(connector=queue.connector(resources.settings))

    @app.periodic(cron="* * * * *")
    @app.task(name="sweep_expired_stores", queueing_lock="sweep_expired_stores", pass_context=False)
    async def sweep_expired_stores(timestamp: int) -> None:
        for id in await expiry.sweep(resources):
            log.info("vector_store_expired", vector_store_id=id)

    @app.periodic(cron="* * * * *")
    @app.task(name="sweep_expired_files", queueing_lock="sweep_expired_files", pass_context=False)
    async def sweep_expired_files(timestamp: int) -> None:
        for id in await files.sweep_expired(resources):
            log.info("file_expired", file_id=id)

    @app.periodic(cron="7 * * * *")
    @app.task(name="sweep_blobs", queueing_lock="sweep_blobs", pass_context=False)
    async def sweep_blobs(timestamp: int) -> None:
        if count := await files.sweep_blobs(resources):
            log.info("blobs_without_a_row_deleted", count=count)

    @app.periodic(cron="37 * * * *")
    @app.task(name="purge_idempotency_keys", queueing_lock="purge_idempotency_keys", pass_context=False)
    async def purge_idempotency_keys(timestamp: int) -> None:
        if count := await idempotency.purge(resources):
            log.info("idempotency_keys_purged", count=count)

    return app


async def run(settings: Settings) -> None:
    """Work until SIGINT or SIGTERM. A database that goes away is waited for.

    Raises:
        ConfigurationError: no database is configured, or its tables do not fit.
    """
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL is not set; the worker takes its jobs from there.")
    resources = Resources.of(settings)
    await resources.database.open()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        while not stopping.is_set():
            try:
                await resources.database.chunk_table()
                log.info("worker_started")
                await _work_until(stopping, resources)
            except (exceptions.ConnectorException, DatabaseUnavailable) as error:
                log.warning("worker_waits_for_database", error=str(error))
                await _sleep_unless(stopping, RECONNECT_SECONDS)
    finally:
        await resources.close()


async def _work_until(stopping: asyncio.Event, resources: Resources) -> None:
    async with create_queue(resources).open_async() as app:
        worker = asyncio.create_task(
            app.run_worker_async(
                concurrency=CONCURRENCY,
                install_signal_handlers=False,
                shutdown_graceful_timeout=SHUTDOWN_SECONDS,
                delete_jobs="successful",
            )
        )
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({worker, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not worker.done():
            worker.cancel()  # procrastinate's way to ask for a graceful end; without a database it never comes to one
            await asyncio.wait({worker}, timeout=SHUTDOWN_SECONDS + 1)
            log.info("worker_stopped")
            if not worker.done():
                return
        with suppress(asyncio.CancelledError):
            await worker


async def _sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), timeout=seconds)
    except TimeoutError:
        return
