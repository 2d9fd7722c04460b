"""`/health` and `/ready`."""

from typing import Literal

from typing_extensions import TypedDict


class Health(TypedDict):
    status: Literal["ok"]


class Checks(TypedDict):
    """`ok`, or what is wrong."""

    database: str
    migrations: str
    embedding_service: str


class Readiness(TypedDict):
    status: Literal["ok", "unavailable"]
    checks: Checks
