"""The part of a long text that is being looked at, and about how many tokens it has. Positions are the whole text's."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate

from api.tokenizers import Tokenizer, WordCounts

# Chinese and Japanese, of which each character is a word to us: they are written without spaces.
CJK = r"\u2e80-\u2fff\u3001-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff"

_BLOCK_CHARACTERS = 32_768  # read at once, however small the pieces are
# A word with the blanks before it, as tokenizers take them; long ones in parts, so that the window is bounded.
_WORD = re.compile(rf"\s{{0,32}}(?:[{CJK}]{{1,128}}|[^\s{CJK}]{{1,4096}})|\s{{1,32}}")
_TEXT = re.compile(r"\S")


class Break:
    """Where a text may be cut: at the end of each match of a pattern, which may look some characters further."""

    def __init__(self, pattern: str, *, lookahead: int) -> None:
        self._pattern = re.compile(pattern)
        self._lookahead = lookahead  # what does not match by then does not: searches end soon, and windows are bounded

    def ends(self, text: str, low: int, high: int) -> Iterator[int]:
        """The ends of the matches that end behind `low` and not behind `high`."""
        for match in self._pattern.finditer(text, low, high + self._lookahead):
            if match.end() > high:
                return
            if match.end() > low:
                yield match.end()


class Window:
    """Reads a text as far as it is asked for, and forgets it likewise.

    Estimated is the sum of the tokens of single words, which is near the count of the text that they make up.
    """

    def __init__(self, pieces: Iterable[str], tokenizer: Tokenizer) -> None:
        self._blocks = _blocks(pieces)
        self._tokenizer = tokenizer
        self._word_counts = WordCounts(tokenizer.count)
        self._text = ""
        self._start = 0  # of the window
        self._is_whole = False
        # The word that ends at `_ends[i]` is the last of `_tokens[i]` tokens from the beginning of the whole text.
        self._ends = [0]
        self._tokens = [0]

    @property
    def end(self) -> int:
        return self._ends[-1]

    def reach(self, position: int) -> None:
        """Read on until the window contains the position, or the text ends."""
        while self.end < position and not self._is_whole:
            self._read()

    def forget(self, position: int) -> None:
        """Let go of the text before a position, now or later."""
        if position - self._start < max(_BLOCK_CHARACTERS, len(self._text) // 2):  # else each chunk moves the window
            return
        self._text = self._text[position - self._start :]
        self._start = position
        passed = bisect_right(self._ends, position) - 1
        del self._ends[:passed]
        del self._tokens[:passed]

    def slice(self, start: int, end: int) -> str:
        return self._text[start - self._start : end - self._start]

    def count(self, start: int, end: int) -> int:
        """Count the tokens exactly, without the blanks at the end."""
        return self._tokenizer.count(self.slice(start, end).rstrip())

    def estimate(self, start: int, end: int) -> float:
        return self._tokens_before(end) - self._tokens_before(start)

    def position_behind(self, start: int, tokens: float, *, most: int) -> int:
        """About so many tokens behind `start`, at most `most` characters, or where the text ends."""
        goal = self._tokens_before(start) + tokens
        while self._tokens[-1] <= goal and self.end < start + most and not self._is_whole:
            self._read()
        return min(self._position_at(goal), start + most)

    def position_before(self, end: int, tokens: float, *, most: int) -> int:
        return max(self._position_at(self._tokens_before(end) - tokens), end - most)

    def find_text(self, position: int, *, most_blanks: int = _BLOCK_CHARACTERS) -> int | None:
        """The first character at or behind the position that is not blank; None if there is none.

        Forgets what is before it, if there are more blanks between them than asked to keep.
        """
        searched = position
        while True:
            found = _TEXT.search(self._text, searched - self._start, self.end - self._start)
            if found:
                return self._start + found.start()
            if self._is_whole:
                return None
            searched = max(position, self.end)
            if searched - position > most_blanks:
                self.forget(searched)
            self._read()

    def line_start(self, position: int, *, floor: int) -> int | None:
        """Where the position's line begins; None if that is before the floor."""
        found = self._text.rfind("\n", max(floor - 1 - self._start, 0), position - self._start)
        return self._start + found + 1 if found >= 0 else None

    def first(self, place: Break, low: int, high: int) -> int | None:
        """The first place behind `low` and not behind `high`."""
        found = next(place.ends(self._text, max(low - self._start, 0), high - self._start), None)
        return None if found is None else self._start + found

    def last(self, place: Break, low: int, high: int) -> int | None:
        """The last place behind `low` and not behind `high`."""
        reach_back = 128
        while True:
            begin = max(low, high - reach_back)
            found = max(place.ends(self._text, begin - self._start, high - self._start), default=None)
            if found is not None or begin <= low:
                return None if found is None else self._start + found
            reach_back *= 4

    def _tokens_before(self, position: int) -> float:
        i = min(bisect_left(self._ends, position), len(self._ends) - 1)
        if i == 0 or self._ends[i] <= position:
            return self._tokens[i]
        share = (position - self._ends[i - 1]) / (self._ends[i] - self._ends[i - 1])
        return self._tokens[i - 1] + share * (self._tokens[i] - self._tokens[i - 1])

    def _position_at(self, tokens: float) -> int:
        i = bisect_right(self._tokens, tokens)
        if i == 0:
            return self._ends[0]
        if i == len(self._tokens):
            return self.end
        share = (tokens - self._tokens[i - 1]) / (self._tokens[i] - self._tokens[i - 1])
        return self._ends[i - 1] + int(share * (self._ends[i] - self._ends[i - 1]))

    def _read(self) -> None:
        block = next(self._blocks, None)
        self._is_whole = block is None
        self._text += block or ""
        words: list[str] = _WORD.findall(self._text, self.end - self._start)
        if not self._is_whole:
            del words[-1:]  # may go on in the next block
        counts = map(self._word_counts.__getitem__, words)
        self._ends += list(accumulate(map(len, words), initial=self.end))[1:]
        self._tokens += list(accumulate(counts, initial=self._tokens[-1]))[1:]


def _blocks(pieces: Iterable[str]) -> Iterator[str]:
    gathered: list[str] = []
    size = 0
    for piece in pieces:
        for start in range(0, len(piece), _BLOCK_CHARACTERS):
            part = piece[start : start + _BLOCK_CHARACTERS]
            gathered.append(part)
            size += len(part)
            if size >= _BLOCK_CHARACTERS:
                yield "".join(gathered)
                gathered.clear()
                size = 0
    if gathered:
        yield "".join(gathered)
