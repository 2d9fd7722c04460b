"""A store to put chunks into, and what a process of its own has."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI

from api.resources import Resources
from tests.working import opened


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    """What another process has, one that may stop at any time."""
    async with opened(settings) as resources:
        yield resources
