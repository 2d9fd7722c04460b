"""`/vector_stores/{id}/file_batches`: files that are put into a store together."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from api.schemas.chunking_strategies import ChunkingStrategy
from api.schemas.metadata import Attributes
from api.schemas.requests import Request
from api.schemas.texts import Text
from api.schemas.vector_store_files import CreateVectorStoreFileRequest, FileCounts, FileStatus

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


class FileBatch(TypedDict):
    id: str
    object: Literal["vector_store.files_batch"]
    created_at: int
    vector_store_id: str
    status: FileStatus
    file_counts: FileCounts
