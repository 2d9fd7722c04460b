"""The background process: takes jobs from the queue in PostgreSQL. Any number may run, on any number of machines."""

import asyncio
import signal
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import procrastinate
import structlog
from procrastinate import exceptions
from procrastinate.jobs import Job, Status
from procrastinate.middleware import AsyncCallNext
from psycopg_pool import PoolTimeout

from api import tracing
from api.errors import ApiError, ConfigurationError, DatabaseUnavailable, ModelUnavailable, StorageUnavailable
from api.extraction import ExtractorFailed
from api.metrics import Metrics
from api.resources import Resources
from api.schedule import Schedule
from api.services import (
    expiry,
    files,
    idempotency,
    ingestion,
    keywords,
    rates,
    sparse_vectors,
    table_sync_work,
    uploads,
    vector_indexes,
    vector_store_files,
)
from api.settings import Settings
from api.tables import jobs, queue

log: structlog.stdlib.BoundLogger = structlog.get_logger()

RECONNECT_SECONDS = 2.0
# For jobs under way; one that is cut off is handed back and done anew. Docker kills 10 seconds after it has asked.
SHUTDOWN_SECONDS = 7.0

# Sweeps have their own places, so that files that take hours keep neither them nor the recovery of jobs waiting.
SWEEPS = "default"
SWEEPS_AT_ONCE = 4
SWEEPS_POLL_SECONDS = 2.0
FILES_POLL_SECONDS = 5.0  # a notification may be lost

DRAIN_LOOK_SECONDS = 0.5  # for further jobs, and whether any are left, where a worker has only so long

# A build takes minutes, for a million chunks half an hour: it has a place of its own, and there is one at a time.
INDEXES = "vector_indexes"

# A worker that says nothing for so long is dead: its jobs are others'. One that was only stopped for a while finds
# that a file is no longer its own when it comes to write it.
HEARTBEAT_SECONDS = 5.0
STALLED_SECONDS = 20.0

# The minute in which a chunk must be found by its words has a pass every ten seconds; one that has much to do ends
# before a minute, and the next goes on.
KEYWORDS_SECONDS = 45.0
SPARSE_SECONDS = 45.0  # likewise

# Synced tables have places of their own, too: a long table keeps neither files nor sweeps waiting.
TABLE_SYNCS = "table_syncs"
TABLE_SYNCS_AT_ONCE = 2
TABLE_SYNCS_POLL_SECONDS = 1.0
TABLE_SYNCS_SECONDS = 20.0  # then the next job goes on

RETRY_SECONDS = (1, 2, 5, 10, 20, 30, 60)  # before each further try of a file; the last is repeated


