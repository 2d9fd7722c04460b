"""`/table_syncs`: tables that a store follows, declared or adopted from a vectorizer of pgai's."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from api.schemas.chunking_strategies import Chunking, ChunkingStrategy
from api.schemas.requests import Request
from api.schemas.texts import Content, Name, Text


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
