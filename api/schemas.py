"""What goes over the wire: requests as pydantic models that forbid unknown fields, answers as typed dicts.

Every optional field of a request accepts null, which LiteLLM sends for what its caller left out.
"""

import math
import re
from typing import Annotated, Any, Literal, NotRequired, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from typing_extensions import TypedDict

MAX_FILTER_DEPTH = 20
MAX_FILTER_CONDITIONS = 500
MAX_FILTER_VALUES = 1000  # of one `in`
MAX_METADATA_DEPTH = 100  # orjson writes 254 levels, and an answer adds some of its own
MAX_BATCH = 2048  # embeddings in one request; parsing more would hold up everybody else
MAX_QUERIES = 32  # of one search; each is a search of its own


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the character U+0000, which PostgreSQL cannot store")
    return value


def _storable_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    waiting: list[tuple[JsonValue, int]] = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_METADATA_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
        match node:
            case str(text):
                _without_nul(text)
            case list(items):
                waiting.extend((item, depth + 1) for item in items)
            case dict(entries):
                waiting.extend((part, depth + 1) for part in (*entries, *entries.values()))
            case _:
                pass
    return value


def _finite(value: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    if any(isinstance(number, float) and not math.isfinite(number) for number in value.values()):
        raise ValueError("must hold numbers that are finite")
    return value


Text = Annotated[str, AfterValidator(_without_nul)]


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_without_nul)]


def _with_content(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Content = Annotated[Text, AfterValidator(_with_content)]
MetadataKey = Annotated[str, Field(max_length=64), AfterValidator(_without_nul)]
MetadataValue = Annotated[str, Field(max_length=512), AfterValidator(_without_nul)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
ChunkMetadata = Annotated[dict[str, JsonValue], AfterValidator(_storable_json)]

MAX_DIMENSION = 16_000


def _numbers(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    """Numbers that were read side by side, as `BatchReader` does, are numbers; others are looked at one by one."""
    if isinstance(value, memoryview):
        doubles = cast("memoryview[float]", value)
        return doubles if 0 < len(doubles) <= MAX_DIMENSION else validate(doubles.tolist())
    return validate(value)


# A list of numbers, or base64 of little-endian float32 as OpenAI's embeddings API returns them.
EmbeddingInput = Annotated[
    Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)] | str, WrapValidator(_numbers)
]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExpiresAfter(Request):
    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class AutoChunking(Request):
    type: Literal["auto"]


class StaticChunking(Request):
    max_chunk_size_tokens: int = Field(ge=100, le=4096)
    chunk_overlap_tokens: int = Field(ge=0)

    @model_validator(mode="after")
    def _overlap_at_most_half(self) -> "StaticChunking":
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens must be at most half of max_chunk_size_tokens")
        return self


class StaticChunkingStrategy(Request):
    type: Literal["static"]
    static: StaticChunking


ChunkingStrategy = Annotated[AutoChunking | StaticChunkingStrategy, Field(discriminator="type")]


class PageQuery(Request):
    model_config = ConfigDict(strict=False)  # all of a URL is text

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: Text | None = Field(default=None, description="The last id of the page before.")
    before: Text | None = Field(default=None, description="The first id of the page after.")


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


class CreateEmbeddingRequest(Request):
    id: Name | None = Field(
        default=None, description="Sending the same id again changes nothing, so that a retry is harmless."
    )
    content: Content
    embedding: EmbeddingInput | None = Field(default=None, description="Left out: the server embeds `content`.")
    metadata: ChunkMetadata | None = None


class CreateEmbeddingBatchRequest(Request):
    embeddings: list[CreateEmbeddingRequest] = Field(min_length=1, max_length=MAX_BATCH)


Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Scalar = bool | int | float | Text
FILTER_KEY = re.compile(r"[\w@#$][\w .:/@#$+-]{0,255}")


def _named_like_an_attribute(value: str) -> str:
    """Keys are parameters of the SQL, which they cannot harm; a refused injection beats one that finds nothing."""
    if not FILTER_KEY.fullmatch(value):
        raise ValueError(
            f"{value[:64]!r} is no attribute's name: those have letters, digits, blanks and _.:/@#$+- only"
        )
    return value


FilterKey = Annotated[Text, AfterValidator(_named_like_an_attribute)]


class ComparisonFilter(Request):
    type: Operator
    key: FilterKey
    value: Scalar | Annotated[list[Scalar], Field(max_length=MAX_FILTER_VALUES)]

    @model_validator(mode="after")
    def _value_fits_operator(self) -> "ComparisonFilter":
        is_list = isinstance(self.value, list)
        if is_list != (self.type in ("in", "nin")):
            raise ValueError(f"{self.type!r} takes {'one value' if is_list else 'a list of values'}")
        if isinstance(self.value, bool) and self.type not in ("eq", "ne"):
            raise ValueError(f"{self.type!r} does not order booleans")
        return self


class CompoundFilter(Request):
    type: Literal["and", "or"]
    filters: list["OpenAIFilter"] = Field(min_length=1)


OpenAIFilter = Annotated[ComparisonFilter | CompoundFilter, Field(discriminator="type")]


class MetadataEquals(Request):
    """litellm-pgvector's flat form `{"key": value, ...}`: every key's value, as text, equals."""

    type: Literal["flat"]
    values: dict[FilterKey, Scalar] = Field(max_length=MAX_FILTER_CONDITIONS)


Filter = Annotated[ComparisonFilter | CompoundFilter | MetadataEquals, Field(discriminator="type")]

_OPENAI_TYPES = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"})


def _limit_filter(value: object) -> object:
    """Refuse what is too deep or too large before a recursive validator walks it, and name the flat form.

    A dict is OpenAI's form if anything in it says so, so that a misspelt filter is refused and never searched as
    something else.
    """
    if not isinstance(value, dict):
        return value
    filter = cast("dict[str, Any]", value)
    waiting = [(filter, 1)]
    conditions = 0
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_FILTER_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_FILTER_DEPTH} levels")
        conditions += 1
        nested: Any = node.get("filters")
        if isinstance(nested, list):
            parts = [cast("dict[str, Any]", part) for part in cast("list[object]", nested) if isinstance(part, dict)]
            waiting.extend((part, depth + 1) for part in parts)
    if conditions > MAX_FILTER_CONDITIONS:
        raise ValueError(f"has more than {MAX_FILTER_CONDITIONS} conditions")
    kind = filter.get("type")
    is_openai = "key" in filter or "filters" in filter or (isinstance(kind, str) and kind in _OPENAI_TYPES)
    return filter if is_openai else {"type": "flat", "values": filter}


