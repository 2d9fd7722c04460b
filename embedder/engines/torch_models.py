"""Models in torch through sentence-transformers: the original that the exports are made of, and two engines of it.

torch and sentence-transformers are imported when a model is loaded, never before: they take seconds.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embedder.engines import (
    OVERHEAD_TOKENS,
    Activation,
    Device,
    Kind,
    ModelFacts,
    ModelSpec,
    Rows,
    Text,
    Tokens,
    as_asked,
    sources,
)
from embedder.engines.cores import usable_cores
from embedder.engines.exports import Recipe
from embedder.engines.rows import Computed, as_rows
from embedder.engines.token_engine import facts_of, shorter
from embedder.engines.tokenizing import Arrays
from embedder.errors import ModelUnavailable

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder

    Model = SentenceTransformer | SparseEncoder | CrossEncoder

HUB_TIMEOUT_SECONDS = 10
OUTPUTS: dict[Kind, str] = {"dense": "sentence_embedding", "sparse": "sentence_embedding", "rerank": "scores"}
ACTIVATIONS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Identity": "identity"}
UNLIMITED = 10**9  # a window beyond it is a tokenizer's way to say that there is none
TRIED_WINDOW = 16  # tokens; room for any model's special ones


class Original:
    """A model as sentence-transformers loads it."""

    def __init__(self, model: "Model", *, kind: Kind) -> None:
        self.model = model.eval()
        self.kind: Kind = kind
        self.prompts = {name: prompt for name, prompt in model.prompts.items() if prompt}
        self.default_prompt = model.prompts.get(model.default_prompt_name or "") or ""

    @property
    def window(self) -> int | None:
        """The most tokens that sentence-transformers leaves of a text."""
        if (tokenizer := self._bare_tokenizer) is not None:
            return tokenizer.truncation["max_length"] if tokenizer.truncation else None
        window = getattr(self.model, "max_seq_length", None)
        return int(window) if window is not None and window < UNLIMITED else None

    @window.setter
    def window(self, window: int | None) -> None:
        if (tokenizer := self._bare_tokenizer) is None:
            model = cast("SentenceTransformer", self.model)
            model.max_seq_length = model.tokenizer.model_max_length = UNLIMITED if window is None else window
        elif window is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(window)

    @property
    def _bare_tokenizer(self) -> Any:
        """The tokenizer of static embeddings, which alone knows their window; None for other models."""
        from tokenizers import Tokenizer

        return self.model.tokenizer if isinstance(self.model.tokenizer, Tokenizer) else None

    @property
    def activation(self) -> Activation | None:
        if self.kind != "rerank":
            return None
        return ACTIVATIONS.get(type(cast("Any", self.model).activation_fn).__name__)

    @property
    def truncate_dim(self) -> int | None:
        return getattr(self.model, "truncate_dim", None)

    def features(self, texts: Sequence[Text], *, prompt: str = "") -> dict[str, Any]:
        return self.model.preprocess(list(texts), prompt=prompt or None)  # pyright: ignore[reportUnknownMemberType, reportArgumentType]  # its types name an optional package

    def compute(self, features: dict[str, Any]) -> Computed:
        import torch

        with torch.inference_mode():
            on_device = {
                name: value.to(self.model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            computed: torch.Tensor = self.model(on_device)[OUTPUTS[self.kind]]
            if computed.layout != torch.strided:
                computed = computed.to_dense()
            return computed[:, : self.truncate_dim].float().cpu().numpy()


class TorchSession:
    """A plain transformer, run by torch on the arrays that the exported graphs take too."""

    shape = staticmethod(as_asked)
    overhead_tokens = OVERHEAD_TOKENS

    def __init__(self, original: Original, *, name: str) -> None:
        self.name = name
        self._original = original

    def compute(self, arrays: Arrays) -> Computed:
        import torch

        return self._original.compute({name: torch.as_tensor(array) for name, array in arrays.items()})

    def close(self) -> None:
        del self._original


class TextEngine:
    """A model of any other make, run on the texts themselves: static or word embeddings, models with a task prompt.

    A text that is to be cut is cut by sentence-transformers, which knows what must stay at its end.
    """

    shape = staticmethod(as_asked)
    overhead_tokens = OVERHEAD_TOKENS

    def __init__(self, original: Original, *, name: str, spec: ModelSpec) -> None:
        self.name = name
        self._original = original
        self._normalize = spec.normalize
        self._activation: Activation | None = spec.activation or original.activation
        self._reading = threading.Lock()  # the window is the tokenizer's own, and it bears one caller at a time
        recipe = describe(original)
        self._can_cut = self._cuts()
        self._window = shorter(recipe.window, spec.max_tokens) if self._can_cut else None
        self.facts: ModelFacts = facts_of(recipe, window=self._window, spec=spec)
        if spec.max_tokens is not None and not self._can_cut:
            raise ModelUnavailable(
                f"The window of the model {spec.source!r} cannot be set; declare it without 'max_tokens'."
            )

    def tokenize(self, texts: Sequence[Text], *, prompt: str = "") -> list[Tokens]:
        rows = token_ids(self._features(texts, prompt=prompt, window=None))
        return [
            Tokens(ids[: self._window], len(ids), text=text, prompt=prompt)
            for text, ids in zip(texts, rows, strict=True)
        ]

    def run(self, batch: Sequence[Tokens]) -> Rows:
        alike: dict[tuple[str, int | None], list[int]] = {}
        for place, tokens in enumerate(batch):
            alike.setdefault((tokens.prompt, self._window_of(tokens)), []).append(place)
        parts: list[Computed] = []
        for (prompt, window), places in alike.items():
            texts = [cast("Text", batch[place].text) for place in places]
            parts.append(self._original.compute(self._features(texts, prompt=prompt, window=window)))
        order = np.argsort([place for places in alike.values() for place in places])
        computed = np.concatenate(parts)[order]
        return as_rows(computed, kind=self._original.kind, normalize=self._normalize, activation=self._activation)

    def _window_of(self, tokens: Tokens) -> int | None:
        """What the text is to be cut to; texts that fit share one window, so that they are computed together."""
        if tokens.total == len(tokens.ids):
            return self._window
        if not self._can_cut:
            raise ValueError("This model's texts cannot be cut.")
        return len(tokens.ids)

    def _features(self, texts: Sequence[Text], *, prompt: str, window: int | None) -> dict[str, Any]:
        with self._reading:
            if self._can_cut:
                self._original.window = window
            return self._original.features(texts, prompt=prompt)

    def _cuts(self) -> bool:
        """Whether the window can be set, found by trying: for some kinds of models nothing comes of it."""
        own = self._original.window
        many = " ".join(["the"] * TRIED_WINDOW * 2)
        text: Text = (many, many) if self._original.kind == "rerank" else many
        with suppress(AttributeError):
            self._original.window = TRIED_WINDOW
            if len(token_ids(self._original.features([text]))[0]) <= TRIED_WINDOW:
                return True
        with suppress(AttributeError):
            self._original.window = own
        return False

    def decode(self, ids: Sequence[int]) -> str:
        tokenizer = self._original.model.tokenizer
        if not hasattr(tokenizer, "decode"):  # it knows whole words only
            words = list(tokenizer.get_vocab())
            return " ".join(words[id] for id in ids)
        with self._reading:
            return tokenizer.decode(list(ids), skip_special_tokens=True)

    def close(self) -> None:
        del self._original


def open_original(source: str, *, kind: Kind | None, device: Device, threads: int | None) -> Original:
    """Load a model in full precision, whatever was saved, from this machine, or else from the hub; takes seconds.

    Raises:
        ModelUnavailable: a package is missing, or the model is not there or is none.
    """
    try:
        import torch
        import transformers
        from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
    except ModuleNotFoundError as error:
        raise ModelUnavailable(sources.missing_package(error)) from error

    transformers.utils.logging.disable_progress_bar()
    hand_over_logs("huggingface_hub", "transformers")
    torch.set_num_threads(threads or usable_cores())
    where = sources.find(source)
    try:
        if where is None:
            check_hub()
            where = download_description(source)
        kind = kind or sources.kind_of(where)
        classes: dict[Kind, Callable[..., Model]] = {
            "dense": SentenceTransformer,
            "sparse": SparseEncoder,
            "rerank": CrossEncoder,
        }
        place = str(where) if is_on_disk(source) else source
        open_model = partial(
            classes[kind], place, device=None if device == "auto" else device, model_kwargs={"dtype": "float32"}
        )
        try:
            model = open_model(local_files_only=True)  # no look at the network for what is on disk
        except OSError:
            if is_on_disk(source):
                raise
            check_hub()
            model = open_model()
        return Original(model, kind=kind)
    except Exception as error:  # a model's files can be wrong in any way; all of them mean the same here
        raise sources.unloadable(source, error) from error


def is_on_disk(source: str) -> bool:
    return source.lower() in sources.BUNDLED_NAMES or Path(source).is_dir()


def download_description(name: str) -> Path:
    """The small files that say what a model on the hub is."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]  # names an optional package
    from huggingface_hub.errors import RepositoryNotFoundError

    wanted = ["config.json", "modules.json", "config_sentence_transformers.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except RepositoryNotFoundError:
        return Path(snapshot_download(f"sentence-transformers/{name}", allow_patterns=wanted))


def check_hub() -> None:
    """Raise unless the hub of models can be reached; its own client would try for a minute, in 18 log lines."""
    from huggingface_hub import constants, get_session

    get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)


