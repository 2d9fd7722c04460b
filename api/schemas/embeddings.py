"""`/vector_stores/{id}/embeddings`: chunks that are put in by themselves, litellm-pgvector's API."""

from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from api.schemas.metadata import ChunkMetadata
from api.schemas.requests import Request
from api.schemas.texts import Content, Name
from api.schemas.vectors import EmbeddingInput

MAX_BATCH = 2048  # embeddings in one request; parsing more would hold up everybody else


class CreateEmbeddingRequest(Request):
    id: Name | None = Field(
        default=None, description="Sending the same id again changes nothing, so that a retry is harmless."
    )
    content: Content
    embedding: EmbeddingInput | None = Field(default=None, description="Left out: the server embeds `content`.")
    metadata: ChunkMetadata | None = None


class CreateEmbeddingBatchRequest(Request):
    embeddings: list[CreateEmbeddingRequest] = Field(min_length=1, max_length=MAX_BATCH)


class Embedding(TypedDict):
    """A chunk that was put in by itself, in litellm-pgvector's shape."""

    id: str
    object: Literal["embedding"]
    vector_store_id: str
    content: str
    metadata: dict[str, Any] | None
    created_at: int


class EmbeddingBatch(TypedDict):
    object: Literal["embedding.batch"]
    data: list[Embedding]
    created: int


class EmbeddingPage(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EmbeddingDeleted(TypedDict):
    id: str
    object: Literal["embedding.deleted"]
    deleted: Literal[True]
