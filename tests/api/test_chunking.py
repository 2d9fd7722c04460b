"""Chunking: what holds of every text, held against an oracle that knows the whole text, and documents to read."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.chunking import CHARACTERS_PER_TOKEN, Chunk, Kind, split
from api.tokenizers import Tokenizer, tokenizer_for

LETTERS_PER_TOKEN = 3


class LetterTokenizer:
    """Three letters of a word to a token, as if each word were counted alone."""

    def count(self, text: str) -> int:
        return sum(-(-len(word) // LETTERS_PER_TOKEN) for word in text.split())


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return tokenizer_for("all-minilm-l6-v2")


@pytest.fixture(scope="module")
def cl100k() -> Tokenizer:
    return tokenizer_for("text-embedding-3-small")


@pytest.fixture(scope="module", params=["letters", "minilm", "cl100k"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return LetterTokenizer() if request.param == "letters" else request.getfixturevalue(request.param)


words = st.sampled_from(
    [
        "a",
        "of",
        "Über",
        "retrieval",
        "don't",
        "x=f(y);",
        "3.14",
        "(see",
        "below).",
        "End.",
        "What?",
        "antidisestablishment",
    ]
)
odd_words = st.one_of(
    st.text(min_size=1, max_size=12),
    st.text(alphabet="天地玄黄宇宙洪荒，。「」のカー", min_size=1, max_size=40),
    st.integers(30, 400).map(lambda length: "x1Z" * length),
    st.sampled_from(["e\u0301" * 9, "👩\u200d👩\u200d👧" * 5, "[SEP]", "\x00", "\u200b", "\ufeff", "<|endoftext|>"]),
)
gaps = st.one_of(
    st.just(" "),
    st.sampled_from(
        ["\n", "\n\n", "\n## ", "\n\n# ", "\n===\n", "\ndef f():\n    ", "\n\n    ", "\t", "\r\n", "", ".\n\n\n"]
    ),
    st.integers(1, 3000).map(lambda length: " " * length),
)
texts = st.lists(st.one_of(words, words, words, odd_words, gaps, st.just(" ")), max_size=150).map("".join)
prose = st.lists(st.tuples(words, gaps).map("".join), max_size=150).map("".join)
kinds = st.sampled_from(get_args(Kind))
sizes = st.integers(8, 60).flatmap(lambda most: st.tuples(st.just(most), st.integers(0, most // 2)))


def chunks_of(text: str, tokenizer: Tokenizer, *, kind: Kind = "text", size: tuple[int, int]) -> list[Chunk]:
    return list(split([text], kind=kind, max_tokens=size[0], overlap_tokens=size[1], tokenizer=tokenizer))


def uncovered(text: str, chunks: list[Chunk]) -> str:
    """What stands in no chunk."""
    covered = {position for chunk in chunks for position in range(chunk.start, chunk.end)}
    return "".join(character for position, character in enumerate(text) if position not in covered)


def is_cjk(character: str) -> bool:
    scripts = ("\u2e80\u9fff", "\uf900\ufaff", "\uff01\uff9f", "\U00020000\U0003ffff")
    return any(first <= character <= last for first, last in scripts)


def is_inside_word(text: str, position: int) -> bool:
    before, behind = text[position - 1 : position], text[position : position + 1]
    return bool(before) and not (before.isspace() or behind.isspace() or is_cjk(before) or is_cjk(behind))


def word_around(text: str, position: int) -> str:
    start = end = position
    while start and is_inside_word(text, start):
        start -= 1
    while end < len(text) and is_inside_word(text, end):
        end += 1
    return text[start:end]


class TestEveryText:
    @settings(max_examples=40, deadline=None)
    @given(text=texts, kind=kinds, size=sizes)
    def test_no_chunk_is_longer_than_asked(
        self, tokenizer: Tokenizer, text: str, kind: Kind, size: tuple[int, int]
    ) -> None:
        chunks = chunks_of(text, tokenizer, kind=kind, size=size)

        assert all(tokenizer.count(chunk.text) <= size[0] for chunk in chunks)
        assert all(len(chunk.text) <= size[0] * CHARACTERS_PER_TOKEN for chunk in chunks)

    @settings(max_examples=40, deadline=None)
    @given(text=texts, kind=kinds, size=sizes)
    def test_chunks_know_their_place_and_leave_nothing_out(
        self, tokenizer: Tokenizer, text: str, kind: Kind, size: tuple[int, int]
    ) -> None:
        chunks = chunks_of(text, tokenizer, kind=kind, size=size)

        assert all(chunk.text == text[chunk.start : chunk.end] and chunk.text.strip() for chunk in chunks)
        assert uncovered(text, chunks).strip() == ""
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert all(one.start < after.start and one.end < after.end for one, after in pairwise(chunks))

    @settings(max_examples=40, deadline=None)
    @given(text=texts, kind=kinds, size=sizes)
    def test_neighbours_share_no_more_than_asked(
        self, tokenizer: Tokenizer, text: str, kind: Kind, size: tuple[int, int]
    ) -> None:
        chunks = chunks_of(text, tokenizer, kind=kind, size=size)

        assert all(tokenizer.count(text[after.start : one.end]) <= size[1] for one, after in pairwise(chunks))

    @settings(max_examples=40, deadline=None)
    @given(text=texts, kind=kinds, size=sizes)
    @example(text="  <|endoftext|>\uff0c", kind="text", size=(8, 0))
    @example(text="\ra<|endoftext|>", kind="text", size=(8, 0))
    def test_a_chunk_begins_inside_a_word_only_if_the_word_is_too_long(
        self, tokenizer: Tokenizer, text: str, kind: Kind, size: tuple[int, int]
    ) -> None:
        starts = [chunk.start for chunk in chunks_of(text, tokenizer, kind=kind, size=size)]
        parted = [word_around(text, start) for start in starts if is_inside_word(text, start)]

        assert all(tokenizer.count(word) > size[0] or len(word) > size[0] * CHARACTERS_PER_TOKEN for word in parted)

    @settings(max_examples=40, deadline=None)
    @given(text=texts, kind=kinds, size=sizes, data=st.data())
    def test_the_pieces_make_no_difference(
        self, tokenizer: Tokenizer, text: str, kind: Kind, size: tuple[int, int], data: st.DataObject
    ) -> None:
        borders = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=20)) | {0, len(text)})
        pieces = (text[start:end] for start, end in pairwise(borders))

        chunks = split(pieces, kind=kind, max_tokens=size[0], overlap_tokens=size[1], tokenizer=tokenizer)

        assert list(chunks) == chunks_of(text, tokenizer, kind=kind, size=size)


@given(text=prose, size=st.tuples(st.integers(100, 200), st.integers(20, 50)))
def test_neighbours_share_nearly_as_much_as_asked(text: str, size: tuple[int, int]) -> None:
    tokenizer = LetterTokenizer()
    chunks = chunks_of(text, tokenizer, size=size)
    dense = [(one, after) for one, after in pairwise(chunks) if "  " not in text[one.start : after.end]]

    assert all(tokenizer.count(text[after.start : one.end]) >= 0.7 * size[1] - 8 for one, after in dense)


@given(text=st.lists(words, max_size=300).map(" ".join))
@example("retrieval " * 500)
def test_chunks_but_the_last_are_filled(text: str) -> None:
    tokenizer = LetterTokenizer()
    filled = [tokenizer.count(chunk.text) for chunk in chunks_of(text, tokenizer, size=(60, 20))[:-1]]

    assert all(count >= 0.7 * 60 - 7 for count in filled)


MARKDOWN = """\
# Returns

