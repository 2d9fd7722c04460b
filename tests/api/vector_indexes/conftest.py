"""A store whose chunks are indexed when they are as many as a test can afford."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from api.resources import Resources
from tests.api.vector_indexes.indexed_chunks import DIMENSION, LARGE, Chunks
from tests.working import opened


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"vector_index": {"min_chunks": LARGE}}


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


@pytest.fixture
async def chunks(openai: AsyncOpenAI, http: httpx.AsyncClient) -> Chunks:
    store = await openai.vector_stores.create(extra_body={"embedding_dimension": DIMENSION})
    return Chunks(http, store.id)
