"""Identifiers that sort by the time they were made, so that a page can go on behind an object that is gone."""

import secrets
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_DIGITS = 13  # hexadecimal, of microseconds: lasts until 2112
_RANDOM_DIGITS = 11  # 44 bits within one microsecond


def new_ids(prefix: str, count: int, *, separator: str = "_") -> list[str]:
    """Make ascending ids such as `vs_` and 24 hexadecimal digits. OpenAI's files have `-` for a separator."""
    now = time.time_ns() // 1000
    digits = secrets.token_hex((count * _RANDOM_DIGITS + 1) // 2)  # at once: each call asks the system
    return [
        f"{prefix}{separator}{now + i:0{_TIME_DIGITS}x}{digits[i * _RANDOM_DIGITS : (i + 1) * _RANDOM_DIGITS]}"
        for i in range(count)
    ]


def created_at(id: str) -> datetime | None:
    """When the id was made; None for an id that is not of ours."""
    digits = id.replace("-", "_").rpartition("_")[2]
    if len(digits) != _TIME_DIGITS + _RANDOM_DIGITS:
        return None
    try:
        return _EPOCH + timedelta(microseconds=int(digits[:_TIME_DIGITS], 16))
    except (ValueError, OverflowError):
        return None
