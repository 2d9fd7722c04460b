"""Rerankers and rewriters: models of the proxy that may be away, slow, unknown, or talk nonsense."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import httpx
import pytest
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from api.services import keywords
from tests.conftest import Serve, raw
from tests.fake_embedder import embed
from tests.servers import Server
from tests.working import opened

RERANKER = "cross-encoder"
CHAT = "chat"
TEXTS = {"short": "boat", "long": "boat on the lake at night", "middle": "boat on land"}


class FakeModels:
    """A rerank model that likes long texts, and a chat model that shouts; `failures` are answered first."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.failures: list[Response] = []
        self.delay_seconds = 0.0
        self.scale = 0.01
        routes = [
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        self.server = Server(Starlette(routes=routes))

    async def _rerank(self, request: Request) -> Response:
        body = await request.json()
        lengths = [len(text) for text in cast("list[str]", body["documents"])]
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        results = [{"index": index, "relevance_score": lengths[index] * self.scale} for index in order]
        return await self._failure(body) or JSONResponse({"id": "rerank-1", "results": results, "meta": {}})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        message = {"role": "assistant", "content": f" {body['messages'][-1]['content'].upper()}\n"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return await self._failure(body) or JSONResponse({"id": "c", "object": "chat.completion", "choices": choices})

    async def _failure(self, body: dict[str, Any]) -> Response | None:
        self.calls.append(body)
        await asyncio.sleep(self.delay_seconds)
        if self.failures:
            return self.failures.pop(0)
        if body["model"] not in (RERANKER, CHAT):
            return JSONResponse({"error": {"message": f"Invalid model name passed in model={body['model']}"}}, 400)
        return None


@pytest.fixture
def models() -> Iterator[FakeModels]:
    models = FakeModels()
    models.server.start()
    yield models
    models.server.stop()


@pytest.fixture
def proxied(settings: dict[str, Any], models: FakeModels) -> dict[str, Any]:
    fast = {"max_attempts": 2, "timeout_seconds": 0.5}
    return {
        **settings,
        "embedding": {"base_url": models.server.base_url},
        "rerank": fast,
        "rewrite": {**fast, "model": CHAT},
    }


@pytest.fixture
async def quiver(serve: Serve, proxied: dict[str, Any]) -> AsyncIterator[AsyncOpenAI]:
    async with serve(**proxied) as client:
        yield client


@pytest.fixture
async def store(quiver: AsyncOpenAI, proxied: dict[str, Any]) -> str:
    return await filled(quiver, proxied)


async def filled(quiver: AsyncOpenAI, settings: dict[str, Any]) -> str:
    store = (await quiver.vector_stores.create()).id
    chunks = [{"id": id, "content": text, "embedding": embed(text).tolist()} for id, text in TEXTS.items()]
    await raw(quiver).post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
    async with opened(settings) as resources:
        await keywords.index(resources, seconds=60)
    return store


async def search(quiver: AsyncOpenAI, store: str, **body: Any) -> httpx.Response:
    options = {"search_mode": "keyword", "ranker": RERANKER}
    return await raw(quiver).post(
        f"/v1/vector_stores/{store}/search", json={"query": "boat", "ranking_options": options, **body}
    )


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["file_id"] for result in answer.json()["data"]]


async def test_the_rerank_model_has_the_last_word(quiver: AsyncOpenAI, store: str, models: FakeModels) -> None:
    answer = await search(quiver, store)

    assert ids(answer) == ["long", "middle", "short"]
    assert [result["score"] for result in answer.json()["data"]] == [0.25, 0.12, 0.04]
    assert "x-quiver-rerank" not in answer.headers
    assert models.calls == [
        {"model": RERANKER, "query": "boat", "documents": [TEXTS[id] for id in ("short", "middle", "long")], "top_n": 3}
    ]


async def test_the_log_tells_how_long_reranking_took(quiver: AsyncOpenAI, store: str, models: FakeModels) -> None:
    models.delay_seconds = 0.05
    with capture_logs() as lines:
        await search(quiver, store)

    [line] = [line for line in lines if line["event"] == "request"]
    assert line["rerank_milliseconds"] > 0


async def test_only_the_best_candidates_are_reranked(quiver: AsyncOpenAI, store: str) -> None:
    options = {"search_mode": "keyword", "ranker": RERANKER, "candidates": 2}

    assert ids(await search(quiver, store, max_num_results=2, ranking_options=options)) == ["middle", "short"]


async def test_the_threshold_holds_for_the_rerankers_score(quiver: AsyncOpenAI, store: str) -> None:
    options = {"search_mode": "keyword", "ranker": RERANKER, "score_threshold": 0.1}

    assert ids(await search(quiver, store, ranking_options=options)) == ["long", "middle"]


async def test_logits_become_scores_in_the_same_order(quiver: AsyncOpenAI, store: str, models: FakeModels) -> None:
    models.scale = -10.0

    answer = await search(quiver, store)

    assert ids(answer) == ["short", "middle", "long"]
    assert all(0 <= result["score"] <= 1 for result in answer.json()["data"])


async def test_a_reranker_that_is_busy_is_asked_again(quiver: AsyncOpenAI, store: str, models: FakeModels) -> None:
    models.failures = [Response(status_code=429, headers={"Retry-After": "0"})]

    assert ids(await search(quiver, store)) == ["long", "middle", "short"]
    assert len(models.calls) == 2


FAILURES = {
    "fails": [Response(status_code=503), Response(status_code=503)],
    "refuses the key": [Response(status_code=401)],
    "asks for patience": [Response(status_code=429, headers={"Retry-After": "60"})],
    "no JSON": [Response("<html>")],
    "a result short": [JSONResponse({"results": [{"index": 0, "relevance_score": 1.0}]})],
    "other words": [JSONResponse({"data": []})],
    "not a number": [Response('{"results": [{"index": 0, "relevance_score": "NaN"}]}')],
}


@pytest.mark.parametrize("failures", FAILURES.values(), ids=list(FAILURES))
async def test_without_its_reranker_a_search_has_the_order_that_it_had(
    quiver: AsyncOpenAI, store: str, models: FakeModels, failures: list[Response]
) -> None:
    models.failures = list(failures)

    answer = await search(quiver, store)

    assert ids(answer) == ["short", "middle", "long"]
    assert answer.headers["x-quiver-rerank"] == "unavailable"


async def test_a_reranker_that_is_slow_or_gone_is_not_waited_for(
    quiver: AsyncOpenAI, store: str, models: FakeModels
) -> None:
    models.delay_seconds = 2.0
    slow = await search(quiver, store)
    models.server.stop()
    gone = await search(quiver, store)

    assert slow.headers["x-quiver-rerank"] == gone.headers["x-quiver-rerank"] == "unavailable"
    assert ids(slow) == ids(gone) == ["short", "middle", "long"]


async def test_a_reranker_that_is_required_fails_the_search(
    serve: Serve, proxied: dict[str, Any], models: FakeModels
) -> None:
    settings = {**proxied, "rerank": {**proxied["rerank"], "required": True}}
    async with serve(**settings) as quiver:
        store = await filled(quiver, settings)
        models.failures = [Response(status_code=500), Response(status_code=500)]

        answer = await search(quiver, store)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "model_unavailable")


