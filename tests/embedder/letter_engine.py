import threading
from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np

from embedder.engines import Encoded


class LetterEngine:
    """An engine whose vectors count letters: quick, exact, and held up or made to fail as a test wants it.

    It cannot bear the text "poison". While `held`, a batch that has begun waits.
    """

    name = "letters"
    dimensions = len(ascii_lowercase)

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = threading.Event()
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        self.begun.clear()
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def encode(self, texts: Sequence[str]) -> Encoded:
        self.batches.append(list(texts))
        self.begun.set()
        self._free.wait()
        if "poison" in texts:
            raise ValueError("poison")
        counts = [[text.count(letter) for letter in ascii_lowercase] for text in texts]
        return Encoded(np.array(counts, dtype=np.float32), [len(text) for text in texts])
