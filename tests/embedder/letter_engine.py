import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import cast

import numpy as np
from numpy.typing import NDArray

from embedder.batching import Computed, Vector
from embedder.engines import (
    OVERHEAD_TOKENS,
    Engine,
    Kind,
    ModelFacts,
    ModelSpec,
    Rows,
    SparseVector,
    Text,
    Tokens,
    as_asked,
)

WINDOW = 1000
MOST_TEXTS = 256


class LetterEngine:
    """An engine that counts letters: quick, exact, and held up or made to fail as a test wants it.

    A token is a character. It cannot bear the text "poison". While `held`, a batch that has begun waits. As a sparse
    model it gives the letters that are there; as a reranker, how many of the query's letters a document has.
    """

    name = "letters-f32"

    def __init__(
        self, kind: Kind = "dense", *, window: int | None = WINDOW, prompts: dict[str, str] | None = None
    ) -> None:
        letters = len(ascii_lowercase)
        self.facts = ModelFacts(
            kind=kind,
            dimensions=None if kind == "rerank" else letters,
            max_tokens=window,
            vocabulary_size=letters,
            prompts=prompts or {},
        )
        self.batches: list[list[str]] = []
        self.begun = threading.Event()
        self.is_closed = False
        self._answer = np.empty((MOST_TEXTS, letters), np.float32)  # written over by each batch, as some engines do
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self.begun.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def tokenize(self, texts: Sequence[Text], *, prompt: str = "") -> list[Tokens]:
        whole = [prompt + (text if isinstance(text, str) else "|".join(text)) for text in texts]
        return [Tokens([ord(character) for character in text[: self.facts.max_tokens]], len(text)) for text in whole]

    shape = staticmethod(as_asked)
    overhead_tokens = OVERHEAD_TOKENS

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def run(self, batch: Sequence[Tokens]) -> Rows:
        assert not self.is_closed
        texts = [self.decode(tokens.ids) for tokens in batch]
        self.batches.append(texts)
        self.begun.set()
        self._free.wait()
        if "poison" in texts:
            raise ValueError("poison")
        if self.facts.kind == "sparse":
            return [sparse(counts(text)) for text in texts]
        if self.facts.kind == "rerank":
            return np.array([overlap(*text.split("|", 1)) for text in texts], dtype=np.float32)
        self._answer[: len(texts)] = [counts(text) for text in texts]
        return self._answer[: len(texts)]

    def close(self) -> None:
        self.is_closed = True


def counts(text: str) -> list[int]:
    return [text.count(letter) for letter in ascii_lowercase]


def sparse(letters: list[int]) -> SparseVector:
    indices = [index for index, count in enumerate(letters) if count]
    return SparseVector(np.array(indices, np.int32), np.array([letters[index] for index in indices], np.float32))


def written_out(computed: Computed) -> NDArray[np.float32]:
    """The vectors of a dense model as it made them."""
    rows = cast("Sequence[Vector]", computed.rows)
    return np.array([row.unit * row.length for row in rows])


def overlap(query: str, document: str) -> float:
    return len(set(query) & set(document)) / len(set(query))


def loader(engine: Engine) -> Callable[..., Engine]:
    """What the pool loads models with, when all of them are this one."""

    def load(_spec: ModelSpec, *, cache: Path) -> Engine:
        del cache
        return engine

    return load
