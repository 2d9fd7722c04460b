"""Every setting of the API, the worker and `quiver up`, read from the environment and `.env`.

The names are litellm-pgvector's, so that its users change nothing but the address.
"""

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9!_.*'()/-]*)?")  # a bucket, and a prefix of safe characters


def default_data_dir() -> Path:
    """Where `quiver up` keeps its database and keys: per user, and for root the system's place for such data."""
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/quiver")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "quiver"


class EmbeddingSettings(BaseModel):
    model: str = Field(default="all-minilm-l6-v2", description="Model of stores that name none, as the proxy calls it.")
    base_url: str | None = Field(
        default=None,
        description="LiteLLM proxy, or any OpenAI-compatible server, with or without `/v1`. "
        "Unset: `quiver up` starts a proxy; the parts alone look at http://localhost:4000.",
    )
    api_key: SecretStr | None = Field(default=None, description="Key sent to the proxy.")
    dimensions: int | None = Field(
        default=None,
        ge=1,
        le=16_000,
        description="Dimension of stores of that model that name none. Unset: that of the first vector.",
    )
    batch_size: int = Field(default=128, ge=1, le=2048, description="Texts in one call to the proxy.")
    timeout_seconds: float = Field(default=60, gt=0, description="Longest wait for one call to the proxy.")
    max_attempts: int = Field(default=3, ge=1, le=10, description="Tries of one call before it is given up.")


