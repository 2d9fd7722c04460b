"""What an execution environment of AWS Lambda has from its start to its end: its settings and its one event loop."""

import asyncio
import os
from collections.abc import Coroutine
from functools import cache
from typing import Any, Final, Protocol, TypeVar

from api import aws_secrets
from api.access_log import configure_logging
from api.settings import Settings

T = TypeVar("T")

# Lambda takes 6 MiB each way, as JSON that has bytes in base64: 4.5 MiB of them, and headers.
MAX_PAYLOAD_BYTES: Final = 6 * 1024 * 1024

DEFAULTS: Final = {
    "database_pool_size": 2,  # an environment has one request at a time
    "max_answer_bytes": 4_000_000,
}


class Context(Protocol):
    """What Lambda tells about an invocation."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


@cache
def settings() -> Settings:
    """The settings of the environment and of the secret that it names; Lambda's own defaults for what neither says.

    Raises:
        ConfigurationError: the secret cannot be read.
    """
    found = Settings()
    if found.quiver_secret_arn is not None:
        for name, value in aws_secrets.read(found.quiver_secret_arn).items():
            if not os.environ.get(name):
                os.environ[name] = value
        found = Settings()
    configure_logging(found)
    unset = {name: value for name, value in DEFAULTS.items() if name not in found.model_fields_set}
    return found.model_copy(update=unset)


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Mangum runs requests on the current one
    return loop


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the loop until that is done. What else is on it goes on with the next invocation."""
    return event_loop().run_until_complete(work)