class HybridSearch(Request):
    embedding_weight: float = Field(ge=0, le=1e6)
    text_weight: float = Field(ge=0, le=1e6)
    sparse_weight: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="Quiver's own: of the sparse vectors, 0 by default."
    )

    @model_validator(mode="after")
    def _one_weighs(self) -> "HybridSearch":
        if not self.embedding_weight + self.text_weight + (self.sparse_weight or 0):
            raise ValueError("one of embedding_weight, text_weight and sparse_weight must be more than 0")
        return self


SearchMode = Literal["vector", "keyword", "sparse", "hybrid"]
FUSING_RANKERS = ("rrf", "weighted")
RANKERS = ("none", "auto", "default-2024-11-15", *FUSING_RANKERS)


class RankingOptions(Request):
    ranker: Name | None = Field(
        default=None,
        description="`auto`, `none`, `default-2024-11-15`; `rrf` or `weighted`, which fuse the legs; or the name of "
        "a rerank model of the proxy.",
    )
    search_mode: SearchMode | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Weight of the vectors in `weighted`, 0.7 by default; the words have the rest."
    )
    candidates: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="How many of each leg are fused, and how many are reranked; 50 by default."
    )
    hybrid_search: HybridSearch | None = Field(
        default=None, description="Weights of the legs in `rrf` and `weighted`; asks for `search_mode` `hybrid`."
    )
    ef_search: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Candidates that the index of a large store considers; by default 100, or twice the results.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "RankingOptions":
        if self.alpha is not None and self.ranker != "weighted":
            raise ValueError("alpha is for the ranker 'weighted'; name it")
        if self.hybrid_search is not None and self.alpha is not None:
            raise ValueError("alpha and hybrid_search both weigh the legs; give one of them")
        if self.search_mode in ("vector", "keyword", "sparse"):
            if self.ranker in FUSING_RANKERS:
                raise ValueError(f"the ranker {self.ranker!r} fuses several legs; search_mode must be 'hybrid'")
            if self.hybrid_search is not None:
                raise ValueError("hybrid_search asks for several legs; search_mode must be 'hybrid'")
        return self


