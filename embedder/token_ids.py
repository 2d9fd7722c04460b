"""Token ids instead of texts: LangChain and others send those of OpenAI's tokenizer unless told not to.

Only the vocabulary of bpe-openai is read: to import the package takes seconds and 100 MB, and decoding is a table.
"""

import base64
import gzip
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from embedder.errors import InvalidRequest

VOCABULARY = "data/cl100k_base.tiktoken.gz"  # a line for each token: its bytes in base64, its id


def decode(lists: Sequence[Sequence[int]]) -> list[str]:
    """The texts of cl100k_base's token ids. Blocks; the first call reads the vocabulary.

    Raises:
        InvalidRequest: an id is none of that vocabulary's, or of a special token, which stands for no text.
    """
    return [decode_one(ids, index) for index, ids in enumerate(lists)]


def decode_one(ids: Sequence[int], index: int) -> str:
    tokens = vocabulary()
    if min(ids) < 0 or max(ids) >= len(tokens):
        message = f"'input[{index}]' holds token ids that stand for no text in cl100k_base; send the texts themselves."
        raise InvalidRequest(message, param="input")
    return b"".join(tokens[id] for id in ids).decode(errors="replace")


@cache
def vocabulary() -> list[bytes]:
    found = find_spec("bpe_openai")
    if found is None or not found.submodule_search_locations:
        message = "Token ids cannot be read here: pip install bpe-openai, or send the texts themselves."
        raise InvalidRequest(message, param="input")
    lines = gzip.decompress((Path(found.submodule_search_locations[0]) / VOCABULARY).read_bytes()).splitlines()
    tokens = [b""] * len(lines)
    for line in lines:
        token, _, id = line.partition(b" ")
        tokens[int(id)] = base64.b64decode(token)
    return tokens
