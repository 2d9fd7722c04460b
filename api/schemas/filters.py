"""The filters of a search: OpenAI's, and litellm-pgvector's flat form, limited before anything walks them."""

import re
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.schemas.requests import Request
from api.schemas.texts import Text

MAX_FILTER_DEPTH = 20
MAX_FILTER_CONDITIONS = 500
MAX_FILTER_VALUES = 1000  # of one `in`

Operator = Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
Scalar = bool | int | float | Text
FILTER_KEY = re.compile(r"[\w@#$][\w .:/@#$+-]{0,255}")


def _named_like_an_attribute(value: str) -> str:
    """Keys are parameters of the SQL, which they cannot harm; a refused injection beats one that finds nothing."""
    if not FILTER_KEY.fullmatch(value):
        raise ValueError(
            f"{value[:64]!r} is no attribute's name: those have letters, digits, blanks and _.:/@#$+- only"
        )
    return value


FilterKey = Annotated[Text, AfterValidator(_named_like_an_attribute)]


class ComparisonFilter(Request):
    type: Operator
    key: FilterKey
    value: Scalar | Annotated[list[Scalar], Field(max_length=MAX_FILTER_VALUES)]

    @model_validator(mode="after")
    def _value_fits_operator(self) -> "ComparisonFilter":
        is_list = isinstance(self.value, list)
        if is_list != (self.type in ("in", "nin")):
            raise ValueError(f"{self.type!r} takes {'one value' if is_list else 'a list of values'}")
        if isinstance(self.value, bool) and self.type not in ("eq", "ne"):
            raise ValueError(f"{self.type!r} does not order booleans")
        return self


class CompoundFilter(Request):
    type: Literal["and", "or"]
    filters: list["OpenAIFilter"] = Field(min_length=1)


OpenAIFilter = Annotated[ComparisonFilter | CompoundFilter, Field(discriminator="type")]


class MetadataEquals(Request):
    """litellm-pgvector's flat form `{"key": value, ...}`: every key's value, as text, equals."""

    type: Literal["flat"]
    values: dict[FilterKey, Scalar] = Field(max_length=MAX_FILTER_CONDITIONS)


Filter = Annotated[ComparisonFilter | CompoundFilter | MetadataEquals, Field(discriminator="type")]

_OPENAI_TYPES = frozenset({"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"})


def _limit_filter(value: object) -> object:
    """Refuse what is too deep or too large before a recursive validator walks it, and name the flat form.

    A dict is OpenAI's form if anything in it says so, so that a misspelt filter is refused and never searched as
    something else.
    """
    if not isinstance(value, dict):
        return value
    filter = cast("dict[str, Any]", value)
    waiting = [(filter, 1)]
    conditions = 0
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_FILTER_DEPTH:
            raise ValueError(f"is nested deeper than {MAX_FILTER_DEPTH} levels")
        conditions += 1
        nested: Any = node.get("filters")
        if isinstance(nested, list):
            parts = [cast("dict[str, Any]", part) for part in cast("list[object]", nested) if isinstance(part, dict)]
            waiting.extend((part, depth + 1) for part in parts)
    if conditions > MAX_FILTER_CONDITIONS:
        raise ValueError(f"has more than {MAX_FILTER_CONDITIONS} conditions")
    kind = filter.get("type")
    is_openai = "key" in filter or "filters" in filter or (isinstance(kind, str) and kind in _OPENAI_TYPES)
    return filter if is_openai else {"type": "flat", "values": filter}


FilterInput = Annotated[Filter, BeforeValidator(_limit_filter)]