async def test_an_unknown_ranker_is_named(quiver: AsyncOpenAI, store: str) -> None:
    answer = await search(quiver, store, ranking_options={"search_mode": "keyword", "ranker": "default-2023"})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "ranking_options.ranker"
    assert "'default-2023'" in answer.json()["error"]["message"]


async def test_a_rewritten_question_is_searched_for_and_shown(
    quiver: AsyncOpenAI, store: str, models: FakeModels
) -> None:
    answer = await search(quiver, store, rewrite_query=True, query="lake?", ranking_options={"search_mode": "keyword"})

    assert answer.json()["search_query"] == ["LAKE?"]
    assert ids(answer) == ["long"]
    assert [call["messages"][-1] for call in models.calls] == [{"role": "user", "content": "lake?"}]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (JSONResponse({"choices": []}), "model_unavailable"),
        (JSONResponse({"choices": [{"message": {"content": " "}}]}), "model_unavailable"),
        (JSONResponse({"choices": [{"message": {"content": None}}]}), "model_unavailable"),
    ],
)
async def test_a_question_that_cannot_be_rewritten_is_not_searched(
    quiver: AsyncOpenAI, store: str, models: FakeModels, failure: Response, code: str
) -> None:
    models.failures = [failure]

    answer = await search(quiver, store, rewrite_query=True)

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, code)


async def test_rewriting_takes_a_few_questions_at_once(quiver: AsyncOpenAI, store: str) -> None:
    answer = await search(quiver, store, rewrite_query=True, query=["a"] * 5)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "rewrite_query")


async def test_rewriting_without_a_chat_model_is_refused(openai: AsyncOpenAI) -> None:
    store = (await openai.vector_stores.create()).id

    answer = await search(openai, store, rewrite_query=True, ranking_options=None)

    assert answer.status_code == 400
    assert "REWRITE__MODEL" in answer.json()["error"]["message"]