Query = Annotated[str, Field(max_length=100_000), AfterValidator(_without_nul), AfterValidator(_with_content)]


class SearchRequest(Request):
    query: Query | Annotated[list[Query], Field(min_length=1, max_length=MAX_QUERIES)] | None = None
    query_embedding: EmbeddingInput | None = Field(
        default=None, description="Instead of `query`, for callers who embed themselves."
    )
    filters: Annotated[Filter, BeforeValidator(_limit_filter)] | None = None
    max_num_results: Annotated[int, Field(ge=1)] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="litellm-pgvector's name of `max_num_results`; more than 100 is 100."
    )
    return_metadata: bool | None = Field(default=None, description="litellm-pgvector's: false leaves attributes out.")

    @model_validator(mode="after")
    def _one_question(self) -> "SearchRequest":
        if (self.query is None) == (self.query_embedding is None):
            raise ValueError("exactly one of query and query_embedding is required")
        if self.limit is not None and self.max_num_results is not None:
            raise ValueError("limit is another name of max_num_results; send one of them")
        return self


UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(UploadPurpose)


class FileExpiresAfter(Request):
    anchor: Literal["created_at"]
    seconds: int = Field(strict=False, ge=3600, le=2_592_000)


class CreateFileRequest(Request):
    """The fields of the form beside its file, `expires_after[anchor]` and `expires_after[seconds]` as one."""

    purpose: UploadPurpose
    expires_after: FileExpiresAfter | None = None


MAX_UPLOAD_BYTES = 8 * 1024**3
Filename = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_without_nul)]


class CreateUploadRequest(Request):
    filename: Filename
    purpose: UploadPurpose
    bytes: int = Field(ge=1, le=MAX_UPLOAD_BYTES)
    mime_type: Text = Field(description="Not kept: what a file is, is told from its name and its bytes.")
    expires_after: FileExpiresAfter | None = None


class AddUploadPartRequest(Request):
    """The fields of the form beside its `data`: none."""


class PresignUploadPartRequest(Request):
    bytes: int = Field(ge=1, le=5 * 1024**3, description="Of the part. S3 takes 5 GiB in one request.")


class CompleteUploadRequest(Request):
    part_ids: Annotated[list[Text], Field(min_length=1, max_length=10_000)]
    md5: Text | None = Field(default=None, description="Of the whole file, in hexadecimal digits.")


class FileQuery(PageQuery):
    limit: int = Field(default=10_000, ge=1, le=10_000)
    purpose: Text | None = None


FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
FILE_STATUSES: tuple[FileStatus, ...] = get_args(FileStatus)

AttributeValue = bool | int | float | MetadataValue
Attributes = Annotated[dict[MetadataKey, AttributeValue], Field(max_length=16), AfterValidator(_finite)]


class CreateVectorStoreFileRequest(Request):
    file_id: Text
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class UpdateVectorStoreFileRequest(Request):
    attributes: Attributes | None = Field(description="Replaces the whole map; null empties it.")


MAX_BATCH_FILES = 2000


