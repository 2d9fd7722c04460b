"""Every setting of the embedder, read from the environment (`EMBEDDER_…`) and `.env`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def cache_directory() -> Path:
    return Path.home() / ".cache" / "quiver" / "models"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="EMBEDDER_", env_file=".env", env_ignore_empty=True, extra="ignore")

    host: str = Field(default="127.0.0.1", description="Address the embedder listens on.")
    port: int = Field(default=8001, ge=0, le=65535, description="Port the embedder listens on.")
    api_key: SecretStr | None = Field(
        default=None, description="Key that callers must send as a bearer token. Unset: none is asked for."
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="Key for `/admin/models` and `quiver models`; it opens everything else as well. "
        "Unset: models cannot be changed over HTTP.",
    )
    cors_origins: list[str] = Field(
        default=[], description="Origins whose pages may call the embedder, as a JSON list. Empty: none."
    )

    config: Path | None = Field(
        default=None,
        description="YAML file that declares the models, followed as it changes, and written when they are changed "
        "over HTTP. Unset: the one model of `EMBEDDER_MODEL`.",
    )
    model: str = Field(
        default="all-minilm-l6-v2",
        description="The bundled all-minilm-l6-v2, or a sentence-transformers model by name or directory. "
        "Not used when the file of `EMBEDDER_CONFIG` is there.",
    )
    served_name: str | None = Field(
        default=None, description="What callers call the model. Unset: its name, or its directory's."
    )
    engine: Literal["auto", "torch", "onnx", "onnx-int8", "openvino", "openvino-int8"] = Field(
        default="auto", description="What runs the model. `auto`: the fastest here that keeps its vectors true."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of each model that is not given its own. Unset: one for each core it may use.",
    )
    cache_dir: Path = Field(
        default_factory=cache_directory,
        description="Where exported models are kept. Unset: `~/.cache/quiver/models`.",
    )

    max_texts: int = Field(default=2048, ge=1, description="Most texts in one request; OpenAI's limit.")
    max_request_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="Largest request body.")
    max_batch_texts: int = Field(default=256, ge=1, le=4096, description="Most texts a model is given at once.")
    max_batch_tokens: int = Field(
        default=1024,  # cores are busy, and a short text behind a batch does not wait long
        ge=1,
        description="Most tokens a model is given at once, padding included, but for a single text. "
        "A GPU wants 16384 or more.",
    )
    max_queued_tokens: int = Field(
        default=262_144,
        ge=1,
        description="Tokens that may wait for one model; beyond it the answer is a 429. Requests of at most one batch "
        "count among themselves.",
    )

    shutdown_seconds: int = Field(
        default=120,  # a full queue of all-minilm-l6-v2 takes less, on one core
        ge=0,
        description="Seconds that what was admitted is given to finish after SIGTERM or Ctrl-C. Whoever stops the "
        "process must wait longer than that before a SIGKILL.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe message that is logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or text.")
