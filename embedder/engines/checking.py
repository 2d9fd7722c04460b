"""Whether an engine's vectors are true: a set of texts, and how near to the original's an engine's rows come.

The texts are the help pages that come with Python: prose of many lengths on every machine, without a network.
"""

import re
import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from embedder.engines import Kind, Text, Tokens
from embedder.engines.exports import Recipe
from embedder.engines.rows import Computed
from embedder.engines.token_engine import Session
from embedder.engines.tokenizing import padded

TRUE = 0.9999  # mean cosine to fp32 of an engine that computes the same model
TRUE_ENOUGH = 0.99  # of one that was asked for although it rounds to 8 bits
CHECKED_TEXTS = 48
BATCH_TEXTS = 8
TIMED_TEXTS = 16
REPEATED = 3  # the best counts: other programs can only slow a measurement down

OTHER_LANGUAGES = [
    "Wie wird die Rechnung bezahlt?",
    "Le médecin a prescrit un traitement de trois semaines.",
    "La reunión empieza mañana a las nueve.",
    "Котёнок спит на подоконнике.",
    "明天会下雨吗？",
    "この部屋はとても静かです。",
    "أين تقع أقرب محطة قطار؟",
    "यह किताब बहुत रोचक है।",
]
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "UPPER lower MiXeD",
    "tab\tand\nnew line",
    "a" * 300,
    "3.14 + 2.72 = 5.86",
    "don't",
]


@cache
def prose() -> list[str]:
    """Some thousand paragraphs, shuffled."""
    from pydoc_data.topics import topics

    paragraphs = [" ".join(part.split()) for page in topics.values() for part in re.split(r"\n\s*\n", page)]
    usable = sorted({paragraph for paragraph in paragraphs if len(paragraph) > 40})
    return [usable[place] for place in np.random.default_rng(7).permutation(len(usable))]


def check_texts(kind: Kind) -> list[Text]:
    """Prose of every length, from a word to a page; pairs of it for rerank."""
    cut = [paragraph[: 12 + 11 * place] for place, paragraph in enumerate(prose()[:CHECKED_TEXTS])]
    if kind == "rerank":
        return [(question[:80], text) for question, text in zip(reversed(cut), cut, strict=True)]
    return list(cut)


def odd_texts(kind: Kind) -> list[Text]:
    """What tokenizers differ in: spaces, case, scripts, nothing at all, and more than any window holds."""
    texts = [*ODD_TEXTS, *OTHER_LANGUAGES, " ".join(prose()[:20])]
    return [(text, text) for text in texts] if kind == "rerank" else list(texts)


def fidelity(expected: Computed, computed: Computed, *, kind: Kind) -> float:
    """Mean cosine of the rows. Of scores, the cosine of their deviations from their mean."""
    if kind == "rerank":
        expected, computed = expected.reshape(1, -1), computed.reshape(1, -1)
        middle = expected.mean()
        expected, computed = expected - middle, computed - middle
    wide, wide_expected = computed.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(wide_expected, axis=1)
    both_zero = ~wide.any(axis=1) & ~wide_expected.any(axis=1)
    cosines = np.where(both_zero, 1.0, (wide * wide_expected).sum(axis=1) / np.maximum(lengths, 1e-30))
    return float(cosines.mean())


def compute_all(session: Session, texts: Sequence[Tokens], recipe: Recipe) -> Computed:
    """The rows of all texts, computed in batches of like length."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
    rows: list[Computed] = []
    for start in range(0, len(order), BATCH_TEXTS):
        batch = [texts[place] for place in order[start : start + BATCH_TEXTS]]
        computed = session.compute(padded(batch, recipe, shape=session.shape))[: len(batch)]
        rows.append(computed.reshape(len(batch), -1).copy())
    return np.concatenate(rows)[np.argsort(order)]


def seconds_taken(session: Session, texts: Sequence[Tokens], recipe: Recipe, *, to_beat: float) -> float:
    """What some texts take in batches, and as many short ones alone: both uses count.

    One that is far from what is to beat is measured once.
    """
    by_length = sorted(texts, key=lambda tokens: len(tokens.ids))
    short, mixed = by_length[:TIMED_TEXTS], by_length[:: max(1, len(by_length) // TIMED_TEXTS)]
    taken: list[float] = []
    while len(taken) < REPEATED and min(taken, default=0) < 2 * to_beat:
        started = time.perf_counter()
        compute_all(session, mixed, recipe)
        for tokens in short:
            session.compute(padded([tokens], recipe, shape=session.shape))
        taken.append(time.perf_counter() - started)
    return min(taken)
