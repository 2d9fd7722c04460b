"""AWS Lambda's events that are no requests: a schedule, SQS or S3. Each says only that there may be jobs to do.

What is not done within the invocation's time goes back into the queue in PostgreSQL, for the next one.
"""

from typing import Any

import structlog

from api import lambda_environment, worker
from api.errors import ConfigurationError
from api.lambda_environment import Context
from api.resources import Resources
from api.services import adoption
from api.settings import Settings
from api.tables import migrations

log: structlog.stdlib.BoundLogger = structlog.get_logger()

POOL_SIZE = 8  # at least, for what is done at once: four files, a table, an index and sweeps
MARGIN_SECONDS = 3.0  # of an invocation's time, to close connections in


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Do the jobs that are due, or bring the tables up to date for `{"migrate": true}`; the function's entry point.

    The answer to SQS is a partial one: while jobs are left, one message of the batch comes again.
    """
    if event.get("migrate"):
        return {"done": lambda_environment.run(_migrate())}
    left = lambda_environment.run(_drain(context))
    messages = [record["messageId"] for record in event.get("Records", []) if record.get("eventSource") == "aws:sqs"]
    log.info("queue_drained", left=left)
    return {"left": left, "batchItemFailures": [{"itemIdentifier": id} for id in messages[-1:] if left]}


async def _drain(context: Context) -> int:
    settings = lambda_environment.settings().past_the_pooler()
    _database_url(settings)
    settings = settings.model_copy(update={"database_pool_size": max(settings.database_pool_size, POOL_SIZE)})
    # Opened anew each time, once a minute or so: then there are none that broke while the environment was frozen.
    resources = Resources.of(settings)
    await resources.database.open()
    try:
        return await worker.drain(resources, seconds=context.get_remaining_time_in_millis() / 1000 - MARGIN_SECONDS)
    finally:
        await resources.close()


async def _migrate() -> list[str]:
    """What `quiver db migrate` does: a database in a private network is within nobody else's reach."""
    settings = lambda_environment.settings().past_the_pooler()
    applied = await migrations.apply(_database_url(settings))
    return [*applied, *await adoption.adopt(settings)]


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise ConfigurationError(
            "DATABASE_URL is not set, neither in the environment nor in QUIVER_SECRET_ARN's secret."
        )
    return settings.database_url.get_secret_value()