class RerankSettings(BaseModel):
    required: bool = Field(
        default=False,
        description="A search whose reranker is away fails with a 502. Unset: it is answered in the order that it has "
        "without, and says so in the header `x-quiver-rerank`.",
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for one call to a reranker.")
    max_attempts: int = Field(default=2, ge=1, le=10, description="Tries of one call before it is given up.")


class SparseSettings(BaseModel):
    model: str | None = Field(
        default=None,
        description="Model of the third leg of [hybrid search](search.md#sparse-vectors), as the embedder calls it. "
        "Unset: there is none.",
    )
    base_url: str | None = Field(
        default=None,
        description="The embedder, or another server with its `/sparse_embeddings`, with or without `/v1`. "
        "Unset: `EMBEDDER_BASE_URL`, or http://localhost:8001.",
    )
    api_key: SecretStr | None = Field(default=None, description="Key sent to it.")
    required: bool = Field(
        default=False,
        description="A hybrid search fails with a 502 while the sparse model is away. Unset: it is answered by the "
        "other two legs, and says so in the header `x-quiver-sparse`.",
    )
    batch_size: int = Field(default=32, ge=1, le=2048, description="Chunks in one call of the worker's.")
    timeout_seconds: float = Field(
        default=10, gt=0, description="Longest wait for the vectors of a search's questions."
    )
    max_attempts: int = Field(default=2, ge=1, le=10, description="Tries of one call before it is given up.")
    max_exact_chunks: int = Field(
        default=10_000,
        ge=0,
        description="Chunks up to which all sparse vectors of a store are compared. In a larger store they order what "
        "the other legs find.",
    )


class RewriteSettings(BaseModel):
    model: str | None = Field(
        default=None,
        description="Chat model that rewrites questions, as the proxy calls it. Unset: `rewrite_query` is refused.",
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for one rewriting.")
    max_attempts: int = Field(default=2, ge=1, le=10, description="Tries of one call before it is given up.")


class VectorIndexSettings(BaseModel):
    min_chunks: int = Field(
        default=10_000,
        ge=1,
        description="Chunks from which on a store gets an index, at 384 dimensions or fewer; with longer vectors "
        "sooner: half as many at 1536.",
    )
    memory_mb: int | None = Field(
        default=None,
        ge=1,
        le=2_000_000,
        description="Memory of one build, PostgreSQL's `maintenance_work_mem`; 100,000 chunks of 384 dimensions need "
        "about 130. Unset: what the server is configured to.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Further processes of one build, PostgreSQL's `max_parallel_maintenance_workers`. They share "
        "their memory through the server's `/dev/shm`, which must be as large.",
    )
    retry_seconds: float = Field(
        default=60, ge=0, description="Wait after a build that failed; doubled each time, up to an hour."
    )


class DbFields(BaseModel):
    """Where the chunks are: a table and its six columns. Unset names are the schema's own."""

    table: str | None = Field(default=None, description="Table of the chunks.")
    schema_name: str | None = Field(
        default=None,
        validation_alias=AliasChoices("schema", "schema_name"),
        description="Its schema. Unset: the first in the search path that has the table.",
    )
    id_field: str | None = Field(default=None, description="Column of the chunk's id.")
    content_field: str | None = Field(default=None, description="Column of its text.")
    metadata_field: str | None = Field(default=None, description="Column of its metadata, JSON.")
    embedding_field: str | None = Field(default=None, description="Column of its vector.")
    vector_store_id_field: str | None = Field(default=None, description="Column of its store's id.")
    created_at_field: str | None = Field(default=None, description="Column of the time it was put in.")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_file=".env",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL with pgvector; Prisma's `?schema=` is understood. Unset: `quiver up` starts its own.",
    )
    database_direct_url: SecretStr | None = Field(
        default=None,
        description="The same database without a pooler in between, for `quiver db migrate` and the worker, which "
        "listens, holds locks and builds indexes. Unset: `DATABASE_URL`.",
    )
    database_replica_url: SecretStr | None = Field(
        default=None,
        description="A streaming replica of it, which searches are sent to. What that does not know yet, and all "
        "while it is away, is asked of `DATABASE_URL`.",
    )
    database_pool_size: int = Field(default=10, ge=1, le=1000, description="Most connections of one process.")
    database_timeout_seconds: float = Field(
        default=5, gt=0, description="Longest wait for a connection; then the answer is a 503."
    )
    database_answer_seconds: float = Field(
        default=60, gt=0, description="Longest wait for the statements of one request; then the answer is a 503."
    )

    server_api_key: SecretStr | None = Field(
        default=None,
        description="Key that callers must send. Unset: `quiver up` generates one; `quiver api` refuses to start.",
    )
    openai_api_key: SecretStr | None = Field(
        default=None, description="litellm-pgvector's name of `SERVER_API_KEY`, for when that is unset."
    )
    quiver_secret_arn: str | None = Field(
        default=None,
        description="On AWS Lambda, a secret of Secrets Manager: a JSON object of settings by these names. The "
        "environment wins ([more](aws.md)).",
    )
    wake_queue_url: str | None = Field(
        default=None,
        pattern="^https?://[^/]+/.",
        description="On AWS Lambda, the URL of a queue of SQS that gets a message when there are files or tables to "
        "take in, so that the worker need not wait for its schedule ([more](aws.md)).",
    )
    quiver_development: bool = Field(
        default=False, description="Allow no key or a placeholder key. Never on a network others can reach."
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port the API listens on.")
    metrics_public: bool = Field(
        default=False, description="Answer `/metrics` without a key, where only Prometheus can reach it."
    )
    api_processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes of the API on that port. One uses one core; each has connections, a memory of query "
        "vectors and limits of its own.",
    )
    max_request_bytes: int = Field(
        default=64 * 1024 * 1024, ge=1024, description="Largest request body, but for uploaded files."
    )
    max_file_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1, description="Largest file of `/v1/files`; OpenAI's limit is the default."
    )
    max_answer_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Largest part of a file in one answer; for a larger one, callers are sent on to S3, or told to ask "
        "for ranges if the files are in a directory. Unset: any; on AWS Lambda 4000000.",
    )
    max_search_results: int = Field(default=50, ge=1, le=1000, description="Cap of `max_num_results`; OpenAI's is 50.")

    max_batch_texts: int = Field(
        default=2048, ge=1, le=2048, description="Most texts in one request of `/embeddings/batch`; beyond it a 413."
    )
    max_files_per_store: int | None = Field(
        default=None, ge=1, description="Most files in one vector store; beyond it a 429. Unset: no limit."
    )
    max_stores_per_tenant: int | None = Field(
        default=None, ge=1, description="Most vector stores of one tenant; beyond it a 429. Unset: no limit."
    )
    max_requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most requests of a key that has no limit of its own, of all processes together; beyond it a 429. "
        "Unset: no limit.",
    )
    max_concurrent_searches: int = Field(
        default=256, ge=1, description="Most searches that one process has under way; beyond it a 429 at once."
    )

    keyword_language: str = Field(
        default="simple",
        pattern="^[a-z_]+$",
        description="Language of the texts in stores whose metadata names none as `language`: a text search "
        "configuration of PostgreSQL, such as `english`. `simple` takes words as they are.",
    )
    query_cache_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=0,
        description="Memory of one process for the vectors of recent queries; 0 is none.",
    )

    worker_concurrency: int = Field(default=4, ge=1, le=1000, description="Jobs that one worker does at once.")
    worker_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port on `HOST` for `/health`, `/ready` and `/metrics` of a worker, without a key. Unset: none.",
    )
    ingestion_retry_seconds: float = Field(
        default=24 * 3600,
        ge=0,
        description="How long a file is tried again while the embedding service, the database or the storage is away; "
        "then it is `failed`.",
    )

    embedding: EmbeddingSettings = EmbeddingSettings()
    rerank: RerankSettings = RerankSettings()
    sparse: SparseSettings = SparseSettings()
    rewrite: RewriteSettings = RewriteSettings()
    vector_index: VectorIndexSettings = VectorIndexSettings()
    db_fields: DbFields = DbFields()

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or text.")

    quiver_data_dir: Path = Field(
        default_factory=default_data_dir, description="Database and keys of `quiver up`, and uploaded files."
    )
    files_dir: str | Path | None = Field(
        default=None,
        description="Where the bytes of uploaded files are, the same for every process: a directory, or "
        "`s3://BUCKET/PREFIX` ([more](file-storage.md)). Unset: `files` in `QUIVER_DATA_DIR`.",
    )
    embedder_base_url: str | None = Field(
        default=None, description="An embedder to use instead of starting the bundled one."
    )
    embedder_port: int = Field(default=8001, ge=0, le=65535, description="Port of the bundled embedder.")
    litellm_port: int = Field(default=4000, ge=0, le=65535, description="Port of the LiteLLM proxy.")
    litellm_config: Path = Field(default=Path("litellm_config.yaml"), description="Configuration of the proxy.")
    litellm_master_key: SecretStr | None = Field(
        default=None, description="Key of the LiteLLM proxy. Unset: `quiver up` generates one."
    )

    @field_validator("files_dir")
    @classmethod
    def _is_a_directory_or_a_bucket(cls, place: str | Path | None) -> str | Path | None:
        if place is not None and "://" in str(place) and not S3_URL.fullmatch(str(place)):
            raise ValueError(f"FILES_DIR must be a directory or s3://BUCKET/PREFIX, not {str(place)!r}")
        return place

    @model_validator(mode="after")
    def _second_name_of_the_key(self) -> "Settings":
        if self.server_api_key is None:
            self.server_api_key = self.openai_api_key
        return self

    def past_the_pooler(self) -> "Settings":
        """The same, with `DATABASE_DIRECT_URL` for the address of the database."""
        return self.model_copy(update={"database_url": self.database_direct_url or self.database_url})
