"""Texts to token ids with the `tokenizers` library alone, and token ids to the padded arrays a model reads."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedder.engines import Shape, Text, Tokens, as_asked
from embedder.engines.exports import Recipe

if TYPE_CHECKING:
    from tokenizers import Encoding

Arrays = dict[str, NDArray[np.int64]]


class TextTokenizer:
    """A model's tokenizer. Two are kept: one that counts all tokens, one that cuts, for the texts that are too long."""

    def __init__(self, serialized: str, *, window: int | None) -> None:
        from tokenizers import Tokenizer

        self._whole = Tokenizer.from_str(serialized)
        self._whole.no_padding()
        self._whole.no_truncation()
        self._cutting = Tokenizer.from_str(serialized)
        self._cutting.no_padding()
        self._window = window
        if window is not None:
            self._cutting.enable_truncation(window, strategy="longest_first")  # pyright: ignore[reportUnknownMemberType]  # its keywords have no types

    def tokenize(self, texts: Sequence[Text], *, prompt: str) -> list[Tokens]:
        inputs = [behind_prompt(text, prompt) for text in texts] if prompt else list(texts)
        encodings: list[Encoding] = self._whole.encode_batch_fast(inputs)
        tokens: list[Tokens] = []
        for text, encoding in zip(inputs, encodings, strict=True):
            total = len(encoding)
            if self._window is not None and total > self._window:
                encoding = self._cut(text)
            tokens.append(Tokens(encoding.ids, total, encoding.type_ids if isinstance(text, tuple) else None))
        return tokens

    def _cut(self, text: Text) -> "Encoding":
        return self._cutting.encode(*text) if isinstance(text, tuple) else self._cutting.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._whole.decode(list(ids), skip_special_tokens=True)


def behind_prompt(text: Text, prompt: str) -> Text:
    return (prompt + text[0], text[1]) if isinstance(text, tuple) else prompt + text


def padded(batch: Sequence[Tokens], recipe: Recipe, *, shape: Callable[[int, int], Shape] = as_asked) -> Arrays:
    """The arrays the recipe names, int64 of the shape of so many texts. Rows beyond them are texts of one token."""
    rows, longest = shape(len(batch), max(len(tokens.ids) for tokens in batch))
    batch = [*batch, *[Tokens([recipe.pad_id], 1)] * (rows - len(batch))]
    ids = np.full((rows, longest), recipe.pad_id, dtype=np.int64)
    mask = np.zeros((rows, longest), dtype=np.int64)
    types = np.zeros((rows, longest), dtype=np.int64)
    for row, tokens in enumerate(batch):
        length = len(tokens.ids)
        place = slice(longest - length, None) if recipe.padding_side == "left" else slice(length)
        ids[row, place] = tokens.ids
        mask[row, place] = 1
        if tokens.type_ids is not None:
            types[row] = recipe.pad_type_id
            types[row, place] = tokens.type_ids
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {name: arrays[name] for name in recipe.inputs}
