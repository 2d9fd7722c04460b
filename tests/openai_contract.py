"""What OpenAI's description of its API and its client say about every answer, and a check that ours agree.

Each path has the shape of its answer: fields that must be there, their types and values, and which may be null. Further
fields are allowed, as the client allows them. It is written apart from `api.schemas`, which it holds to account.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

import httpx
import pytest
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Id = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
Timestamp = Annotated[int, Field(ge=0)]  # in seconds
Key = Annotated[str, Field(max_length=64)]
Text = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Key, Text], Field(max_length=16)]
Attributes = Annotated[dict[Key, Text | float | bool], Field(max_length=16)]
Purpose = Literal[
    "assistants",
    "assistants_output",
    "batch",
    "batch_output",
    "evals",
    "fine-tune",
    "fine-tune-results",
    "user_data",
    "vision",
]
ProcessingStatus = Literal["in_progress", "completed", "cancelled", "failed"]


class Error(TypedDict):
    message: Annotated[str, Field(min_length=1)]
    type: Id
    param: str | None
    code: str | None


class ErrorEnvelope(TypedDict):
    error: Error


class FileCounts(TypedDict):
    in_progress: Count
    completed: Count
    failed: Count
    cancelled: Count
    total: Count


class ExpiresAfter(TypedDict):
    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class VectorStore(TypedDict):
    id: Id
    object: Literal["vector_store"]
    created_at: Timestamp
    name: str
    usage_bytes: Count
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    last_active_at: Timestamp | None
    metadata: Metadata | None
    expires_after: NotRequired[ExpiresAfter | None]
    expires_at: NotRequired[Timestamp | None]


class LastError(TypedDict):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: Annotated[str, Field(min_length=1)]


class ChunkSizes(TypedDict):
    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096)]
    chunk_overlap_tokens: Count


class StaticChunking(TypedDict):
    type: Literal["static"]
    static: ChunkSizes


class OtherChunking(TypedDict):
    type: Literal["other"]


class VectorStoreFile(TypedDict):
    id: Id
    object: Literal["vector_store.file"]
    usage_bytes: Count
    created_at: Timestamp
    vector_store_id: Id
    status: ProcessingStatus
    last_error: LastError | None
    chunking_strategy: NotRequired[StaticChunking | OtherChunking]
    attributes: NotRequired[Attributes | None]


class FileBatch(TypedDict):
    id: Id
    object: Literal["vector_store.files_batch"]
    created_at: Timestamp
    vector_store_id: Id
    status: ProcessingStatus
    file_counts: FileCounts


class Content(TypedDict):
    type: Literal["text"]
    text: str


class SearchResult(TypedDict):
    file_id: Id
    filename: str
    score: Annotated[float, Field(ge=0, le=1)]
    attributes: Attributes | None
    content: list[Content]


class SearchPage(TypedDict):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]  # none of a search by `query_embedding`, which is ours
    data: list[SearchResult]
    has_more: bool
    next_page: str | None


class ContentPage(TypedDict):
    object: Literal["vector_store.file_content.page"]
    data: list[Content]
    has_more: bool
    next_page: str | None


class File(TypedDict):
    id: Id
    object: Literal["file"]
    bytes: Count
    created_at: Timestamp
    filename: str
    purpose: Purpose
    status: Literal["uploaded", "processed", "error"]
    expires_at: NotRequired[Timestamp]
    status_details: NotRequired[str]


class Upload(TypedDict):
    id: Id
    object: Literal["upload"]
    bytes: Count
    created_at: Timestamp
    expires_at: Timestamp
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: NotRequired[File | None]


class UploadPart(TypedDict):
    id: Id
    object: Literal["upload.part"]
    created_at: Timestamp
    upload_id: Id


class PresignedPart(TypedDict):
    """Not OpenAI's."""

    id: Id
    object: Literal["upload.presigned_part"]
    created_at: Timestamp
    expires_at: Timestamp
    upload_id: Id
    bytes: Count
    method: Literal["PUT"]
    url: Id


class VectorStoreDeleted(TypedDict):
    id: Id
    object: Literal["vector_store.deleted"]
    deleted: bool


class VectorStoreFileDeleted(TypedDict):
    id: Id
    object: Literal["vector_store.file.deleted"]
    deleted: bool


