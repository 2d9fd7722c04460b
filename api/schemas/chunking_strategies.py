"""How a file is cut into chunks: what a request asks for, and what an answer says was done."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from api.schemas.requests import Request


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


class StaticChunkSizes(TypedDict):
    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class Chunking(TypedDict):
    type: Literal["static"]
    static: StaticChunkSizes
