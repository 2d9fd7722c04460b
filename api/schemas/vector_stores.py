"""`/vector_stores`: the stores themselves; what is in them and done with them has modules of its own."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from api.schemas.chunking_strategies import ChunkingStrategy
from api.schemas.metadata import Metadata
from api.schemas.requests import Request
from api.schemas.texts import Name, Text
from api.schemas.vector_store_files import FileCounts
from api.schemas.vectors import MAX_DIMENSION


class ExpiresAfter(Request):
    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class CreateVectorStoreRequest(Request):
    name: Text | None = None
    description: Text | None = None
    file_ids: Annotated[list[Text], Field(max_length=500)] | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: ChunkingStrategy | None = None
    metadata: Metadata | None = None
    embedding_model: Name | None = None
    embedding_dimension: Annotated[int, Field(ge=1, le=MAX_DIMENSION)] | None = None


class UpdateVectorStoreRequest(Request):
    name: Text | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class ExpirationPolicy(TypedDict):
    anchor: Literal["last_active_at"]
    days: int


class VectorStore(TypedDict):
    id: str
    object: Literal["vector_store"]
    created_at: int
    name: str
    description: str | None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpirationPolicy | None
    expires_at: int | None
    last_active_at: int | None
    metadata: dict[str, str] | None
    embedding_model: str | None
    embedding_dimension: int | None


class VectorStorePage(TypedDict):
    object: Literal["list"]
    data: list[VectorStore]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VectorStoreDeleted(TypedDict):
    id: str
    object: Literal["vector_store.deleted"]
    deleted: Literal[True]