class _UntilDone(procrastinate.BaseRetryStrategy):
    """A file is tried until ingestion itself says that it is done or given up, however the worker came to an end."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision:
        if isinstance(exception, asyncio.CancelledError):  # this worker stops; another may go on at once
            return procrastinate.RetryDecision(retry_in={"seconds": 0})
        is_expected = isinstance(exception, (ApiError, ExtractorFailed))
        facts = {**job.task_kwargs, "attempts": job.attempts + 1, "error": str(exception)}
        log.warning("job_retried", **facts, exc_info=None if is_expected else exception)
        return procrastinate.RetryDecision(
            retry_in={"seconds": RETRY_SECONDS[min(job.attempts, len(RETRY_SECONDS) - 1)]}
        )


def create_queue(resources: Resources, *, seconds: float | None = None) -> procrastinate.App:
    """The queue with every task that Quiver has; `seconds` is the time of a worker that has only so much."""
    app = procrastinate.App(connector=queue.connector(resources.settings))
    _add_ingestion(app, resources, seconds)
    _add_sweeps(app, resources)
    _add_keywords(app, resources)
    _add_sparse_vectors(app, resources)
    _add_table_syncs(app, resources, TABLE_SYNCS_SECONDS if seconds is None else seconds)
    _add_vector_indexes(app, resources, seconds)
    return app


def _add_ingestion(app: procrastinate.App, resources: Resources, seconds: float | None) -> None:
    @app.task(name=jobs.TASK, queue=jobs.QUEUE, retry=_UntilDone(), pass_context=False)
    async def ingest_file(vector_store_id: str, file_id: str) -> None:
        await ingestion.ingest(resources, vector_store_id, file_id, worker_seconds=seconds)

    @app.periodic(cron="* * * * * */10")
    @app.task(name="recover_jobs", queueing_lock="recover_jobs", pass_context=False)
    async def recover_jobs(timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
            log.warning("job_recovered", task=job.task_name, **job.task_kwargs)
            try:
                await app.job_manager.retry_job(job)
            except exceptions.UniqueViolation:  # the next of its kind waits already, behind this one's lock
                await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
        for vector_store_id, file_id in await ingestion.requeue_lost(resources):
            log.warning("file_requeued", vector_store_id=vector_store_id, file_id=file_id)


def _add_sweeps(app: procrastinate.App, resources: Resources) -> None:
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

    @app.periodic(cron="17 * * * *")
    @app.task(name="forget_what_is_over", queueing_lock="forget_what_is_over", pass_context=False)
    async def forget_what_is_over(timestamp: int) -> None:
        await vector_store_files.forget_places(resources)
        await uploads.forget_ended(resources)
        await rates.forget_full(resources)

    @app.periodic(cron="37 * * * *")
    @app.task(name="purge_idempotency_keys", queueing_lock="purge_idempotency_keys", pass_context=False)
    async def purge_idempotency_keys(timestamp: int) -> None:
        if count := await idempotency.purge(resources):
            log.info("idempotency_keys_purged", count=count)


def _add_keywords(app: procrastinate.App, resources: Resources) -> None:
    @app.periodic(cron="* * * * * */10")
    @app.task(name="index_keywords", queueing_lock="index_keywords", lock="index_keywords", pass_context=False)
    async def index_keywords(timestamp: int) -> None:
        if count := await keywords.index(resources, seconds=KEYWORDS_SECONDS):
            log.info("keywords_indexed", chunks=count)

    @app.periodic(cron="27 * * * *")
    @app.task(name="sweep_keywords", queueing_lock="sweep_keywords", pass_context=False)
    async def sweep_keywords(timestamp: int) -> None:
        await keywords.sweep(resources)


def _add_sparse_vectors(app: procrastinate.App, resources: Resources) -> None:
    @app.task(name="fill_sparse", queueing_lock="fill_sparse", lock="fill_sparse", pass_context=False)
    async def fill_sparse(timestamp: int) -> None:
        try:
            if count := await sparse_vectors.fill(resources, seconds=SPARSE_SECONDS):
                log.info("sparse_vectors_filled", chunks=count)
        except ModelUnavailable as error:  # the next pass tries again
            log.warning("sparse_model_unavailable", error=error.message)

    if resources.sparse_model is not None:
        app.periodic(cron="* * * * * */10")(fill_sparse)

    @app.periodic(cron="57 * * * *")
    @app.task(name="sweep_sparse", queueing_lock="sweep_sparse", pass_context=False)
    async def sweep_sparse(timestamp: int) -> None:
        await sparse_vectors.sweep(resources)


def _add_table_syncs(app: procrastinate.App, resources: Resources, seconds: float) -> None:
    @app.periodic(cron="* * * * * */1")
    @app.task(name="sync_tables", queue=TABLE_SYNCS, queueing_lock="sync_tables", pass_context=False)
    async def sync_tables(timestamp: int) -> None:
        if count := await table_sync_work.work(resources, seconds=seconds):
            log.info("tables_synced", rows=count)

    @app.periodic(cron="* * * * *")
    @app.task(name="sweep_table_syncs", queueing_lock="sweep_table_syncs", pass_context=False)
    async def sweep_table_syncs(timestamp: int) -> None:
        for id in await table_sync_work.sweep(resources):
            log.info("table_sync_dropped", table_sync=id)


def _add_vector_indexes(app: procrastinate.App, resources: Resources, seconds: float | None) -> None:
    @app.periodic(cron="* * * * *")
    @app.task(
        name="care_for_vector_indexes",
        queue=INDEXES,
        queueing_lock="care_for_vector_indexes",
        lock="care_for_vector_indexes",
        pass_context=False,
    )
    async def care_for_vector_indexes(timestamp: int) -> None:
        await vector_indexes.care(resources, seconds=seconds)

    @app.periodic(cron="47 * * * *")
    @app.task(name="count_vector_indexes", queueing_lock="count_vector_indexes", pass_context=False)
    async def count_vector_indexes(timestamp: int) -> None:
        await vector_indexes.count(resources)


async def run(settings: Settings) -> None:
    """Work until SIGINT or SIGTERM. A database that goes away is waited for.

    Raises:
        ConfigurationError: no database is configured, its tables do not fit, or the storage of files is misconfigured.
    """
    from api import probes  # a server, which a function on AWS Lambda neither needs nor has

    settings = settings.past_the_pooler()
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL is not set; the worker takes its jobs from there.")
    tracing.start("quiver-worker")
    resources = Resources.of(settings)
    await resources.database.open()
    with suppress(StorageUnavailable):  # it may come later, and is in the log
        await resources.blobs.check()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        async with probes.served(resources):
            await _work_whenever_possible(stopping, resources)
    finally:
        await resources.close()
        await asyncio.to_thread(tracing.stop)


async def drain(resources: Resources, *, seconds: float) -> int:
    """Do what is due, sweeps included, and answer with how many files are left for another time.

    A job that is under way at the end of the time is handed back and done anew.
    """
    seconds = max(seconds - SHUTDOWN_SECONDS, 0)
    deadline = time.monotonic() + seconds
    app = create_queue(resources, seconds=seconds)
    running = _Running()
    work = partial(_work, app, resources.metrics, listens=False, poll_seconds=DRAIN_LOOK_SECONDS, running=running)
    schedule = Schedule.taken_from(app)
    async with app.open_async():
        await schedule.defer_due()
        stop = asyncio.create_task(_until_nothing_is_due(resources, running, deadline))
        at_once = resources.settings.worker_concurrency
        places = {jobs.QUEUE: at_once, SWEEPS: SWEEPS_AT_ONCE, TABLE_SYNCS: 1, INDEXES: 1}
        await _until_stopped(
            [schedule.worker(), *(work(name, at_once=number) for name, number in places.items())], stop
        )
    async with resources.database.connection() as connection:
        return await jobs.count_due(connection, [jobs.QUEUE])


class _Running:
    """How many jobs this process is at."""

    def __init__(self) -> None:
        self.jobs = 0


async def _until_nothing_is_due(resources: Resources, running: _Running, deadline: float) -> None:
    while time.monotonic() < deadline:
        async with resources.database.connection() as connection:
            due = await jobs.count_due(connection, [jobs.QUEUE, SWEEPS, TABLE_SYNCS, INDEXES])
        if not due and not running.jobs:
            return
        await asyncio.sleep(DRAIN_LOOK_SECONDS)


async def _work_whenever_possible(stopping: asyncio.Event, resources: Resources) -> None:
    while not stopping.is_set():
        try:
            await resources.database.chunk_table()
            async with resources.database.connection() as connection:  # gives up sooner than the queue does
                await connection.execute("SELECT 1")
            log.info("worker_started")
            await _work_until(stopping, resources)
        except (exceptions.ConnectorException, DatabaseUnavailable) as error:
            log.warning("worker_waits_for_database", error=str(error))
            await _sleep_unless(stopping, RECONNECT_SECONDS)


async def _work_until(stopping: asyncio.Event, resources: Resources) -> None:
    app = create_queue(resources)
    schedule = Schedule.taken_from(app)
    stop = asyncio.create_task(stopping.wait())
    opening = asyncio.create_task(_open(app))
    await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if opening.done():
            opening.result()
            await _work_in_all_queues(app, schedule, stop, resources)
    finally:
        opening.cancel()  # without a database it would be tried for half a minute
        stop.cancel()
        await app.close_async()
    if stopping.is_set():
        log.info("worker_stopped")


async def _open(app: procrastinate.App) -> None:
    try:
        await app.open_async()
    except PoolTimeout as error:  # which procrastinate lets through
        raise DatabaseUnavailable("The database went away while the queue was opened.") from error


async def _work_in_all_queues(
    app: procrastinate.App, schedule: Schedule, stop: asyncio.Task[Literal[True]], resources: Resources
) -> None:
    work, at_once = partial(_work, app, resources.metrics), resources.settings.worker_concurrency
    await _until_stopped(
        [
            schedule.worker(),
            work(jobs.QUEUE, at_once=at_once, listens=True, poll_seconds=FILES_POLL_SECONDS),
            work(SWEEPS, at_once=SWEEPS_AT_ONCE),
            work(INDEXES, at_once=1),
            work(TABLE_SYNCS, at_once=TABLE_SYNCS_AT_ONCE, poll_seconds=TABLE_SYNCS_POLL_SECONDS),
        ],
        stop,
    )


async def _until_stopped(work: Sequence[Coroutine[Any, Any, None]], stop: asyncio.Task[Any]) -> None:
    workers = [asyncio.create_task(one) for one in work]
    await asyncio.wait({*workers, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    for worker in workers:
        worker.cancel()  # procrastinate's way to ask for a graceful end; without a database it never comes to one
    _, unfinished = await asyncio.wait(workers, timeout=SHUTDOWN_SECONDS + 1)
    if not unfinished:
        for result in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def _work(
    app: procrastinate.App,
    metrics: Metrics,
    queue_name: str,
    *,
    at_once: int,
    listens: bool = False,
    poll_seconds: float = SWEEPS_POLL_SECONDS,
    running: _Running | None = None,
) -> None:
    running = running or _Running()

    async def count(call_next: AsyncCallNext, context: procrastinate.JobContext, _: object) -> Any:
        running.jobs += 1
        try:
            async with metrics.job(context.job.task_name):
                return await call_next()
        finally:
            running.jobs -= 1

    await app.run_worker_async(
        queues=[queue_name],
        concurrency=at_once,
        install_signal_handlers=False,
        listen_notify=listens,
        fetch_job_polling_interval=poll_seconds,
        shutdown_graceful_timeout=SHUTDOWN_SECONDS,
        update_heartbeat_interval=HEARTBEAT_SECONDS,
        stalled_worker_timeout=STALLED_SECONDS,
        delete_jobs="always",
        worker_middleware=[count],
    )


async def _sleep_unless(stopping: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stopping.wait(), timeout=seconds)
    except TimeoutError:
        return