def hand_over_logs(*libraries: str) -> None:
    """Let the root logger write what these libraries say, instead of the handlers they bring."""
    for library in libraries:
        logging.getLogger(library).handlers.clear()
        logging.getLogger(library).propagate = True


def token_ids(features: dict[str, Any]) -> list[list[int]]:
    """Each text's ids as the model reads them: special ones count, padding and what was cut off do not."""
    ids = features["input_ids"]
    if "attention_mask" in features:
        rows = zip(ids, features["attention_mask"], strict=True)
        return [row[mask.bool()].tolist() for row, mask in rows]
    if "offsets" in features:  # static embeddings: all tokens in one row, and where each text begins
        starts = features["offsets"].tolist()
        return [ids[start:end].tolist() for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    rows = zip(ids, features["sentence_lengths"], strict=True)  # word embeddings
    return [row[:length].tolist() for row, length in rows]


def describe(original: Original) -> Recipe:
    """What the model says of itself; the names of its inputs are for the exporter to find."""
    tokenizer = original.model.tokenizer
    example: list[Text] = [("one", "two")] if original.kind == "rerank" else ["one"]
    computed = original.compute(original.features(example))
    if original.kind == "rerank" and computed.reshape(1, -1).shape[1] != 1:
        raise ModelUnavailable(
            f"This cross-encoder gives {computed.shape[1]} scores for a pair; a model for rerank gives one."
        )
    return Recipe(
        kind=original.kind,
        dimensions=None if original.kind == "rerank" else computed.shape[1],
        window=original.window,
        vocabulary_size=vocabulary_size(tokenizer),
        inputs=[],
        pad_id=getattr(tokenizer, "pad_token_id", None) or 0,
        pad_type_id=getattr(tokenizer, "pad_token_type_id", None) or 0,
        padding_side=getattr(tokenizer, "padding_side", None) or "right",
        prompts=original.prompts,
        default_prompt=original.default_prompt,
        activation=original.activation,
    )


def vocabulary_size(tokenizer: Any) -> int:
    if hasattr(tokenizer, "get_vocab_size"):
        return tokenizer.get_vocab_size()
    return len(tokenizer.get_vocab()) if hasattr(tokenizer, "get_vocab") else 0
