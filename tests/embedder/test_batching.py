import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.batching import Batcher
from embedder.errors import ModelFailed, QueueFull, ShuttingDown
from embedder.server import create_app
from tests.embedder.conftest import HermeticSettings, served
from tests.embedder.letter_engine import LetterEngine

texts = st.text("abc", min_size=1, max_size=9)
requests = st.lists(st.lists(texts, min_size=1, max_size=20), min_size=1, max_size=6)


@pytest.fixture
def engine() -> Iterator[LetterEngine]:
    engine = LetterEngine()
    yield engine
    engine.release()


def batcher_of(engine: LetterEngine, *, batch: int = 4, characters: int = 100, queue: int = 100) -> Batcher:
    return Batcher(engine, max_batch_texts=batch, max_batch_characters=characters, max_queued_texts=queue)


async def until_begun(engine: LetterEngine) -> None:
    assert await asyncio.to_thread(engine.begun.wait, 10)


@asynccontextmanager
async def busy(batcher: Batcher, engine: LetterEngine) -> AsyncGenerator[asyncio.Task[object]]:
    """Enter with the model held up by a first text; whatever is asked for inside waits until it is released."""
    engine.hold()
    first = asyncio.create_task(batcher.encode(["first"]))
    await until_begun(engine)
    yield first
    engine.release()
    await asyncio.wait([first])


def ask(batcher: Batcher, *requests: list[str]) -> list["asyncio.Task[object]"]:
    return [asyncio.create_task(batcher.encode(texts)) for texts in requests]


async def settled(batcher: Batcher, waiting: int) -> None:
    while batcher.queued_texts != waiting:  # noqa: ASYNC110  # a number to watch, not an event
        await asyncio.sleep(0)


@given(requests, st.integers(1, 8), st.integers(1, 30))
@settings(deadline=None, max_examples=50)
async def test_each_caller_gets_its_own_answer_in_its_own_order(
    requests: list[list[str]], batch: int, characters: int
) -> None:
    engine = LetterEngine()
    async with batcher_of(engine, batch=batch, characters=characters) as batcher:
        answers = await asyncio.gather(*map(batcher.encode, requests))

    for request, answer in zip(requests, answers, strict=True):
        expected = LetterEngine().encode(request)
        assert np.array_equal(answer.vectors, expected.vectors)
        assert answer.tokens == expected.tokens
    assert max(map(len, engine.batches)) <= batch
    assert sum(map(len, engine.batches)) == sum(map(len, requests))


async def test_what_waits_while_the_model_is_busy_is_one_batch(engine: LetterEngine) -> None:
    async with batcher_of(engine) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a"], ["b", "c"], ["d"])
            await settled(batcher, 4)
        await asyncio.gather(*asked)

    assert [sorted(batch) for batch in engine.batches] == [["first"], ["a", "b", "c", "d"]]


async def test_texts_of_like_length_share_a_batch(engine: LetterEngine) -> None:
    async with batcher_of(engine, batch=2) as batcher:
        await batcher.encode(["aaaa", "b", "cccc", "d"])

    assert [sorted(batch) for batch in engine.batches] == [["aaaa", "cccc"], ["b", "d"]]


async def test_long_texts_make_smaller_batches(engine: LetterEngine) -> None:
    async with batcher_of(engine, characters=12) as batcher:
        await batcher.encode(["a" * 40, *["b" * 6] * 4, *["c"] * 4])

    assert [len(batch) for batch in engine.batches] == [1, 2, 2, 4]


async def test_a_long_request_does_not_hold_up_a_short_one_behind_it(engine: LetterEngine) -> None:
    async with batcher_of(engine, queue=1000) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["long"] * 400, ["short"])
            await settled(batcher, 401)
        await asyncio.gather(*asked)

    assert "short" in engine.batches[2]


async def test_a_poisoned_batch_fails_only_the_caller_with_the_poison(engine: LetterEngine) -> None:
    async with batcher_of(engine) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a"], ["b", "poison"], ["c"])
            await settled(batcher, 4)
        good, bad, also_good = await asyncio.gather(*asked, return_exceptions=True)
        after = await batcher.encode(["d"])

    assert isinstance(bad, ModelFailed)
    assert not isinstance(good, BaseException)
    assert not isinstance(also_good, BaseException)
    assert after.tokens == [1]


