"""Vectors as requests bring them."""

from typing import Annotated, Any, cast

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

MAX_DIMENSION = 16_000  # of pgvector's `vector` and `halfvec`


def _numbers(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
    """Numbers that were read side by side, as `BatchReader` does, are numbers; others are looked at one by one."""
    if isinstance(value, memoryview):
        doubles = cast("memoryview[float]", value)
        return doubles if 0 < len(doubles) <= MAX_DIMENSION else validate(doubles.tolist())
    return validate(value)


# A list of numbers, or base64 of little-endian float32 as OpenAI's embeddings API returns them.
EmbeddingInput = Annotated[
    Annotated[list[float], Field(min_length=1, max_length=MAX_DIMENSION)] | str, WrapValidator(_numbers)
]
