"""`/vector_stores/{id}/index`: how far a store has one, and what is being built."""

from typing import Literal

from typing_extensions import TypedDict


class IndexSegment(TypedDict):
    chunk_count: int
    bytes: int
    created_at: int


class IndexBuild(TypedDict):
    """A segment that is being built, or is to be; `phase` and `progress`, 0 to 1, while PostgreSQL is at it."""

    chunk_count: int
    phase: str | None
    progress: float | None
    attempts: int
    last_error: str | None


class VectorStoreIndex(TypedDict):
    """How a store is searched by vector: through an index as far as there is one, exactly otherwise."""

    object: Literal["vector_store.index"]
    vector_store_id: str
    status: Literal["exact", "building", "failed", "ready"]
    dimension: int | None
    chunk_count: int
    indexed_count: int
    segments: list[IndexSegment]
    build: IndexBuild | None
