"""Token ids instead of texts: LangChain and others send those of OpenAI's tokenizer unless told not to."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from embedder.errors import InvalidRequest

if TYPE_CHECKING:
    from bpe_openai import Encoding


def decode(lists: Sequence[Sequence[int]]) -> list[str]:
    """The texts of cl100k_base's token ids. Blocks; the first call takes seconds: the vocabulary is read.

    Raises:
        InvalidRequest: an id is none of that vocabulary's.
    """
    return [decode_one(ids, index) for index, ids in enumerate(lists)]


def decode_one(ids: Sequence[int], index: int) -> str:
    try:
        if min(ids) < 0:
            raise KeyError(min(ids))
        text = encoding().decode(list(ids))
    except KeyError as error:
        message = f"'input[{index}]' holds token ids that are not of cl100k_base; send the texts themselves."
        raise InvalidRequest(message, param="input") from error
    if not text:
        raise InvalidRequest(f"'input[{index}]' is an empty text.", param="input")
    return text


@cache
def encoding() -> "Encoding":
    from bpe_openai import get_encoding

    return get_encoding("cl100k_base")
