import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.admission import Limits
from embedder.batching import INLINE_CHARACTERS, Batcher, BatchReport, Computed
from embedder.engines import Rows, Tokens
from embedder.errors import InvalidRequest, ModelFailed, QueueFull, ShuttingDown
from tests.embedder.letter_engine import LetterEngine, counts, written_out

texts = st.text("abc", min_size=1, max_size=9)
requests = st.lists(st.lists(texts, min_size=1, max_size=20), min_size=1, max_size=6)


@pytest.fixture
def engine() -> Iterator[LetterEngine]:
    engine = LetterEngine()
    yield engine
    engine.release()


@asynccontextmanager
async def batching(
    *engines: LetterEngine,
    batch: int = 100,
    queue: int = 1_000_000,
    reports: list[BatchReport] | None = None,
    takes_turns: bool = False,
) -> AsyncGenerator[Batcher]:
    limits = Limits(max_batch_tokens=batch, max_queued_tokens=queue)
    on_batch = reports.append if reports is not None else None
    batcher = Batcher(engines, limits=limits, name="letters", on_batch=on_batch, takes_turns=takes_turns)
    try:
        yield batcher
    finally:
        await batcher.close()


@asynccontextmanager
async def busy(batcher: Batcher, engine: LetterEngine) -> AsyncGenerator["asyncio.Task[Computed]"]:
    """Enter with the model held up by a first text; whatever is asked for inside waits until it is released."""
    engine.hold()
    first = asyncio.create_task(batcher.compute(["first"]))
    assert await asyncio.to_thread(engine.begun.wait, 10)
    try:
        yield first
    finally:
        engine.release()
        await asyncio.wait([first])


def ask(batcher: Batcher, *requests: Sequence[str]) -> list["asyncio.Task[Computed]"]:
    return [asyncio.create_task(batcher.compute(texts)) for texts in requests]


async def settled(batcher: Batcher, waiting: int) -> None:
    async with asyncio.timeout(10):
        while batcher.queued_tokens != waiting:  # noqa: ASYNC110  # a number to watch, not an event
            await asyncio.sleep(0)


@given(requests, st.integers(1, 30))
@settings(deadline=None, max_examples=50)
async def test_each_caller_gets_its_own_answer_in_its_own_order(requests: list[list[str]], batch: int) -> None:
    engine = LetterEngine()
    async with batching(engine, batch=batch) as batcher:
        answers = await asyncio.gather(*map(batcher.compute, requests))

    for request, answer in zip(requests, answers, strict=True):
        assert np.allclose(written_out(answer), [counts(text) for text in request])
        assert answer.tokens == sum(map(len, request))


async def test_replicas_share_the_work_and_the_answers_are_the_same() -> None:
    replicas = [LetterEngine(), LetterEngine()]
    request = ["abc" * length for length in range(1, 60)]
    async with batching(*replicas, batch=10) as batcher:
        for replica in replicas:
            replica.hold()
        asked = ask(batcher, request)
        for replica in replicas:
            assert await asyncio.to_thread(replica.begun.wait, 10)
        for replica in replicas:  # not before: one of them could do all the rest alone
            replica.release()
        answer = await asked[0]

    assert np.allclose(written_out(answer), [counts(text) for text in request])


