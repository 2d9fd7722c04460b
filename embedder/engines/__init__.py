"""What an engine is: a loaded model that turns texts into vectors, sparse vectors or scores.

Nothing heavy is imported here. `load` imports what the chosen engine needs; a model whose export is in the cache
is served without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["dense", "sparse", "rerank"]
Activation = Literal["sigmoid", "identity"]
EngineChoice = Literal["auto", "torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]  # what an engine computes in
Device = Literal["auto", "cpu", "cuda", "mps"]
Text = str | tuple[str, str]  # a pair is (query, document), for rerank
Shape = tuple[int, int]  # of a batch: texts, and tokens of each

# Beginning a batch costs about as much as computing this many tokens, in most engines: up to it, padding is the cheaper
# way.
OVERHEAD_TOKENS = 32

BUNDLED_MODEL = "all-minilm-l6-v2"
BUNDLED_NAMES = {BUNDLED_MODEL, f"sentence-transformers/{BUNDLED_MODEL}"}  # compared in lower case


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the configuration says of one local model."""

    source: str  # the bundled model's name, a directory, or a name on Hugging Face's hub
    kind: Kind | Literal["auto"] = "auto"  # auto: told from the model's files
    engine: EngineChoice = "auto"  # auto: the fastest here whose vectors are true; never an int8 one
    dtype: DType = "auto"
    device: Device = "auto"
    threads: int | None = None  # None: one for each core this process may use
    max_tokens: int | None = None  # None: the model's own window; never more than it
    normalize: bool = True  # dense only: unit-length vectors
    activation: Activation | None = None  # rerank only; None: as the model's configuration says


class Tokens(NamedTuple):
    """One tokenised text, as `Engine.tokenize` makes it and `Engine.run` reads it."""

    ids: list[int]  # with special tokens, cut to the engine's max_tokens: len(ids) is what the batch costs
    total: int  # tokens before the cut, special ones included; greater than len(ids) when something was cut off
    type_ids: list[int] | None = None  # which of a pair each token belongs to; None: all zeros
    text: Text | None = None  # for engines that read texts themselves
    prompt: str = ""  # what `text` begins with, for models whose pooling leaves the prompt out


@dataclass(frozen=True, slots=True)
class SparseVector:
    """The non-zero weights of a text, by index in the model's vocabulary, ascending."""

    indices: NDArray[np.int32]
    values: NDArray[np.float32]


# One row for each text, in the batch's order: float32 (texts, dimensions), sparse vectors, or scores (texts,).
Rows = NDArray[np.float32] | list[SparseVector]


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a loaded model, whatever engine runs it."""

    kind: Kind
    dimensions: int | None  # of a dense vector, and of a sparse one's vocabulary; None for rerank
    max_tokens: int | None  # None: the model reads texts of any length
    vocabulary_size: int
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])  # the model's own, by name: "query", "document"
    default_prompt: str = ""  # what the model puts before every text unless told otherwise
    activation: Activation | None = None  # rerank: what was applied to the model's logit to make the score


class Engine(Protocol):
    """A loaded model. `tokenize` and `decode` may be called from any thread, `run` from one at a time."""

    @property
    def name(self) -> str:
        """The engine and its precision: `openvino-f32`, `openvino-bf16`, `onnx-int8`, `torch-f32`."""
        ...

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def overhead_tokens(self) -> int:
        """As many tokens as are computed in the time that a batch takes to begin."""
        ...

    def tokenize(self, texts: Sequence[Text], *, prompt: str = "") -> list[Tokens]:
        """Tokenise each text behind the prompt. Rerank models take pairs, the others single texts."""
        ...

    def shape(self, texts: int, longest: int) -> Shape:
        """What is computed for so many texts, the longest of so many tokens: at least that."""
        ...

    def run(self, batch: Sequence[Tokens]) -> Rows:
        """Compute one row for each text. Texts of like length cost least: the batch is padded to its longest.

        Raises:
            FloatingPointError: the model gave NaN or infinity.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids of this model's own tokenizer, special tokens left out."""
        ...

    def close(self) -> None:
        """Give back memory and threads. `run` must not be under way."""
        ...


def load(spec: ModelSpec, *, cache: Path) -> Engine:
    """Load a model, exporting it into the cache first if it is not there; takes seconds, blocks.

    Raises:
        ModelUnavailable: a package is missing, or the model is not there or is none.
    """
    from embedder.engines.loading import load_engine

    return load_engine(spec, cache=cache)


def public_name(source: str) -> str:
    """What callers call the model unless told otherwise: a directory goes by its name."""
    if source.lower() in BUNDLED_NAMES:
        return BUNDLED_MODEL
    return Path(source).resolve().name if Path(source).is_dir() else source


def as_asked(texts: int, longest: int) -> Shape:
    """For engines to which one shape is as good as another."""
    return texts, longest
