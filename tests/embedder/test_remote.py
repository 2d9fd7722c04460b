"""Models that another server has: one embedder in front of another, and of what answers badly."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from embedder.batching import Computed
from embedder.errors import ApiError
from embedder.registry import Declaration
from embedder.remote import Remote
from tests.embedder.conftest import Serve, served
from tests.embedder.letter_engine import LetterEngine, counts, written_out


@pytest.fixture(scope="module")
def other(serve: Serve) -> Iterator[str]:
    """Another embedder, which has the model "letters"."""
    with serve(LetterEngine()) as address:
        yield address


async def compute(url: str, texts: list[str], *, prompt: str = "", **fields: Any) -> Computed:
    declared = {"name": "far", "kind": "http", "url": url, "remote_model": "letters"}
    declaration = Declaration.model_validate(declared | fields)
    remote = Remote(declaration, max_queued_tokens=1000)
    try:
        return await remote.compute(texts, prompt=prompt)
    finally:
        await remote.close()


@pytest.mark.parametrize(("shape", "path"), [("openai", "/v1"), ("embed", ""), ("batch_embed", "")])
async def test_another_servers_vectors_are_ours(other: str, shape: str, path: str) -> None:
    answer = await compute(f"{other}{path}", ["aab", "c"], shape=shape)

    expected = np.array([counts("aab"), counts("c")], dtype=np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(written_out(answer), expected)
    assert answer.tokens > 0


async def test_the_prompt_is_put_before_the_texts(other: str) -> None:
    answer = await compute(f"{other}/v1", ["a"], prompt="zz")

    assert answer.tokens == 3


async def test_a_remote_model_is_served_like_any_other(serve: Serve, other: str, tmp_path: Any) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(f"models:\n  - {{name: far, kind: http, url: '{other}/v1', remote_model: letters}}\n")
    with serve(LetterEngine(), config=file) as address:
        body = {"model": "far", "input": "aab"}
        response = await asyncio.to_thread(httpx.post, f"{address}/v1/embeddings", json=body)

    assert response.json()["model"] == "far"
    assert response.json()["usage"]["prompt_tokens"] == 3


async def refuse(_: Request) -> Response:
    return JSONResponse({"error": {"message": "secret"}}, 400)


async def fail(_: Request) -> Response:
    return Response("secret", 500)


async def be_busy(_: Request) -> Response:
    return JSONResponse({}, 429, headers={"retry-after": "7"})


async def dawdle(_: Request) -> Response:
    await asyncio.sleep(5)
    return JSONResponse({})


async def answer_nonsense(_: Request) -> Response:
    return JSONResponse({"data": "none"})


async def answer_too_few(_: Request) -> Response:
    return JSONResponse({"data": [{"index": 0, "embedding": [1.0]}]})


ENDPOINTS = (refuse, fail, be_busy, dawdle, answer_nonsense, answer_too_few)


@pytest.fixture(scope="module")
def bad() -> Iterator[str]:
    routes = [Route(f"/{endpoint.__name__}/embeddings", endpoint, methods=["POST"]) for endpoint in ENDPOINTS]
    with served(Starlette(routes=routes)) as address:
        yield address


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("refuse", 400),
        ("fail", 502),
        ("be_busy", 429),
        ("dawdle", 504),
        ("answer_nonsense", 502),
        ("answer_too_few", 502),
    ],
)
async def test_what_another_server_does_wrong_is_told_without_its_words(bad: str, how: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        await compute(f"{bad}/{how}", ["a", "b"], timeout_seconds=0.3)

    assert caught.value.status == status
    assert "'far'" in caught.value.message
    assert "secret" not in caught.value.message


async def test_a_busy_servers_retry_after_is_handed_on(bad: str) -> None:
    with pytest.raises(ApiError) as caught:
        await compute(f"{bad}/be_busy", ["a"])

    assert caught.value.headers == {"Retry-After": "7"}


async def test_a_server_that_is_not_there_is_a_502() -> None:
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        await compute("http://127.0.0.1:1", ["a"])

    assert caught.value.status == 502
