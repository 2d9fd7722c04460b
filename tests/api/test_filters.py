"""Filters: every operator, each held against a plain Python evaluation."""

import json
import math
import re
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from tests.fake_embedder import DIMENSION

METADATA: list[dict[str, Any] | None] = [
    None,
    {},
    {"lang": "en", "year": 2024, "open": True},
    {"lang": "de", "year": 2023.5, "open": False},
    {"lang": "EN", "year": "2024", "price": -3},
    {"lang": "", "year": 0, "open": 1},
    {"lang": 7, "price": 1e-9},
    {"lang": ["en"], "year": None, "odd key": {"lang": "en"}},
    {"lang": 'it\'s "quoted" \\ %s', "year": 2024.0},
    {"Lang": "en", "price": 10**12},
    {"lang": "1", "year": "2023.5", "price": "-3.0"},
    {"lang": "2024 A.D.", "year": "02024", "price": "1e-09"},
    {"lang": "1e999999", "year": "1e3", "price": "-" * 3, "open": "1"},
]
KEYS = ["lang", "year", "open", "price", "Lang", "odd key", "absent"]
VALUES = ["en", "de", "", "2024", 2024, 2023.5, 0, 1, -3, 1e-9, True, False, 'it\'s "quoted" \\ %s']


def kind(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "other"


def equals(there: Any, value: Any) -> bool:
    if kind(there) == "string" and kind(value) == "number":
        return there in {str(value), json.dumps(value), f"{value}.0", f"{value:g}", f"{value:g}".replace("e-0", "e-")}
    return kind(there) == kind(value) != "other" and there == value


def as_number(text: str) -> float:
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d{1,3})?", text) else math.nan


def holds(filter: dict[str, Any], metadata: dict[str, Any] | None) -> bool:
    """The oracle: what a filter means, said again without SQL."""
    if filter["type"] in ("and", "or"):
        return (all if filter["type"] == "and" else any)(holds(part, metadata) for part in filter["filters"])
    there = (metadata or {}).get(filter["key"], math.nan)  # equal to nothing, before and behind nothing
    value = filter["value"]
    if kind(value) == "number" and kind(there) == "string" and filter["type"] in ("gt", "gte", "lt", "lte"):
        there = as_number(there)
    is_ordered = kind(there) == kind(value)
    return {
        "eq": lambda: equals(there, value),
        "ne": lambda: not equals(there, value),
        "in": lambda: any(equals(there, item) for item in value),
        "nin": lambda: not any(equals(there, item) for item in value),
        "gt": lambda: is_ordered and there > value,
        "gte": lambda: is_ordered and there >= value,
        "lt": lambda: is_ordered and there < value,
        "lte": lambda: is_ordered and there <= value,
    }[filter["type"]]()


keys = st.sampled_from(KEYS)
scalars = st.sampled_from(VALUES)
comparisons = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["eq", "ne"]), "key": keys, "value": scalars}),
    st.fixed_dictionaries({"type": st.sampled_from(["in", "nin"]), "key": keys, "value": st.lists(scalars)}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["gt", "gte", "lt", "lte"]),
            "key": keys,
            "value": scalars.filter(lambda value: not isinstance(value, bool)),
        }
    ),
)
filters = st.recursive(
    comparisons,
    lambda parts: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(parts, min_size=1, max_size=3)}
    ),
    max_leaves=6,
)


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient) -> str:
    store = await openai.vector_stores.create()
    chunks = [
        {"content": str(i), "embedding": [1.0] * DIMENSION, "metadata": metadata} for i, metadata in enumerate(METADATA)
    ]
    await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json={"embeddings": chunks})
    return store.id


async def found(http: httpx.AsyncClient, store: str, filter: dict[str, Any]) -> set[int]:
    body = {"query_embedding": [1.0] * DIMENSION, "filters": filter, "max_num_results": 50}
    answer = await http.post(f"/v1/vector_stores/{store}/search", json=body)
    assert answer.status_code == 200, answer.text
    return {int(result["content"][0]["text"]) for result in answer.json()["data"]}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filter=filters)
async def test_a_filter_finds_what_it_means(filter: dict[str, Any], http: httpx.AsyncClient, store: str) -> None:
    expected = {i for i, metadata in enumerate(METADATA) if holds(filter, metadata)}

    assert await found(http, store, filter) == expected


async def test_the_flat_form_compares_as_text(http: httpx.AsyncClient, store: str) -> None:
    assert await found(http, store, {"year": 2024}) == {2, 4}
    assert await found(http, store, {"lang": "en", "open": True}) == {2}
    assert await found(http, store, {}) == set(range(len(METADATA)))


async def test_a_flat_filter_may_be_on_a_key_called_type(http: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create()
    chunks = [{"content": str(i), "metadata": {"type": kind}} for i, kind in enumerate(["pdf", "html"])]
    await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json={"embeddings": chunks})

    assert await found(http, store.id, {"type": "pdf"}) == {0}
