"""The queue alone, as a model's thread and the event loop see it."""

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.engines import Shape, Tokens, as_asked
from embedder.engines.openvino_session import few_shapes
from embedder.queue import PATIENCE, Entry, Job, Queue

Shaping = Callable[[int, int], Shape]

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=30)


def queue_of(*, tokens: int = 100, texts: int = 1000) -> Queue:
    return Queue(max_batch_tokens=tokens, max_batch_texts=texts)


def put(queue: Queue, lengths: Sequence[int], *, name: str = "") -> Job:
    """Queue texts of some lengths; those of one name and length are identical."""
    job = Job()
    queue.put(job, [((name or id(job), position, length), tokens(length)) for position, length in enumerate(lengths)])
    return job


def tokens(length: int) -> Tokens:
    return Tokens([1] * length, length)


def taken(queue: Queue) -> list[list[Entry]]:
    """Every batch, until nothing waits."""
    queue.close()
    batches: list[list[Entry]] = []
    while batch := queue.take():
        batches.append(batch)
    return batches


def padded(batch: list[Entry]) -> int:
    return len(batch) * max(entry.length for entry in batch)


def density(texts: list[int], shape: Shaping, overhead: int) -> float:
    rows, columns = shape(len(texts), max(texts))
    return sum(texts) / (rows * columns + overhead) if rows * columns <= 512 else 0


@given(st.lists(lengths, min_size=1, max_size=8), st.integers(1, 1000), st.integers(1, 64))
@settings(deadline=None)
def test_each_text_is_taken_once_and_no_batch_is_too_large(requests: list[list[int]], budget: int, most: int) -> None:
    queue = queue_of(tokens=budget, texts=most)
    jobs = [put(queue, request) for request in requests]
    batches = taken(queue)

    everything = [entry for batch in batches for entry in batch]
    assert sorted(entry.length for entry in everything) == sorted(length for request in requests for length in request)
    assert len(set(map(id, everything))) == len(everything)
    assert all(len(batch) <= most and (len(batch) == 1 or padded(batch) <= budget) for batch in batches)
    assert queue.backlog.tokens == 0
    assert not any(job.remaining_tokens for job in jobs)


@given(lengths)
def test_a_batch_is_little_padding(request: list[int]) -> None:
    queue = queue_of(tokens=10_000)
    put(queue, request)

    for batch in taken(queue):
        longest, shortest = max(entry.length for entry in batch), min(entry.length for entry in batch)
        assert longest - shortest <= longest // 2 + 32


def test_queries_that_wait_together_are_computed_with_little_padding() -> None:
    queue = queue_of(tokens=1024)
    for length in [*range(9, 25)] * 4:
        put(queue, [length])
    batches = taken(queue)

    assert sum(map(padded, batches)) < 1.12 * sum(entry.length for batch in batches for entry in batch)
    assert len(batches) <= 6


@given(
    st.lists(st.integers(16, 24), min_size=1, max_size=40),
    st.sampled_from([as_asked, few_shapes]),
    st.sampled_from([32, 64]),
)
@settings(deadline=None)
def test_a_batch_is_the_densest_that_the_first_text_can_be_in(
    waiting: list[int], shape: Shaping, overhead: int
) -> None:
    queue = Queue(max_batch_tokens=512, max_batch_texts=1000, shape=shape, overhead_tokens=overhead)
    for length in waiting:
        put(queue, [length])
    first, others = waiting[0], sorted(waiting[1:], reverse=True)
    fitting = [[length for length in others if length <= longest] for longest in waiting if longest >= first]
    possible = [[first, *some[:number]] for some in fitting for number in range(len(some) + 1)]

    batch = [entry.length for entry in queue.take()]

    assert density(batch, shape, overhead) == max(density(texts, shape, overhead) for texts in possible)


@given(lengths, st.integers(1, 1000))
@settings(deadline=None)
def test_no_batch_is_computed_larger_than_allowed(request: list[int], budget: int) -> None:
    queue = Queue(max_batch_tokens=budget, max_batch_texts=1000, shape=few_shapes)
    put(queue, request)

    for batch in taken(queue):
        rows, columns = few_shapes(len(batch), max(entry.length for entry in batch))
        assert len(batch) == 1 or rows * columns <= budget


def test_a_short_request_is_before_the_rest_of_a_long_one() -> None:
    queue = queue_of()
    put(queue, [20] * 50)
    queue.take()
    short = put(queue, [5])

    assert [entry.claims for entry in queue.take()] == [{short: [0]}]


def test_short_requests_are_taken_as_they_came() -> None:
    queue = queue_of(texts=1)
    jobs = [put(queue, [length]) for length in (30, 100, 5, 20)]

    assert [next(iter(batch[0].claims)) for batch in taken(queue)] == jobs


def test_of_longer_requests_the_one_of_half_the_length_is_first() -> None:
    queue = queue_of(texts=1)
    longer, long, short = (put(queue, [length]) for length in (1000, 500, 100))

    assert [next(iter(batch[0].claims)) for batch in taken(queue)] == [short, long, longer]


def test_short_requests_share_a_batch_that_no_long_one_joins() -> None:
    queue = queue_of()
    long = put(queue, [10] * 50)
    short = [put(queue, [length]) for length in (9, 10, 11)]

    assert {job for entry in queue.take() for job in entry.claims} == set(short)
    assert {job for entry in queue.take() for job in entry.claims} == {long}


def test_a_long_request_has_its_turn_among_any_number_of_short_ones() -> None:
    queue = queue_of(texts=1)
    long = put(queue, [20] * 50)
    for _ in range(5 * PATIENCE):
        put(queue, [5])
    leaders = [next(iter(queue.take()[0].claims)) for _ in range(4 * PATIENCE)]

    assert leaders.count(long) == 4


def test_an_identical_text_is_taken_once_for_all_that_want_it() -> None:
    queue = queue_of()
    jobs = [put(queue, [7], name="same") for _ in range(3)]
    batches = taken(queue)

    assert [[entry.claims for entry in batch] for batch in batches] == [[{job: [0] for job in jobs}]]


def test_a_text_that_is_being_computed_is_not_computed_again_until_it_is_done() -> None:
    queue = queue_of()
    put(queue, [7], name="same")
    batch = queue.take()
    late = put(queue, [7], name="same")

    assert late in batch[0].claims
    assert queue.backlog.tokens == 0
    queue.finish(batch)
    put(queue, [7], name="same")
    assert queue.backlog.tokens == 7


def test_what_a_dropped_request_shares_with_another_stays() -> None:
    queue = queue_of()
    gone = put(queue, [7, 8, 9], name="same")
    stays = put(queue, [7], name="same")
    queue.drop(gone)

    assert queue.backlog.tokens == 7
    assert [[entry.claims for entry in batch] for batch in taken(queue)] == [[{stays: [0]}]]


def test_a_short_request_takes_what_it_shares_with_a_long_one() -> None:
    queue = queue_of()
    long = put(queue, [20] * 50, name="same")
    short = put(queue, [20], name="same")

    assert [entry.claims for entry in queue.take()] == [{long: [0], short: [0]}]
    assert long.remaining_tokens == 49 * 20
