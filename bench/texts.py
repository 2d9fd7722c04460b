"""What the servers are asked: questions and passages, from a retrieval set or generated."""

import gzip
import json
import random
import re
from pathlib import Path

from tokenizers import Tokenizer

WINDOW = 256  # tokens that all-minilm-l6-v2 reads
QUESTIONS = 2_000  # all different: a server must not answer from memory
PASSAGES = 4_096
SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "po", "ri", "sa", "te", "vu", "ka", "mo", "li"]


def passages(data: Path | None) -> list[str]:
    if data is None:
        return [generated(number) for number in range(PASSAGES)]
    with gzip.open(data / "corpus.jsonl.gz", "rt") as lines:
        whole = [json.loads(line)["text"] for line in lines]
    chosen = random.Random(5)  # noqa: S311  # a seeded order, no secret
    cut = [text[: chosen.randint(40, 1200)] for text in whole for _ in range(4) if len(text) > 40]
    chosen.shuffle(cut)
    return cut[:PASSAGES]


def generated(number: int) -> str:
    chosen = random.Random(number)  # noqa: S311  # the same texts in every run, no secret
    words = ["".join(chosen.choices(SYLLABLES, k=chosen.randint(1, 3))) for _ in range(chosen.randint(6, 140))]
    return " ".join(words).capitalize() + "."


def sentences(data: Path | None) -> list[str]:
    """For the check of the answers."""
    found = [part.strip() for text in passages(data) for part in re.split(r"(?<=[.?!])\s+", text)]
    return sorted({sentence for sentence in found if 30 < len(sentence) < 400})[:1000]


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
