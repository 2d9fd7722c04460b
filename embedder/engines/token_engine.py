"""The engine of every plain transformer: a tokenizer, a session that computes, and the rows made of it."""

from collections.abc import Sequence
from typing import Protocol

from embedder.engines import Activation, ModelFacts, ModelSpec, Rows, Shape, Text, Tokens
from embedder.engines.exports import Recipe
from embedder.engines.rows import Computed, as_rows
from embedder.engines.tokenizing import Arrays, TextTokenizer, padded


class Session(Protocol):
    """A computation graph in some library, ready to run. `compute` is called from one thread at a time."""

    name: str
    overhead_tokens: int

    def shape(self, texts: int, longest: int) -> Shape: ...

    def compute(self, arrays: Arrays) -> Computed:
        """One float32 row for each text. The answer may be overwritten by the next call."""
        ...

    def close(self) -> None: ...


class TokenEngine:
    def __init__(self, session: Session, *, tokenizer: str, recipe: Recipe, spec: ModelSpec) -> None:
        window = shorter(recipe.window, spec.max_tokens)
        self._session = session
        self._recipe = recipe
        self._tokenizer = TextTokenizer(tokenizer, window=window)
        self._normalize = spec.normalize
        self._activation: Activation | None = spec.activation or recipe.activation
        self.name = session.name
        self.overhead_tokens = session.overhead_tokens
        self.facts = facts_of(recipe, window=window, spec=spec)

    def tokenize(self, texts: Sequence[Text], *, prompt: str = "") -> list[Tokens]:
        return self._tokenizer.tokenize(texts, prompt=prompt)

    def shape(self, texts: int, longest: int) -> Shape:
        return self._session.shape(texts, longest)

    def run(self, batch: Sequence[Tokens]) -> Rows:
        computed = self._session.compute(padded(batch, self._recipe, shape=self.shape))[: len(batch)]
        return as_rows(computed, kind=self._recipe.kind, normalize=self._normalize, activation=self._activation)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def close(self) -> None:
        self._session.close()


def facts_of(recipe: Recipe, *, window: int | None, spec: ModelSpec) -> ModelFacts:
    return ModelFacts(
        kind=recipe.kind,
        dimensions=recipe.dimensions,
        max_tokens=window,
        vocabulary_size=recipe.vocabulary_size,
        prompts=recipe.prompts,
        default_prompt=recipe.default_prompt,
        activation=(spec.activation or recipe.activation) if recipe.kind == "rerank" else None,
    )


def shorter(window: int | None, wanted: int | None) -> int | None:
    lengths = [length for length in (window, wanted) if length is not None]
    return min(lengths, default=None)
