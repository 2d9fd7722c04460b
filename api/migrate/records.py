"""What a source gives, whatever it is: rows of one shape, in batches that know where they end."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from api.errors import ConfigurationError
from api.vectors import Vector

# A batch is bounded by its bytes, so that memory does not grow with the dimension.
BATCH_ROWS = 5000
BATCH_BYTES = 8 * 1024 * 1024
NAMES_SHOWN = 10


class Record(NamedTuple):
    """A row of the source, as far as it could be read; nothing of it has been checked."""

    id: str | None
    content: str | None
    vector: Vector | None
    metadata: Any = None  # a map, if all is well
    created_at: datetime | None = None
    file_id: str | None = None
    filename: str | None = None
    chunk_index: int | None = None
    chunking_strategy: Any = None
    flaw: str | None = None  # why the row cannot go, when reading it has shown that already


class Batch(NamedTuple):
    records: list[Record]
    position: Any  # JSON; reading on from here gives what follows the last record


class Reject(NamedTuple):
    record: Record
    reason: str


@dataclass(frozen=True)
class StoreSettings:
    """What the source says of the store that its rows were in."""

    id: str | None = None
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    expires_after_days: int | None = None
    embedding_model: str | None = None


def none_found(who_has: str, what: str, wanted: str | None, names: list[str]) -> ConfigurationError:
    """What to raise where nothing, or nothing that was `wanted`, is found in a place that has some `names`."""
    if not names:
        return ConfigurationError(f"{who_has} no {what}.")
    others = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ConfigurationError(
        f"{who_has} no {what} {wanted!r}, but {', '.join(map(repr, names[:NAMES_SHOWN]))}{others}."
    )


class Source(Protocol):
    """One table, file or collection that goes into one store."""

    @property
    def shown(self) -> str:
        """What it is, for people; without passwords."""
        ...

    @property
    def identity(self) -> str:
        """What it is, for the checkpoint: the same at every run, another for other rows."""
        ...

    @property
    def reading(self) -> dict[str, str]:
        """Which column or field is taken for what."""
        ...

    @property
    def has_vectors(self) -> bool: ...

    @property
    def store(self) -> StoreSettings: ...

    async def count(self) -> int | None:
        """How many rows there are, None when only reading them all would tell."""
        ...

    def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        """The rows behind a position, always in the same order."""
        ...


@dataclass
class Tally:
    """What became of the rows."""

    written: int = 0
    skipped: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def read(self) -> int:
        return self.written + self.skipped + self.rejected


def rows_of(row_bytes: int) -> int:
    """How many rows of a size make a batch."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
