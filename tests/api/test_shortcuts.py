"""Searches and inserts, which go past FastAPI's routing if they can: both ways lead to the same."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI

from api.routes.json_route import JsonRoute
from tests.api.test_metrics import labelled, numbers
from tests.conftest import Serve, raw

STORES = "/v1/vector_stores"
LONG_WAY = "application/vnd.api+json"  # which FastAPI takes for JSON, too
VECTOR = [1.0, 0.0, 0.0]
POSTS = {
    "search": {"query_embedding": VECTOR},
    "embeddings": {"content": "text", "embedding": VECTOR, "metadata": {"a": 1}},
    "embeddings/batch": {"embeddings": [{"content": "text", "embedding": VECTOR}, {"content": "other"}]},
}


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that went the long way."""
    paths: list[str] = []
    handle = JsonRoute.handle

    async def noted(self: JsonRoute, scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await handle(self, scope, receive, send)

    monkeypatch.setattr(JsonRoute, "handle", noted)
    return paths


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    store = (await openai.vector_stores.create()).id
    await raw(openai).post(f"{STORES}/{store}/embeddings", json={"id": "a", "content": "text", "embedding": VECTOR})
    return store


def without_ids(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return re.sub(r'"(id|created_at|created)":("[^"]*"|\d+)', "", answer.text)


@pytest.mark.parametrize("name", POSTS)
async def test_both_ways_answer_the_same_and_are_counted_as_one_route(
    name: str, store: str, http: httpx.AsyncClient, routed: list[str]
) -> None:
    path = f"{STORES}/{store}/{name}"
    answers = [
        without_ids(await http.post(path, json=POSTS[name], headers={"Content-Type": kind}))
        for kind in ("application/json", "Application/JSON ; charset=utf-8", LONG_WAY)
    ]

    assert routed == [path]  # of the last one
    assert answers[0] == answers[1] == answers[2]
    label = {"method": "POST", "route": f"/vector_stores/{{vector_store_id}}/{name}", "status": "200"}
    counted = await numbers(http)
    assert counted[labelled("quiver_requests_total", **label)] == 3 + (name == "embeddings")


@pytest.mark.parametrize("name", POSTS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"other": 1}'])
async def test_what_does_not_fit_is_refused_by_its_route(
    name: str, body: bytes, store: str, http: httpx.AsyncClient, routed: list[str]
) -> None:
    path = f"{STORES}/{store}/{name}"
    answers = [
        await http.post(path, content=body, headers={"Content-Type": kind}) for kind in ("application/json", LONG_WAY)
    ]

    assert routed == [path, path]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("name", POSTS)
@pytest.mark.parametrize("spaces", [[2001], [1000, 1000, 1000], [1999]])
async def test_a_body_over_the_limit_is_refused(
    name: str, spaces: list[int], serve: Serve, settings: dict[str, Any]
) -> None:
    pieces = [*(b" " * count for count in spaces), orjson.dumps(POSTS[name])]

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with serve(**settings, max_request_bytes=2000) as client:
        path = f"{STORES}/vs_1/{name}"
        streamed = await raw(client).post(path, content=body(), headers={"Content-Type": "application/json"})
        announced = await raw(client).post(path, content=b"".join(pieces), headers={"Content-Type": "application/json"})

    assert [answer.status_code for answer in (streamed, announced)] == [413, 413]