async def test_what_is_left_of_a_failed_request_is_not_computed(engine: LetterEngine) -> None:
    async with batcher_of(engine) as batcher:
        with pytest.raises(ModelFailed):
            await batcher.encode(["poison", *["a"] * 100])

        assert batcher.queued_texts == 0
    assert len(engine.batches) == 1


async def test_a_full_queue_refuses_at_once_and_admits_again_when_it_is_drained(engine: LetterEngine) -> None:
    async with batcher_of(engine, queue=3) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a", "b"])
            await settled(batcher, 2)
            with pytest.raises(QueueFull, match="2 texts wait"):
                await batcher.encode(["c", "d"])
        await asyncio.gather(*asked)
        answer = await batcher.encode(["c", "d"])

    assert answer.tokens == [1, 1]


async def test_a_request_larger_than_the_queue_is_admitted_when_nothing_waits(engine: LetterEngine) -> None:
    async with batcher_of(engine, queue=3) as batcher:
        answer = await batcher.encode(["a"] * 10)

    assert answer.tokens == [1] * 10


async def test_the_texts_of_a_cancelled_caller_are_dropped(engine: LetterEngine) -> None:
    async with batcher_of(engine) as batcher:
        async with busy(batcher, engine):
            gone, stays = ask(batcher, ["gone"], ["stays"])
            await settled(batcher, 2)
            gone.cancel()
            await settled(batcher, 1)
        await stays

    assert engine.batches == [["first"], ["stays"]]


async def test_a_caller_cancelled_while_its_batch_runs_disturbs_nobody(engine: LetterEngine) -> None:
    async with batcher_of(engine) as batcher:
        async with busy(batcher, engine) as first:
            first.cancel()
        answer = await batcher.encode(["a"])

    assert answer.tokens == [1]


async def test_leaving_finishes_what_was_admitted_and_admits_no_more(engine: LetterEngine) -> None:
    batcher = batcher_of(engine)
    leaving: AbstractAsyncContextManager[Batcher] = batcher
    async with leaving, busy(batcher, engine):
        asked = ask(batcher, ["a"] * 10, ["b"])
        await settled(batcher, 11)
        closing = asyncio.create_task(batcher.__aexit__())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await batcher.encode(["c"])

    await closing
    assert all(task.done() and task.exception() is None for task in asked)


def test_a_full_queue_is_a_429_with_retry_after(engine: LetterEngine, wait_until: Callable[..., None]) -> None:
    app = create_app(HermeticSettings(max_queued_texts=1), engine=engine)
    with served(app) as address, ThreadPoolExecutor() as callers:
        engine.hold()
        first = callers.submit(post, address, "first")
        wait_until(engine.begun.is_set)
        second = callers.submit(post, address, "second")
        wait_until(lambda: app.state.service.models["letters"].queued_texts == 1)
        third = post(address, "third")
        engine.release()

        assert (first.result().status_code, second.result().status_code) == (200, 200)
    assert third.status_code == 429
    assert third.headers["retry-after"] == "1"
    assert third.json()["error"]["type"] == "rate_limit_error"


def test_a_client_that_hangs_up_leaves_the_queue(engine: LetterEngine, wait_until: Callable[..., None]) -> None:
    app = create_app(HermeticSettings(), engine=engine)
    with served(app) as address, ThreadPoolExecutor() as callers:
        engine.hold()
        first = callers.submit(post, address, "first")
        wait_until(engine.begun.is_set)
        with socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0)) as caller:
            body = b'{"model": "letters", "input": "gone"}'
            caller.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            wait_until(lambda: app.state.service.models["letters"].queued_texts == 1)
        wait_until(lambda: app.state.service.models["letters"].queued_texts == 0)
        engine.release()

        assert first.result().status_code == 200
    assert engine.batches == [["first"]]


def test_a_text_the_model_cannot_bear_is_a_500_and_the_next_one_is_fine(engine: LetterEngine) -> None:
    with served(create_app(HermeticSettings(), engine=engine)) as address:
        bad, good = post(address, "poison"), post(address, "a")

    assert (bad.status_code, good.status_code) == (500, 200)
    assert bad.json()["error"]["code"] == "model_failed"


def post(address: str, text: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/embeddings", json={"model": "letters", "input": text}, timeout=30)