Items may be sent back within thirty days. Write to us first. Keep the receipt, please.

## Costs

We pay for the way back if the item was broken. You pay if you have changed your mind.

Late parcels
------------

A parcel that is late counts from the day on which it came to you, not from when it left.
"""

PYTHON = """\
import math

SIZES = [1, 2, 3]

# How far from
# the middle.
@cached
def radius(x, y):
    total = x * x + y * y

    return math.sqrt(total)


class Circle:
    def __init__(self, r):
        self.r = r

    # In square metres.
    def area(self):
        return math.pi * self.r ** 2
"""


def texts_of(text: str, *, kind: Kind, size: tuple[int, int]) -> list[str]:
    return [chunk.text for chunk in chunks_of(text, LetterTokenizer(), kind=kind, size=size)]


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_headings_stay_with_their_text(kind: Kind) -> None:
    chunks = texts_of(MARKDOWN, kind=kind, size=(50, 0))

    assert [chunk.splitlines()[0] for chunk in chunks] == ["# Returns", "## Costs", "Late parcels"]


def test_a_heading_is_not_left_behind_where_a_paragraph_ends() -> None:
    text = "One two three four five. " * 4 + "\n\n# First\n\n## Second\n\n" + "Six seven eight nine ten. " * 4

    chunks = texts_of(text, kind="markdown", size=(38, 0))

    assert chunks[0].endswith("five.")
    assert chunks[1].startswith("# First\n\n## Second\n\nSix")


def test_code_is_cut_before_definitions() -> None:
    chunks = texts_of(PYTHON, kind="code", size=(50, 0))

    assert [chunk.splitlines()[0] for chunk in chunks] == ["import math", "class Circle:"]


def test_comments_and_decorators_stay_with_what_they_belong_to() -> None:
    code = "".join(f"# Number {i}.\n@cached\ndef f{i}():\n    return {i}\n" for i in range(20))

    chunks = texts_of(code, kind="code", size=(50, 0))

    assert len(chunks) > 4
    assert all(chunk.startswith("# Number") for chunk in chunks)


def test_code_without_blank_lines_is_cut_at_definitions_and_keeps_its_indentation() -> None:
    methods = "".join(f"    def method{i}(self):\n        return {i} * 1000\n" for i in range(6))

    chunks = texts_of(methods, kind="code", size=(30, 0))

    assert all(chunk.startswith("    def method") for chunk in chunks[1:])


def test_prose_is_cut_between_paragraphs_and_else_between_sentences() -> None:
    sentence = "The bread is still warm then. "
    text = sentence * 3 + "\n\n" + sentence * 7

    chunks = texts_of(text, kind="text", size=(41, 0))

    assert [chunk.count("The") for chunk in chunks] == [3, 4, 3]
    assert all(chunk.startswith("The") and chunk.endswith("then.") for chunk in chunks)


def test_an_overlap_begins_at_a_sentence_where_it_can() -> None:
    chunks = texts_of("The bread is still warm then. " * 12, kind="text", size=(50, 25))

    assert all(chunk.startswith("The") for chunk in chunks)


def test_chinese_is_cut_at_characters_but_not_before_a_full_stop(minilm: Tokenizer) -> None:
    text = "天地玄黄，宇宙洪荒。" * 100

    chunks = chunks_of(text, minilm, size=(64, 16))

    assert all(45 <= minilm.count(chunk.text) <= 64 for chunk in chunks[:-1])
    assert all(chunk.text[-1] == "。" and chunk.text[0] not in "，。" for chunk in chunks)


def test_a_word_of_a_hundred_thousand_letters_is_cut_inside(cl100k: Tokenizer) -> None:
    text = "before " + "x1Z9" * 25_000 + " behind"

    chunks = chunks_of(text, cl100k, size=(800, 400))

    assert chunks[0].text == "before"
    assert all(cl100k.count(chunk.text) > 700 for chunk in chunks[1:-1])
    assert chunks[-1].text.endswith("x1Z9 behind")


def test_a_letter_keeps_its_accents() -> None:
    chunks = chunks_of("e\u0301\u0323" * 500, LetterTokenizer(), size=(20, 10))

    assert len(chunks) > 1
    assert all(chunk.text.startswith("e") and chunk.text.endswith("\u0323") for chunk in chunks)


@pytest.mark.parametrize("text", ["", " ", "\n" * 100_000, "\t \r\n\u3000"])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_blanks_give_no_chunk(text: str, kind: Kind) -> None:
    assert chunks_of(text, LetterTokenizer(), kind=kind, size=(100, 50)) == []


def test_many_blanks_part_chunks() -> None:
    chunks = chunks_of("before" + " " * 1_000_000 + "behind", LetterTokenizer(), size=(100, 50))

    assert [(chunk.text, chunk.start) for chunk in chunks] == [("before", 0), ("behind", 1_000_006)]


def test_a_long_text_is_read_as_far_as_it_is_needed() -> None:
    read: list[int] = []

    def pieces() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield "The bread is still warm then. " * 100

    first = next(split(pieces(), kind="text", max_tokens=100, overlap_tokens=50, tokenizer=LetterTokenizer()))

    assert first.start == 0
    assert len(read) < 30


def test_a_long_text_is_not_held() -> None:
    pieces = (("x" * 200 + "\n") * 100 for _ in range(200))
    tracemalloc.start()
    count = sum(1 for _ in split(pieces, kind="text", max_tokens=1600, overlap_tokens=0, tokenizer=LetterTokenizer()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count > 500
    assert peak < 1_000_000  # bytes; the text has 4,000,000


def test_a_file_in_one_piece_and_in_lines_gives_the_same_chunks() -> None:
    text = PYTHON * 50
    lines = text.splitlines(keepends=True)

    chunks = split(lines, kind="code", max_tokens=100, overlap_tokens=50, tokenizer=LetterTokenizer())

    assert list(chunks) == chunks_of(text, LetterTokenizer(), kind="code", size=(100, 50))
