"""Tells the worker on AWS Lambda at once that there are jobs, by a message in SQS; others listen to PostgreSQL."""

import asyncio
import os
import re
from datetime import UTC, datetime
from typing import Final

import httpx
import orjson
import structlog

from api.aws_signature import signed_headers
from api.errors import ConfigurationError

TARGET: Final = "AmazonSQS.SendMessage"
SECONDS: Final = 1.0  # that a request waits at most; the schedule finds the jobs within a minute

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Wake:
    def __init__(self, queue_url: str | None) -> None:
        self._queue_url = queue_url
        # No connection is kept: it would not live through the freeze between two invocations.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=SECONDS, limits=limits) if queue_url else None

    async def send(self) -> None:
        """Send a message after jobs were committed, if there is a queue for it. A failure is logged and no more."""
        if self._queue_url is None or self._client is None:
            return
        endpoint = str(httpx.URL(self._queue_url).copy_with(raw_path=b"/"))
        body = orjson.dumps({"QueueUrl": self._queue_url, "MessageBody": "{}"})
        try:
            headers = signed_headers(
                endpoint,
                service="sqs",
                region=region_of(self._queue_url),
                target=TARGET,
                body=body,
                now=datetime.now(UTC),
                json_version="1.0",
            )
            async with asyncio.timeout(SECONDS):  # httpx bounds each step, and not all of them
                answer = await self._client.post(endpoint, content=body, headers=headers)
        except (ConfigurationError, httpx.HTTPError, TimeoutError) as error:
            log.warning("wake_failed", queue_url=self._queue_url, error=str(error) or type(error).__name__)
            return
        if answer.is_error:
            log.warning("wake_failed", queue_url=self._queue_url, status=answer.status_code, answer=answer.text[:500])

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def region_of(queue_url: str) -> str:
    found = re.search(r"//sqs\.([a-z0-9-]+)\.", queue_url)
    return found[1] if found else os.environ.get("AWS_REGION", "us-east-1")