class CreateFileBatchRequest(Request):
    """`attributes` and `chunking_strategy` are those of `file_ids`; each of `files` has its own."""

    file_ids: Annotated[list[Text], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    files: Annotated[list[CreateVectorStoreFileRequest], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_list(self) -> "CreateFileBatchRequest":
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("exactly one of file_ids and files is required")
        return self


class VectorStoreFileQuery(PageQuery):
    filter: FileStatus | None = Field(default=None, description="Only files of this status.")


class FileContentQuery(Request):
    model_config = ConfigDict(strict=False)

    page: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="`next_page` of the page before."
    )


class CreateTableSyncRequest(Request):
    vector_store_id: Text | None = Field(default=None, description="Left out: a new store, named after the table.")
    table: Name
    table_schema: Name | None = Field(default=None, description="Left out: the first in the search path that has it.")
    key: Annotated[list[Name], Field(min_length=1, max_length=8)] | None = Field(
        default=None, description="Columns that tell rows apart; left out: the primary key."
    )
    text_columns: Annotated[list[Name], Field(min_length=1, max_length=16)] | None = Field(
        default=None, description="Their texts with a blank line between them are what is searched."
    )
    template: Annotated[Content, Field(max_length=10_000)] | None = Field(
        default=None, description="Instead of `text_columns`: a text with columns in braces, `{title}\\n\\n{body}`."
    )
    attributes: Annotated[list[Name], Field(max_length=16)] | None = Field(
        default=None, description="Columns that results show and filters know."
    )
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _one_text(self) -> "CreateTableSyncRequest":
        if (self.text_columns is None) == (self.template is None):
            raise ValueError("exactly one of text_columns and template is required")
        return self


class AdoptVectorizerRequest(Request):
    vectorizer: Name | None = Field(default=None, description="pgai's name or number of it; left out: the only one.")
    vector_store_id: Text | None = Field(default=None, description="Left out: a new store, named after the table.")
    embedding_model: Name | None = Field(
        default=None, description="What the proxy calls the vectorizer's model; left out: what pgai calls it."
    )
    attributes: Annotated[list[Name], Field(max_length=16)] | None = None
    drop_vectorizer: bool | None = Field(
        default=None, description="Drop pgai's trigger, queue and vectorizer; its table of vectors stays."
    )


class DropTableSyncQuery(Request):
    model_config = ConfigDict(strict=False)

    delete_vector_store: bool = Field(default=False, description="Delete the store as well, with all that is in it.")


class FileCounts(TypedDict):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


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


class VectorStorePage(TypedDict):
    object: Literal["list"]
    data: list[VectorStore]
    first_id: str | None
    last_id: str | None
    has_more: bool


class EmbeddingPage(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: NotRequired[int]
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]


class Upload(TypedDict):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class UploadPart(TypedDict):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


class PresignedPart(TypedDict):
    id: str
    object: Literal["upload.presigned_part"]
    created_at: int
    expires_at: int
    upload_id: str
    bytes: int
    method: Literal["PUT"]
    url: str


class LastError(TypedDict):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StaticChunkSizes(TypedDict):
    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class Chunking(TypedDict):
    type: Literal["static"]
    static: StaticChunkSizes


class VectorStoreFile(TypedDict):
    id: str
    object: Literal["vector_store.file"]
    usage_bytes: int
    created_at: int
    vector_store_id: str
    status: FileStatus
    last_error: LastError | None
    chunking_strategy: Chunking
    attributes: dict[str, str | int | float | bool] | None


class VectorStoreFilePage(TypedDict):
    object: Literal["list"]
    data: list[VectorStoreFile]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VectorStoreFileDeleted(TypedDict):
    id: str
    object: Literal["vector_store.file.deleted"]
    deleted: Literal[True]


class FileBatch(TypedDict):
    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: FileStatus
    file_counts: FileCounts


class TableSyncError(TypedDict):
    """A row that could not be embedded so far; it is tried again."""

    key: str
    attempts: int
    message: str


class RowCounts(TypedDict):
    waiting: int
    failed: int


class TableSync(TypedDict):
    id: str
    object: Literal["table_sync"]
    created_at: int
    vector_store_id: str
    table: str
    table_schema: str
    key: list[str]
    template: str
    attributes: list[str]
    chunking_strategy: Chunking
    status: Literal["in_progress", "completed"]
    is_scanned: bool
    row_counts: RowCounts
    errors: list[TableSyncError]
    last_error: str | None


class TableSyncPage(TypedDict):
    object: Literal["list"]
    data: list[TableSync]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TableSyncDeleted(TypedDict):
    id: str
    object: Literal["table_sync.deleted"]
    deleted: Literal[True]


class FilePage(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class VectorStoreDeleted(TypedDict):
    id: str
    object: Literal["vector_store.deleted"]
    deleted: Literal[True]


class EmbeddingDeleted(TypedDict):
    id: str
    object: Literal["embedding.deleted"]
    deleted: Literal[True]


class ResultContent(TypedDict):
    type: Literal["text"]
    text: str


class FileContentPage(TypedDict):
    object: Literal["vector_store.file_content.page"]
    data: list[ResultContent]
    has_more: bool
    next_page: str | None


class SearchResult(TypedDict):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | int | float | bool] | None
    content: list[ResultContent]


class SearchResultsPage(TypedDict):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchResult]
    has_more: bool
    next_page: str | None


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
