"""Chunks without a corpus: clustered vectors, texts of Zipf's words, attributes. The same in every run.

The vectors are a mixture of gaussians in few dimensions, mapped into many: their neighbours are as hard to find as
those of real texts, which evenly scattered vectors' are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from api.vectors import Vectors

SEED = 20261121
LATENT = 64
CENTRES = 500
SPREAD = 1.2  # of a cluster; the centres have 1
NOISE = 0.1
WORDS = 30_000  # of the language, the n-th as often as 1 / n
WORDS_PER_TEXT = 170  # about 1 kB
BLOCK = 10_000  # rows generated together, so that a corpus of one size begins with those of the smaller ones
LANGUAGES = ("en", "de", "fr", "es")


@dataclass(frozen=True)
class Block:
    """Some chunks in a row; chunk `n` of the corpus is called `f"{n:07}"`."""

    first: int
    vectors: Vectors
    texts: list[str]
    attributes: list[dict[str, Any]]


def blocks(count: int, dimension: int) -> Iterator[Block]:
    for first in range(0, count, BLOCK):
        random = np.random.default_rng((SEED, first))
        size = min(BLOCK, count - first)
        yield Block(
            first, vectors(random, BLOCK, dimension)[:size], _texts(random, size), _attributes(random, size, first)
        )


def questions(count: int, dimension: int, *, seed: int = 1) -> Vectors:
    """Vectors from the same mixture that are in no corpus."""
    return vectors(np.random.default_rng((SEED, 10**9, seed)), count, dimension)


def sentences(count: int, *, words: int, seed: int = 1) -> list[str]:
    """Questions of so many words, no two alike."""
    random = np.random.default_rng((SEED, 10**9 + 1, seed))
    return [f"{' '.join(row)} q{seed}n{number}" for number, row in enumerate(_words(random, (count, words - 1)))]


def vectors(random: np.random.Generator, count: int, dimension: int) -> Vectors:
    centres, mapping = _mixture(dimension)
    weights = 1 / np.arange(1, CENTRES + 1)
    chosen = random.choice(CENTRES, size=count, p=weights / weights.sum())
    latent = centres[chosen] + SPREAD * random.standard_normal((count, LATENT), dtype=np.float32)
    rows = latent @ mapping
    noise = random.standard_normal(rows.shape, dtype=np.float32)
    rows += NOISE * noise * np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(dimension)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@cache
def _mixture(dimension: int) -> tuple[Vectors, Vectors]:
    random = np.random.default_rng((SEED, dimension))
    return (
        random.standard_normal((CENTRES, LATENT), dtype=np.float32),
        random.standard_normal((LATENT, dimension), dtype=np.float32) / np.float32(np.sqrt(LATENT)),
    )


@cache
def _language() -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float64]]:
    """The words, and how much of a text the words up to each of them make up."""
    random = np.random.default_rng(SEED)
    syllables = np.array([first + last for first in "bdfgklmnprstvw" for last in ("a", "e", "i", "o", "u", "an", "or")])
    shares = 1 / np.arange(1, WORDS + 1)
    made: dict[str, None] = {}
    while len(made) < WORDS:  # the frequent ones are the short ones
        made["".join(random.choice(syllables, size=1 + len(made).bit_length() // 5))] = None
    return np.array(list(made)), np.cumsum(shares / shares.sum())


def _words(random: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.str_]:
    words, shares = _language()
    return words[np.minimum(np.searchsorted(shares, random.random(shape)), WORDS - 1)]


def _texts(random: np.random.Generator, count: int) -> list[str]:
    return [" ".join(row) for row in _words(random, (count, WORDS_PER_TEXT))]


def _attributes(random: np.random.Generator, count: int, first: int) -> list[dict[str, Any]]:
    """`tenth` and `hundredth` say what share of the chunks has each of their values; one in 10,000 has a `ticket`."""
    numbers = random.integers(0, 1000, size=count).tolist()
    return [
        {
            "language": LANGUAGES[number % len(LANGUAGES)],
            "tenth": f"t{number % 10}",
            "hundredth": f"h{number % 100}",
            "author": f"author-{number % 500}",
            "price": number,
            "is_public": number % 3 != 0,
            "section": f"chapter {number % 20}",
            "year": 2000 + number % 26,
            "is_even": number % 2 == 0,
            "ticket": (first + place) * 7919 % 10_000,
        }
        for place, number in enumerate(numbers)
    ]
