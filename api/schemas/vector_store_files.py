"""`/vector_stores/{id}/files`: files in a store, with their statuses, attributes and texts."""

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from api.schemas.chunking_strategies import Chunking, ChunkingStrategy
from api.schemas.metadata import Attributes
from api.schemas.requests import PageQuery, Request
from api.schemas.search import ResultContent
from api.schemas.texts import Text

FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
FILE_STATUSES: tuple[FileStatus, ...] = get_args(FileStatus)


class CreateVectorStoreFileRequest(Request):
    file_id: Text
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class UpdateVectorStoreFileRequest(Request):
    attributes: Attributes | None = Field(description="Replaces the whole map; null empties it.")


class VectorStoreFileQuery(PageQuery):
    filter: FileStatus | None = Field(default=None, description="Only files of this status.")


class FileContentQuery(Request):
    model_config = ConfigDict(strict=False)

    page: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="`next_page` of the page before."
    )


class FileCounts(TypedDict):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class LastError(TypedDict):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


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


class FileContentPage(TypedDict):
    object: Literal["vector_store.file_content.page"]
    data: list[ResultContent]
    has_more: bool
    next_page: str | None