async def test_what_waits_while_the_model_is_busy_is_one_batch(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a"], ["b", "c"], ["d"])
            await settled(batcher, 4)
        await asyncio.gather(*asked)

    assert [sorted(batch) for batch in engine.batches] == [["first"], ["a", "b", "c", "d"]]


async def test_on_a_single_core_who_asks_again_at_once_is_in_the_next_batch(engine: LetterEngine) -> None:
    async def ask_twice(first: str, second: str) -> None:
        await batcher.compute([first])
        await batcher.compute([second])

    async with batching(engine, batch=2, takes_turns=True) as batcher:
        async with busy(batcher, engine):
            callers = [asyncio.create_task(ask_twice(*letters)) for letters in ("ab", "cd", "ef")]
            await settled(batcher, 3)
        await asyncio.gather(*callers)

    assert [len(batch) for batch in engine.batches] == [1, 2, 2, 2]


async def test_texts_of_like_length_share_a_batch(engine: LetterEngine) -> None:
    async with batching(engine, batch=10_000) as batcher:
        await batcher.compute(["a" * 99, "b", "c" * 98, "d"])

    assert [sorted(batch) for batch in engine.batches] == [["a" * 99, "c" * 98], ["b", "d"]]


async def test_a_request_of_2000_long_texts_does_not_hold_up_a_single_one_behind_it(engine: LetterEngine) -> None:
    limits = Limits()
    async with batching(engine, batch=limits.max_batch_tokens, queue=limits.max_queued_tokens) as batcher:
        engine.hold()
        asked = ask(batcher, [f"{number:04}" * 64 for number in range(2000)])
        assert await asyncio.to_thread(engine.begun.wait, 10)
        assert batcher.queued_tokens > limits.max_queued_tokens
        asked += ask(batcher, ["short"])
        await settled(batcher, batcher.queued_tokens + len("short"))
        engine.release()
        await asyncio.gather(*asked)

    assert engine.batches[1] == ["short"]


async def test_an_identical_text_is_computed_once_for_all_callers_meanwhile(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["first"], ["same", "same"], ["same"])
            await settled(batcher, 4)
        answers = await asyncio.gather(*asked)
        await batcher.compute(["same"])

    assert engine.batches == [["first"], ["same"], ["same"]]
    assert [answer.tokens for answer in answers] == [5, 8, 4]


async def test_the_same_text_behind_another_prompt_is_another(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        answers = await asyncio.gather(batcher.compute(["a"], prompt="b"), batcher.compute(["a"]))

    assert [answer.tokens for answer in answers] == [2, 1]


async def test_a_poisoned_batch_fails_only_the_caller_with_the_poison(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a"], ["b", "poison", "shared"], ["shared"], ["c"])
            await settled(batcher, 15)
        good, bad, sharer, also_good = await asyncio.gather(*asked, return_exceptions=True)
        after = await batcher.compute(["d"])

    assert isinstance(bad, ModelFailed)
    assert not any(isinstance(answer, BaseException) for answer in (good, sharer, also_good))
    assert after.tokens == 1


async def test_a_model_that_answers_too_few_fails_and_answers_again() -> None:
    class Forgetful(LetterEngine):
        def run(self, batch: Sequence[Tokens]) -> Rows:
            return super().run(batch[:1])

    async with batching(Forgetful()) as batcher:
        with pytest.raises(ModelFailed):
            await batcher.compute(["a", "b"])

        assert (await batcher.compute(["c"])).tokens == 1


async def test_what_is_left_of_a_failed_request_is_not_computed(engine: LetterEngine) -> None:
    async with batching(engine, batch=8) as batcher:
        with pytest.raises(ModelFailed):
            await batcher.compute(["poison", *("abcd"[number % 4] for number in range(100))])
        assert batcher.queued_tokens == 0

    assert engine.batches == [["poison"]]


async def test_a_full_queue_refuses_at_once_and_admits_again_when_it_is_drained(engine: LetterEngine) -> None:
    async with batching(engine, queue=3) as batcher:
        async with busy(batcher, engine):
            asked = ask(batcher, ["a", "b"])
            await settled(batcher, 2)
            with pytest.raises(QueueFull, match="2 tokens wait") as caught:
                await batcher.compute(["c", "d"])
            with pytest.raises(QueueFull):
                await batcher.compute(["long" * INLINE_CHARACTERS])
        await asyncio.gather(*asked)
        answer = await batcher.compute(["c", "d"])

    assert int(caught.value.headers["Retry-After"]) >= 1
    assert answer.tokens == 2


async def test_a_request_larger_than_the_queue_is_admitted_when_nothing_waits(engine: LetterEngine) -> None:
    async with batching(engine, queue=3) as batcher:
        answer = await batcher.compute([f"text {number}" for number in range(10)])

    assert answer.tokens == 60


async def test_short_requests_fill_the_queue_for_each_other_behind_a_long_one(engine: LetterEngine) -> None:
    async with batching(engine, batch=10, queue=30) as batcher, busy(batcher, engine):
        asked = ask(batcher, ["long"] * 10, ["short one"], ["short two"], ["short 3rd"])
        await settled(batcher, len("long") + 27)
        with pytest.raises(QueueFull, match="27 tokens wait"):
            await batcher.compute(["late"])
        with pytest.raises(QueueFull, match="31 tokens wait"):
            await batcher.compute(["longer than a batch"])
        asked[1].cancel()
        await settled(batcher, len("long") + 18)
        asked += ask(batcher, ["late"])
        await settled(batcher, len("long") + 22)


async def test_what_is_being_tokenised_counts_as_waiting(engine: LetterEngine) -> None:
    async with batching(engine, queue=500) as batcher, busy(batcher, engine):
        asked = ask(batcher, [f"text {number}" for number in range(1000)])
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await batcher.compute(["late" * 100])
        asked[0].cancel()
        await settled(batcher, 0)


async def test_the_texts_of_a_cancelled_caller_are_dropped(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        async with busy(batcher, engine):
            gone, stays = ask(batcher, ["gone"], ["stays"])
            await settled(batcher, 9)
            gone.cancel()
            await settled(batcher, 5)
        await stays

    assert engine.batches == [["first"], ["stays"]]


async def test_a_caller_cancelled_while_its_batch_runs_disturbs_nobody(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        async with busy(batcher, engine) as first:
            first.cancel()
        answer = await batcher.compute(["a"])

    assert answer.tokens == 1


async def test_closing_finishes_what_was_admitted_and_admits_no_more(engine: LetterEngine) -> None:
    async with batching(engine) as batcher, busy(batcher, engine):
        asked = ask(batcher, ["a"] * 10, ["b"], ["c" * INLINE_CHARACTERS, "d"])
        await settled(batcher, 1 + 1 + 1000 + 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown):
            await batcher.compute(["c"])

    await closing
    assert all(task.done() and task.exception() is None for task in asked)
    assert engine.is_closed


async def test_a_text_that_is_too_long_is_cut_and_told(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        answer = await batcher.compute(["a", "b" * 1001])

    assert answer.cut == 1
    assert answer.tokens == 1 + 1000


async def test_a_text_that_is_too_long_is_refused_where_it_may_not_be_cut(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        with pytest.raises(InvalidRequest, match="position 1 has 1001 tokens; the model reads at most 1000"):
            await batcher.compute(["a", "b" * 1001], refuses_long=True)

    assert engine.batches == []


async def test_a_request_may_have_fewer_tokens_read(engine: LetterEngine) -> None:
    async with batching(engine) as batcher:
        answer = await batcher.compute(["abcdef", "ab"], max_tokens=4)

    assert np.allclose(written_out(answer)[0], counts("abcd"))
    assert (answer.tokens, answer.cut) == (6, 1)


async def test_batches_are_reported_with_their_padding(engine: LetterEngine) -> None:
    reports: list[BatchReport] = []
    async with batching(engine, reports=reports) as batcher:
        await batcher.compute(["abc", "a"])

    assert [(report.texts, report.tokens, report.padded_tokens) for report in reports] == [(2, 4, 6)]
