"""Sparse vectors of texts: the embedder's `POST /v1/sparse_embeddings`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from api.errors import InvalidRequest, ModelUnavailable
from api.proxy import Proxy, garbage
from api.settings import SparseSettings

DIMENSION: Final = 1_000_000_000  # pgvector's most, whatever the vocabulary: only vectors of one dimension compare

# Of a text, the greatest. Models give 50 to 300; the vector is stored in its row, which has room for 900.
MAX_WEIGHTS: Final = 512

FILLING_SECONDS: Final = 300.0  # longest wait for a batch of chunks; nobody waits for it


@dataclass(frozen=True)
class Weights:
    """A sparse vector: the weights of those entries of the model's vocabulary that a text has, none of them 0."""

    of_entries: Mapping[int, float]

    @property
    def nbytes(self) -> int:
        return 100 * len(self.of_entries)  # as Python keeps them

    @property
    def square(self) -> float:
        """The product of the vector with itself."""
        return math.fsum(weight * weight for weight in self.of_entries.values())

    def copy(self) -> "Weights":
        return self


class SparseModel:
    """The configured model, called where it is served."""

    def __init__(self, settings: SparseSettings, *, name: str, proxy: Proxy) -> None:
        self.name = name
        self.batch_size = settings.batch_size
        self._settings = settings
        self._proxy = proxy

    async def close(self) -> None:
        await self._proxy.close()

    async def embed(self, texts: Sequence[str], *, model: str, dimension: int) -> list[Weights]:
        """Weigh the words of questions, in their order; every entry is below `dimension`.

        Raises:
            InvalidRequest: the model refuses the texts.
            ModelUnavailable: it is not served there, cannot be reached, keeps failing, takes too long, or answers with
                something else.
        """
        return await self._call(
            texts, model=model, dimension=dimension, kind="query", timeout_seconds=self._settings.timeout_seconds
        )

    async def embed_chunks(self, texts: Sequence[str]) -> list[Weights]:
        """The same for texts that are to be found."""
        return await self._call(
            texts, model=self.name, dimension=DIMENSION, kind="document", timeout_seconds=FILLING_SECONDS
        )

    async def _call(
        self,
        texts: Sequence[str],
        *,
        model: str,
        dimension: int,
        kind: Literal["query", "document"],
        timeout_seconds: float,
    ) -> list[Weights]:
        body = {"model": model, "input": list(texts), "input_type": kind}
        try:
            answer = await self._proxy.post(
                "/sparse_embeddings",
                body,
                timeout_seconds=timeout_seconds,
                max_attempts=self._settings.max_attempts,
            )
        except InvalidRequest as error:
            if error.code != "model_not_found":
                raise
            raise ModelUnavailable(f"The sparse model {model!r} is not served at SPARSE__BASE_URL.") from error
        weights = _read(answer, len(texts), dimension)
        if weights is None:
            raise garbage(model)
        return weights


def _read(answer: Any, count: int, dimension: int) -> list[Weights] | None:
    try:
        rows = {int(item["index"]): _weights(item["indices"], item["values"], dimension) for item in answer["data"]}
    except (KeyError, TypeError, ValueError):
        return None
    return [rows[index] for index in range(count)] if rows.keys() == set(range(count)) else None


def _weights(entries: Sequence[Any], values: Sequence[Any], dimension: int) -> Weights:
    """The weights but for zeros, the greatest if there are too many.

    Raises:
        ValueError: they are no sparse vector.
    """
    weights = {entry: float(value) for entry, value in zip(entries, values, strict=True) if value}
    are_entries = all(isinstance(entry, int) and 0 <= entry < dimension for entry in weights)
    if not are_entries or len(set(entries)) < len(entries) or not all(map(math.isfinite, weights.values())):
        raise ValueError("entries or weights that there cannot be")
    if len(weights) > MAX_WEIGHTS:
        greatest = sorted(weights, key=lambda entry: -abs(weights[entry]))[:MAX_WEIGHTS]
        weights = {entry: weights[entry] for entry in greatest}
    return Weights(weights)
