"""Every setting of the embedder, read from the environment (`EMBEDDER_…`) and `.env`."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", env_file=".env", env_ignore_empty=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address the embedder listens on.")
    port: int = Field(default=8001, ge=0, le=65535, description="Port the embedder listens on.")
    api_key: SecretStr | None = Field(
        default=None, description="Key that callers must send as a bearer token. Unset: none is asked for."
    )

    model: str = Field(
        default="all-minilm-l6-v2",
        description="The bundled all-minilm-l6-v2, or a sentence-transformers model by name or directory.",
    )
    served_name: str | None = Field(
        default=None, description="What callers call the model. Unset: its name, or its directory's."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of the model. Unset: one for each core it may use.",
    )

    max_texts: int = Field(default=2048, ge=1, description="Most texts in one request; OpenAI's limit.")
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="Largest request body.")
    max_batch_texts: int = Field(default=32, ge=1, le=4096, description="Most texts the model is given at once.")
    max_batch_characters: int = Field(
        default=4096,  # about 1,000 tokens: cores are busy, and a short text behind a batch does not wait long
        ge=1,
        description="Most characters the model is given at once, but for a single text.",
    )
    max_queued_texts: int = Field(
        default=16_384, ge=1, description="Texts that may wait for the model; beyond it the answer is a 429."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or text.")
