"""Where the rows go, and how far they are: the same steps whether a store is reached by SQL or through the API."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.errors import ApiError
from api.migrate.checks import Checked
from api.migrate.records import Record, Reject, StoreSettings
from api.tables.migration_checkpoints import Checkpoint
from api.vectors import Vector, Vectors


class Interrupted(ApiError):
    """Something else has moved on what this process was moving."""

    default_code = "migration_interrupted"


@dataclass(frozen=True)
class StoreFacts:
    """What the migration needs to know of the store it fills."""

    id: str
    name: str
    dimension: int | None
    model: str | None


@dataclass(frozen=True)
class Prepared:
    """A batch that needs nothing any more but to be written; `position` is behind it."""

    records: list[Record]
    vectors: Vectors | None  # None: the API embeds the texts
    rejects: list[Reject]
    position: Any
    packed: bytes = b""


@dataclass(frozen=True)
class Outcome:
    """What writing a batch came to; the rows that were refused are among `rejects` with those that never got there."""

    written: int
    skipped: int
    rejects: list[Reject]


@dataclass(frozen=True)
class Kept:
    """A chunk of the store; the vector where it can be had."""

    content: str
    metadata: Any
    vector: Vector | None


class RejectsFile(Protocol):
    """Where rows go that cannot go on."""

    def append(self, rejects: Sequence[Reject]) -> int:
        """Write them so that they stay, and answer with the length of the file."""
        ...


class Target(Protocol):
    @property
    def shown(self) -> str: ...

    async def find_store(self, id: str) -> StoreFacts: ...

    async def begin(
        self, id: str, *, source: str, store_id: str | None, settings: StoreSettings, dimension: int | None
    ) -> tuple[StoreFacts, Checkpoint]:
        """Go on with a migration where it was, or begin it, with a new store unless one is named."""
        ...

    async def find(self, id: str) -> Checkpoint | None: ...

    def prepare(self, store: StoreFacts, checked: Checked, position: Any) -> Prepared: ...

    async def write(
        self, store: StoreFacts, batch: Prepared, checkpoint: Checkpoint, rejects: RejectsFile
    ) -> tuple[Outcome, Checkpoint]:
        """Write a batch and the checkpoint behind it: both or neither, or so that a second time changes nothing."""
        ...

    async def finish(self, checkpoint: Checkpoint) -> None: ...

    async def count(self, store: StoreFacts) -> int | None: ...

    async def sample(self, store: StoreFacts, *, of: int, limit: int) -> list[str]: ...

    async def get(self, store: StoreFacts, ids: Sequence[str]) -> dict[str, Kept]: ...

    async def look_up(self, store: StoreFacts, ids: Sequence[str]) -> tuple[int, set[str]]:
        """How many of some ids were looked for, and those of them that the store lacks."""
        ...

    async def trial(self, store: StoreFacts, batch: Prepared) -> int | None:
        """Write a batch where it leaves nothing; the bytes it takes with its indexes. None: that cannot be done."""
        ...

    async def close(self) -> None: ...

    def storable(self, vectors: Vectors) -> Vectors:
        """What the store keeps of vectors."""
        ...

    def found_as(self, record: Record) -> str:
        """The id under which a search shows a record."""
        ...

    async def search(self, store: StoreFacts, vector: Vector, *, limit: int) -> list[tuple[str, float]]:
        """What a search by a vector shows: ids, with their cosine similarities."""
        ...
