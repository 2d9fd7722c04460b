"""Text into chunks that overlap: none has too many tokens, and each begins and ends where the text allows it best.

The text comes in pieces and is held a window at a time. Where it is cut depends on the text alone, not on the pieces.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from api.text_window import CJK, Break, Window
from api.tokenizers import Tokenizer

Kind = Literal["text", "markdown", "html", "code"]

CHARACTERS_PER_TOKEN = 64  # more than any language has; ends a chunk of blanks, or of words that count as one token

_SEARCHED = 0.3  # of a chunk: so much shorter than asked it may be, to end where a paragraph does
_OVERLAP_SEARCHED = 0.25  # of an overlap, likewise
_LOOKAHEAD = 512  # characters behind a cut that are looked at, at most
_LONGEST_INDENT = 64
_LONGEST_HEADING = 400

# What must not begin or end a line in the scripts without spaces.
_NOT_FIRST = (
    r"\u3001\u3002\uff0c\uff0e\u30fb\uff1a\uff1b\uff1f\uff01\u309b\u309c\u30fc\u3005\u300d\u300f\u3011\uff09"
    + (r"\u3015\u3009\u300b\u2019\u201d\u2026\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef" + r",.;:!?)\]}\"'")
)
_NOT_LAST = r"\u300c\u300e\uff08\u3010\u300a\u3008\u3014\u2018\u201c(\[{\"'"

# Where a chunk may end.
_WORD = Break(
    rf"(?<=\S)(?=\s)"
    rf"|(?<=[{CJK}])(?<![{_NOT_LAST}])(?=[^\s{_NOT_FIRST}])"
    rf"|(?<=[^\s{_NOT_LAST}])(?![{_NOT_FIRST}])(?=[{CJK}])",
    lookahead=1,
)
_WORD_AT_WORST = Break(rf"(?<=\S)(?=\s)|(?<=[{CJK}])(?=\S)|(?<=\S)(?=[{CJK}])", lookahead=1)
_SENTENCE = Break(
    r"[.!?\u2026][\"'\u201d\u2019)\]]{0,3}(?=\s{1,32}[^\sa-z])|[\u3002\uff01\uff1f][\u201d\u2019\u300d\u300f\uff09]{0,3}",
    lookahead=32,
)
_LINE = Break(r"(?=\n)", lookahead=1)
_PARAGRAPH = Break(r"(?=\n[^\S\n]{0,64}\n)", lookahead=66)
_HEADING = Break(
    r"(?=\n {0,3}#{1,6}[ \t]|\n\S[^\n]{0,200}\n(?:={2,200}|-{2,200})[^\S\n]{0,64}\n)", lookahead=_LOOKAHEAD
)
_DEFINITION_LINE = (
    r"[^\S\n]{0,64}(?:@\w|(?:(?:abstract|async|const|default|export|final|inline|internal|open|override|private"
    r"|protected|pub|public|sealed|static|unsafe|virtual)\s{1,8}){0,4}"
    r"(?:class|def|defp|enum|fn|fun|func|function|impl|interface|mod|module|namespace|proc|sub|struct|trait|type)\b)"
)
_BLANK_LINES = r"\n[^\S\n]{0,64}\n(?:[^\S\n]{0,64}\n){0,8}"
_OUTER_CODE = Break(rf"(?={_BLANK_LINES}[^\s)\]}}])", lookahead=128)
_DEFINITION_BEHIND_BLANK = Break(rf"(?={_BLANK_LINES}{_DEFINITION_LINE})", lookahead=256)
_DEFINITION = Break(rf"(?=\n{_DEFINITION_LINE})", lookahead=128)

_PROSE = (_PARAGRAPH, _SENTENCE, _LINE)
_BREAKS: dict[Kind, tuple[Break, ...]] = {  # the best first
    "text": _PROSE,
    "markdown": (_HEADING, *_PROSE),
    "html": (_HEADING, *_PROSE),  # its text was extracted with headings as Markdown has them
    "code": (_OUTER_CODE, _DEFINITION_BEHIND_BLANK, _PARAGRAPH, _DEFINITION, _LINE),
}

# Lines that belong to those below them: headings; comments and decorators.
_LEADING_HEADING = re.compile(r" {0,3}#{1,6}[ \t]|(?:={2,}|-{2,})\s*$")
_UNDERLINE = re.compile(r"(?:={2,}|-{2,})\s*$")
_LEADING_CODE = re.compile(r"\s*(?:@\w|#|//|/\*|\*|--|\[\w|template\b)")


@dataclass(frozen=True)
class Chunk:
    text: str
    index: int
    start: int  # characters from the beginning of the whole text
    end: int


def split(
    text: Iterable[str], *, kind: Kind, max_tokens: int, overlap_tokens: int, tokenizer: Tokenizer
) -> Iterator[Chunk]:
    """Cut a text into chunks, in order, that cover all of it but the blanks around them.

    A chunk begins inside a word only if that word does not fit into a chunk, and has more than `max_tokens` only if it
    is a single character.

    Args:
        text: pieces of one text, cut anywhere.
        kind: what to look for: paragraphs and sentences, headings too, or blank lines and definitions.
        max_tokens: the most that `tokenizer` counts in a chunk.
        overlap_tokens: the most that it counts in the end of a chunk that the next one repeats.
        tokenizer: of the model that will read the chunks.
    """
    return _Splitter(Window(text, tokenizer), kind, max_tokens, overlap_tokens).chunks()


class _Splitter:
    def __init__(self, window: Window, kind: Kind, max_tokens: int, overlap_tokens: int) -> None:
        self._window = window
        self._kind: Kind = kind
        self._max_tokens = max_tokens
        self._overlap_tokens = overlap_tokens
        self._most_characters = max_tokens * CHARACTERS_PER_TOKEN

    def chunks(self) -> Iterator[Chunk]:
        window = self._window
        index = 0
        is_inside_word = False  # whether the text is cut inside a word at `unread`, which is too long for a chunk then
        unread = window.find_text(0)
        start = self._indentation(unread, floor=0)
        while unread is not None and start is not None:
            cut, is_inside_word = self._find_end(start, unread, is_inside_word=is_inside_word)
            if cut is None:  # what it repeats leaves no room for another word
                start = unread
                continue
            text = window.slice(start, cut).rstrip()
            end = start + len(text)
            yield Chunk(text, index, start, end)
            index += 1
            overlap = self._find_overlap(start, end, is_inside_word=is_inside_word)
            window.forget(cut if overlap is None else overlap)
            unread = window.find_text(cut, most_blanks=self._most_characters)
            start = self._indentation(unread, floor=cut)
            if unread is not None and overlap is not None and unread - overlap < self._most_characters:
                start = overlap

    def _indentation(self, first: int | None, *, floor: int) -> int | None:
        """Where the indentation before a character begins, in code; else the character."""
        if first is None or self._kind != "code":
            return first
        line = self._window.line_start(first, floor=max(floor, first - _LONGEST_INDENT))
        return first if line is None else line

    def _find_end(self, start: int, unread: int, *, is_inside_word: bool) -> tuple[int | None, bool]:
        """Find where the chunk that begins at `start` ends, beyond `unread`, and whether that is inside a word."""
        window = self._window
        budget: float = self._max_tokens
        while True:
            limit = window.position_behind(start, budget, most=self._most_characters)
            window.reach(limit + _LOOKAHEAD)
            cut = limit if limit == window.end else self._best_break(start, unread, limit)
            is_inside = cut is None
            if cut is None:
                if start < unread and not is_inside_word:
                    return None, False
                cut = self._whole_word(start, limit) if start == unread else None
                if cut is not None:
                    return cut, False
                cut = self._whole_character(limit, start)
            count = window.count(start, cut)
            if count <= self._max_tokens or cut <= start + 1:
                return (cut, is_inside) if cut > unread else (None, is_inside_word)
            budget = min(0.95 * budget, 0.98 * self._max_tokens * window.estimate(start, cut) / count)

    def _best_break(self, start: int, unread: int, limit: int) -> int | None:
        window = self._window
        near = window.position_behind(start, (1 - _SEARCHED) * window.estimate(start, limit), most=limit - start)
        near = max(near, unread)
        for place in _BREAKS[self._kind]:
            cut = window.last(place, near, limit)
            if cut is not None:
                return self._leave_leading_lines(cut, unread if self._kind != "code" else near)
        cut = window.last(_WORD, unread, limit) or window.last(_WORD_AT_WORST, unread, limit)
        return cut if cut is None else self._leave_leading_lines(cut, unread)

    def _leave_leading_lines(self, cut: int, floor: int) -> int:
        """Move a cut before the lines that belong to those behind it, if there is text between them and the floor."""
        if self._kind == "text":
            return cut
        leading = _LEADING_CODE if self._kind == "code" else _LEADING_HEADING
        moved = cut
        while True:
            tail = self._window.slice(max(floor, moved - _LONGEST_HEADING), moved).rstrip()
            above, newline, line = tail.rpartition("\n")
            if not newline or not leading.match(line):
                return moved if moved > floor else cut
            if leading is _LEADING_HEADING and _UNDERLINE.match(line):
                above = above.rpartition("\n")[0]
            if not above.strip():
                return cut
            moved = max(floor, moved - _LONGEST_HEADING) + len(above)

    def _whole_word(self, start: int, limit: int) -> int | None:
        """The end of a word that reaches beyond the estimated limit and fits into a chunk all the same."""
        window = self._window
        farthest = window.position_behind(start, 1.25 * self._max_tokens + 2, most=self._most_characters)
        window.reach(farthest + _LOOKAHEAD)
        farthest = min(farthest, window.end)
        end = window.first(_WORD_AT_WORST, limit, farthest)
        if end is None and farthest == window.end:
            end = farthest
        return end if end is not None and window.count(start, end) <= self._max_tokens else None

    def _whole_character(self, position: int, start: int) -> int:
        """Move a cut inside a word before the character that combining marks and joiners belong to."""
        moved = position
        while moved > start + 1 and _continues(self._window.slice(moved - 1, moved + 1)):
            moved -= 1
        return moved if moved > start + 1 else max(position, start + 1)

    def _find_overlap(self, start: int, end: int, *, is_inside_word: bool) -> int | None:
        """Find where the next chunk begins to repeat the end of this one; None if it has nothing to repeat."""
        window = self._window
        budget: float = self._overlap_tokens
        while budget >= 1:
            most = min(end - start - 1, self._overlap_tokens * CHARACTERS_PER_TOKEN)
            lowest = window.position_before(end, budget, most=most)
            if lowest >= end:
                return None
            begin = self._best_begin(lowest, end)
            if begin is None:
                if not is_inside_word:
                    return None
                begin = self._whole_character(lowest, start)
            count = window.count(begin, end)
            if count <= self._overlap_tokens and start < begin < end:
                return begin
            budget = min(0.9 * budget, 0.98 * self._overlap_tokens * budget / max(count, 1))
        return None

    def _best_begin(self, lowest: int, end: int) -> int | None:
        near = lowest + int(_OVERLAP_SEARCHED * (end - lowest))
        for place, highest in (*((place, near) for place in _BREAKS[self._kind]), (_WORD, end - 1)):
            found = self._window.first(place, lowest - 1, highest)
            begin = None if found is None else self._indentation(self._window.find_text(found), floor=found)
            if begin is not None and lowest <= begin <= max(near, highest):
                return begin
        return None


def _continues(pair: str) -> bool:
    """Whether the second of two characters is drawn with the first."""
    return len(pair) == 2 and (
        unicodedata.category(pair[1]).startswith("M")
        or pair[1] in "\u200d\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
        or pair[0] == "\u200d"
    )
