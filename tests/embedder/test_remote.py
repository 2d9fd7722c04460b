"""Models that another server has: one embedder in front of another, and of what answers badly."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from embedder.admission import Limits
from embedder.batching import Computed
from embedder.errors import ApiError, QueueFull
from embedder.registry import Declaration
from embedder.remote import Remote
from tests.embedder.conftest import Serve, served
from tests.embedder.letter_engine import LetterEngine, counts, written_out


@pytest.fixture(scope="module")
def other(serve: Serve) -> Iterator[str]:
    """Another embedder, which has the model "letters"."""
    with serve(LetterEngine()) as address:
        yield address


@asynccontextmanager
async def remote(url: str, *, max_connections: int = 32, **fields: Any) -> AsyncGenerator[Remote]:
    declared = {"name": "far", "kind": "http", "url": url, "remote_model": "letters"}
    declaration = Declaration.model_validate(declared | fields)
    limits = Limits(max_batch_tokens=100, max_queued_tokens=1000)
    remote = Remote(declaration, limits=limits, max_connections=max_connections)
    try:
        yield remote
    finally:
        await remote.close()


async def compute(url: str, texts: list[str], *, prompt: str = "", **fields: Any) -> Computed:
    async with remote(url, **fields) as far:
        return await far.compute(texts, prompt=prompt)


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


async def test_how_many_texts_another_server_has_cut_is_handed_on(other: str) -> None:
    answer = await compute(f"{other}/v1", ["a", "b" * 1001, "c" * 1001])

    assert answer.cut == 2


async def test_tokens_that_another_server_does_not_count_are_estimated(other: str) -> None:
    answer = await compute(other, ["twelve chars"], shape="batch_embed")

    assert answer.tokens == 2 + 12 // 4


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


async def drip(_: Request) -> Response:
    async def body() -> AsyncGenerator[bytes]:
        yield b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1]}]'
        for _ in range(40):
            await asyncio.sleep(0.1)
            yield b" "
        yield b"}"

    return StreamingResponse(body(), media_type="application/json")


async def take_a_while(_: Request) -> Response:
    await asyncio.sleep(0.3)
    return JSONResponse({"data": [{"index": 0, "embedding": [1.0]}]})


async def answer_nonsense(_: Request) -> Response:
    return JSONResponse({"data": "none"})


async def answer_too_few(_: Request) -> Response:
    return JSONResponse({"data": [{"index": 0, "embedding": [1.0]}]})


ENDPOINTS = (refuse, fail, be_busy, dawdle, drip, take_a_while, answer_nonsense, answer_too_few)


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
        ("drip", 504),
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


async def test_who_waits_for_a_connection_of_ours_does_not_use_up_the_other_servers_time(bad: str) -> None:
    async with remote(f"{bad}/take_a_while", max_connections=1, timeout_seconds=0.8) as far:
        answers = await asyncio.gather(*(far.compute(["a"]) for _ in range(4)))

    assert len(answers) == 4


async def test_a_long_request_under_way_does_not_make_the_queue_full_for_a_short_one(bad: str) -> None:
    async with remote(f"{bad}/take_a_while") as far:
        long = asyncio.create_task(far.compute(["a" * 8000]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2002 tokens wait"):
            await far.compute(["b" * 8000])

        short = await far.compute(["short"])
        await long

    assert short.tokens == 2 + 5 // 4


async def test_a_server_that_is_not_there_is_a_502() -> None:
    with pytest.raises(ApiError, match="cannot be reached") as caught:
        await compute("http://127.0.0.1:1", ["a"])

    assert caught.value.status == 502
