"""Texts that PostgreSQL can store."""

from typing import Annotated

from pydantic import AfterValidator, Field


def without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the character U+0000, which PostgreSQL cannot store")
    return value


def with_content(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Text = Annotated[str, AfterValidator(without_nul)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(without_nul)]
Content = Annotated[Text, AfterValidator(with_content)]