class FileDeleted(TypedDict):
    id: Id
    object: Literal["file"]
    deleted: bool


class Page(TypedDict):
    """A list without its data; the ids of an empty one are null."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VectorStorePage(Page):
    data: list[VectorStore]


class VectorStoreFilePage(Page):
    data: list[VectorStoreFile]


class FilePage(Page):
    data: list[File]


class Embedding(TypedDict):
    """Not OpenAI's but litellm-pgvector's, as those below."""

    id: Id
    object: Literal["embedding"]
    vector_store_id: Id
    content: str
    metadata: dict[str, Any] | None
    created_at: Timestamp


class EmbeddingBatch(TypedDict):
    object: Literal["embedding.batch"]
    data: list[Embedding]
    created: Timestamp


class EmbeddingPage(Page):
    data: list[Embedding]


class EmbeddingDeleted(TypedDict):
    id: Id
    object: Literal["embedding.deleted"]
    deleted: bool


class IndexSegment(TypedDict):
    chunk_count: int
    bytes: int
    created_at: int


class IndexBuild(TypedDict):
    chunk_count: int
    phase: str | None
    progress: float | None
    attempts: int
    last_error: str | None


class VectorStoreIndex(TypedDict):
    object: Literal["vector_store.index"]
    vector_store_id: Id
    status: Literal["exact", "building", "failed", "ready"]
    dimension: int | None
    chunk_count: int
    indexed_count: int
    segments: list[IndexSegment]
    build: IndexBuild | None


class TableSyncError(TypedDict):
    """Not OpenAI's but ours, as those below."""

    key: str
    attempts: Count
    message: Annotated[str, Field(min_length=1)]


class RowCounts(TypedDict):
    waiting: Count
    failed: Count


class TableSync(TypedDict):
    id: Id
    object: Literal["table_sync"]
    created_at: Timestamp
    vector_store_id: Id
    table: Id
    table_schema: Id
    key: list[Id]
    template: Id
    attributes: list[Id]
    chunking_strategy: StaticChunking
    status: Literal["in_progress", "completed"]
    is_scanned: bool
    row_counts: RowCounts
    errors: list[TableSyncError]
    last_error: str | None


class TableSyncPage(Page):
    data: list[TableSync]


class TableSyncDeleted(TypedDict):
    id: Id
    object: Literal["table_sync.deleted"]
    deleted: bool


class ApiKey(TypedDict):
    id: Id
    object: Literal["api_key"]
    name: Id
    redacted_value: Id
    role: Literal["admin", "write", "read"]
    tenant: str | None
    vector_store_ids: list[Id] | None
    requests_per_minute: Count | None
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None


class CreatedApiKey(ApiKey):
    value: Annotated[str, Field(min_length=32)]


class ApiKeyPage(Page):
    data: list[ApiKey]


class ApiKeyDeleted(TypedDict):
    id: Id
    object: Literal["api_key.deleted"]
    deleted: bool


