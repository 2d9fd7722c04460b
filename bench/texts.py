"""What the servers are asked: questions and passages, of a retrieval set or of the help pages that come with Python."""

import gzip
import json
import random
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedder.engines.checking import prose

WINDOW = 256  # tokens that all-minilm-l6-v2 reads
QUESTIONS = 2_000  # all different: a server must not answer from memory
PASSAGES = 4_096
PARAGRAPHS = 5  # of the help pages, in a text


def documents(data: Path | None) -> list[str]:
    if data is None:
        paragraphs = prose()
        return [" ".join(paragraphs[start : start + PARAGRAPHS]) for start in range(0, len(paragraphs), PARAGRAPHS)]
    with gzip.open(data / "corpus.jsonl.gz", "rt") as lines:
        return [json.loads(line)["text"] for line in lines]


def passages(data: Path | None) -> list[str]:
    whole = [text for text in documents(data) if len(text) > 40]
    chosen = random.Random(5)  # noqa: S311  # a seeded order, no secret
    cut = [text[: chosen.randint(40, 1200)] for text in whole for _ in range(-(-PASSAGES // len(whole)))]
    chosen.shuffle(cut)
    return cut[:PASSAGES]


def sentences(data: Path | None) -> list[str]:
    """For the check of the answers."""
    found = [part.strip() for text in passages(data) for part in re.split(r"(?<=[.?!])\s+", text)]
    return sorted({sentence for sentence in found if 30 < len(sentence) < 400})[:1000]


def nearest_shared(expected: NDArray[np.floating], computed: NDArray[np.floating]) -> float:
    """How many of the ten vectors nearest to one are the same for both; asked of every tenth."""
    every = slice(None, None, 10)
    best = [np.argsort(-(rows[every] @ rows.T), axis=1)[:, 1:11] for rows in (expected, computed)]
    return float(np.mean([len(set(one) & set(other)) / 10 for one, other in zip(*best, strict=True)]))


def questions(data: Path | None) -> list[str]:
    starts = sorted({" ".join(text.split()[: 6 + place % 7]) for place, text in enumerate(passages(data))})
    return [f"{starts[place % len(starts)]} {place}" for place in range(QUESTIONS)]


class Asked:
    """Request bodies, and how many texts and tokens each of them holds."""

    def __init__(self, inputs: list[list[str]], tokenizer: Tokenizer, *, model: str) -> None:
        self.bodies = [json.dumps({"model": model, "input": texts}).encode() for texts in inputs]
        self.texts = len(inputs[0])
        self.tokens = [
            sum(min(WINDOW, len(encoding)) for encoding in tokenizer.encode_batch(texts)) for texts in inputs
        ]


def asked(data: Path | None, model_directory: Path, *, model: str) -> dict[str, Asked]:
    tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    mixed = passages(data)
    groups = [mixed[start : start + 64] for start in range(0, len(mixed) - 63, 64)]
    return {
        "short": Asked([[question] for question in questions(data)], tokenizer, model=model),
        "mixed": Asked(groups, tokenizer, model=model),
    }
