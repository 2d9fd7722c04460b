"""What a model computed, float32, as the rows its caller asked for."""

import numpy as np
from numpy.typing import NDArray

from embedder.engines import Activation, Kind, Rows, SparseVector

Computed = NDArray[np.float32]


def as_rows(computed: Computed, *, kind: Kind, normalize: bool, activation: Activation | None) -> Rows:
    """Rows of their own: nothing of what was computed is kept, the session may overwrite it."""
    if kind == "sparse":
        return [sparse(row) for row in finite(computed)]
    if kind == "rerank":
        logits = finite(computed.reshape(-1))
        return sigmoid(logits) if activation == "sigmoid" else logits.copy()
    return normalized(computed) if normalize else finite(computed).copy()


def normalized(vectors: Computed) -> Computed:
    lengths = np.linalg.norm(finite(vectors), axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def sparse(row: Computed) -> SparseVector:
    indices = np.flatnonzero(row)
    return SparseVector(indices.astype(np.int32), row[indices])


def sigmoid(logits: Computed) -> Computed:
    return (0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2)).astype(np.float32)  # the same, and never overflows


def finite(computed: Computed) -> Computed:
    # The sum of squares is finite exactly when all of them are, short of an overflow; that, too, is no vector.
    if not np.isfinite(np.vdot(computed, computed)):
        raise FloatingPointError("The model's vectors hold NaN or infinity.")
    return computed
