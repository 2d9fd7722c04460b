"""Who may wait for a model. Judged by tokens, which are estimated until a request has been tokenised."""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from embedder.engines import Text
from embedder.errors import QueueFull

CHARACTERS_PER_TOKEN = 4
SPECIAL_TOKENS = 2  # of each text: most models put one before it and one behind
MAX_RETRY_SECONDS = 60


@dataclass(slots=True)
class Backlog:
    """Tokens that wait for a model: of all requests, and of the short ones alone."""

    tokens: int = 0
    short_tokens: int = 0

    def add(self, tokens: int, *, is_short: bool) -> None:
        self.tokens += tokens
        if is_short:
            self.short_tokens += tokens

    @contextmanager
    def holding(self, tokens: int, *, is_short: bool) -> Generator[None]:
        self.add(tokens, is_short=is_short)
        try:
            yield
        finally:
            self.add(-tokens, is_short=is_short)


@dataclass(frozen=True, slots=True)
class Limits:
    max_batch_tokens: int = 1024
    max_batch_texts: int = 256
    max_queued_tokens: int = 262_144

    def is_short(self, tokens: int) -> bool:
        """Whether a request is at most one batch: it goes before all that are longer."""
        return tokens <= self.max_batch_tokens

    def check_room(self, tokens: int, *backlogs: Backlog, name: str, tokens_per_second: float = 0) -> None:
        """Admit a request of so many tokens, any number of them where nothing waits.

        Only short requests are in a short one's way, so no long one makes the queue full for it.

        Raises:
            QueueFull: says when half of what is in the way will be computed.
        """
        is_short = self.is_short(tokens)
        queued = sum(backlog.short_tokens if is_short else backlog.tokens for backlog in backlogs)
        if not queued or queued + tokens <= self.max_queued_tokens:
            return
        seconds = queued / 2 / tokens_per_second if tokens_per_second else 1
        raise QueueFull(
            f"{queued} tokens wait for the model {name!r} already; try again when Retry-After has passed.",
            retry_after_seconds=max(1, min(MAX_RETRY_SECONDS, math.ceil(seconds))),
        )


def estimated_tokens(texts: Sequence[Text], *, window: int | None = None) -> int:
    """What texts may come to, each of them at most as much as the model reads."""
    most = window or math.inf
    return int(sum(min(most, SPECIAL_TOKENS + characters_of(text) // CHARACTERS_PER_TOKEN) for text in texts))


def characters_of(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