STORE = "/vector_stores/{id}"
BATCH = STORE + "/file_batches/{id}"
ANSWERS: Mapping[tuple[str, str], Any] = {
    ("GET", "/vector_stores"): VectorStorePage,
    ("POST", "/vector_stores"): VectorStore,
    ("GET", STORE): VectorStore,
    ("POST", STORE): VectorStore,
    ("DELETE", STORE): VectorStoreDeleted,
    ("GET", STORE + "/index"): VectorStoreIndex,
    ("POST", STORE + "/search"): SearchPage,
    ("GET", STORE + "/files"): VectorStoreFilePage,
    ("POST", STORE + "/files"): VectorStoreFile,
    ("GET", STORE + "/files/{id}"): VectorStoreFile,
    ("POST", STORE + "/files/{id}"): VectorStoreFile,
    ("DELETE", STORE + "/files/{id}"): VectorStoreFileDeleted,
    ("GET", STORE + "/files/{id}/content"): ContentPage,
    ("POST", STORE + "/file_batches"): FileBatch,
    ("GET", BATCH): FileBatch,
    ("POST", BATCH + "/cancel"): FileBatch,
    ("GET", BATCH + "/files"): VectorStoreFilePage,
    ("GET", STORE + "/embeddings"): EmbeddingPage,
    ("POST", STORE + "/embeddings"): Embedding,
    ("POST", STORE + "/embeddings/batch"): EmbeddingBatch,
    ("GET", STORE + "/embeddings/{path}"): Embedding,
    ("DELETE", STORE + "/embeddings/{path}"): EmbeddingDeleted,
    ("GET", "/files"): FilePage,
    ("POST", "/files"): File,
    ("GET", "/files/{id}"): File,
    ("DELETE", "/files/{id}"): FileDeleted,
    ("GET", "/files/{id}/content"): bytes,
    ("POST", "/uploads"): Upload,
    ("POST", "/uploads/{id}/parts"): UploadPart,
    ("POST", "/uploads/{id}/presigned_parts"): PresignedPart,
    ("POST", "/uploads/{id}/complete"): Upload,
    ("POST", "/uploads/{id}/cancel"): Upload,
    ("GET", "/table_syncs"): TableSyncPage,
    ("POST", "/table_syncs"): TableSync,
    ("POST", "/table_syncs/from_pgai"): TableSync,
    ("GET", "/table_syncs/{id}"): TableSync,
    ("DELETE", "/table_syncs/{id}"): TableSyncDeleted,
    ("GET", "/keys"): ApiKeyPage,
    ("POST", "/keys"): CreatedApiKey,
    ("DELETE", "/keys/{id}"): ApiKeyDeleted,
}
NOT_OF_THE_API = frozenset({"/health", "/ready", "/metrics", "/docs", "/redoc", "/openapi.json"})


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(template.replace("{id}", "[^/]+").replace("{path}", ".+"), re.DOTALL)


_SHAPES = [(method, _pattern(path), shape, TypeAdapter(shape)) for (method, path), shape in ANSWERS.items()]
_ENVELOPE = TypeAdapter(ErrorEnvelope)


async def verify(response: httpx.Response) -> None:
    """Fail the test if an answer is not as OpenAI describes it: an event hook of httpx."""
    if _has_shape(response):
        await response.aread()
    _fail_on(problem(response))


def verify_sync(response: httpx.Response) -> None:
    """The same for a client that is not async."""
    if _has_shape(response):
        response.read()
    _fail_on(problem(response))


def problem(response: httpx.Response) -> str | None:
    """What is wrong with an answer; its body has been read, unless it is a file's."""
    method, path = response.request.method, response.request.url.path
    if path in NOT_OF_THE_API:
        return None
    if "x-request-id" not in response.headers:
        return f"{method} {path} was answered without x-request-id, which the client shows its user."
    adapter = _ENVELOPE if response.is_error else _adapter(response)
    if adapter is None:
        return f"{method} {path} was answered with {response.status_code}, which OpenAI does not describe."
    if not _has_shape(response):
        return None
    if not response.headers.get("content-type", "").startswith("application/json"):
        return f"{method} {path} was answered with {response.headers.get('content-type')!r} instead of JSON."
    try:
        adapter.validate_json(response.content, strict=True)
    except ValidationError as error:
        return f"{method} {path} was answered with {response.status_code} and {response.text[:2000]!r}: {error}"
    return None


def _adapter(response: httpx.Response) -> TypeAdapter[Any] | None:
    found = _find(response)
    statuses = (200, 206) if found is not None and found[0] is bytes else (200,)
    return found[1] if found is not None and response.status_code in statuses else None


def _has_shape(response: httpx.Response) -> bool:
    """Whether it has JSON to look at; a file's bytes are left to whoever reads them."""
    found = _find(response)
    return response.is_error or found is None or found[0] is not bytes


def _find(response: httpx.Response) -> tuple[Any, TypeAdapter[Any]] | None:
    path = response.request.url.path
    while path.startswith("/v1/"):
        path = path.removeprefix("/v1")
    matching = (
        (shape, adapter)
        for method, pattern, shape, adapter in _SHAPES
        if method == response.request.method and pattern.fullmatch(path)
    )
    return next(matching, None)


def _fail_on(found: str | None) -> None:
    """Not an `Exception`, so that the client neither retries nor hides it."""
    if found is not None:
        pytest.fail(found, pytrace=False)
