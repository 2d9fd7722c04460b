"""What stores, chunks and files have beside their content: OpenAI's small maps, and any JSON for chunks."""

import math
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

from api.schemas.texts import without_nul

MAX_METADATA_DEPTH = 100  # orjson writes 254 levels, and an answer adds some of its own
INTEGERS = range(-(2**63), 2**64)  # that orjson writes; it reads larger ones as floats, and pydantic as they are


def _storable_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    waiting: list[tuple[JsonValue, int]] = [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_METADATA_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_METADATA_DEPTH} levels")
        match node:
            case str(text):
                without_nul(text)
            case float(number) if not math.isfinite(number):
                raise ValueError("must hold numbers that are finite")
            case int(number) if number not in INTEGERS:
                raise ValueError("must hold integers of 64 bits")
            case list(items):
                waiting.extend((item, depth + 1) for item in items)
            case dict(entries):
                waiting.extend((part, depth + 1) for part in (*entries, *entries.values()))
            case _:
                pass
    return value


def _finite(value: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
    if any(isinstance(number, float) and not math.isfinite(number) for number in value.values()):
        raise ValueError("must hold numbers that are finite")
    return value


MetadataKey = Annotated[str, Field(max_length=64), AfterValidator(without_nul)]
MetadataValue = Annotated[str, Field(max_length=512), AfterValidator(without_nul)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
ChunkMetadata = Annotated[dict[str, JsonValue], AfterValidator(_storable_json)]
AttributeValue = bool | int | float | MetadataValue
Attributes = Annotated[dict[MetadataKey, AttributeValue], Field(max_length=16), AfterValidator(_finite)]
