"""What callers get: vectors, scores and sparse vectors, in the shape they asked in."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

import numpy as np
import orjson
from numpy.typing import NDArray

from embedder.batching import TINY, Computed, Vector, vectors_of
from embedder.engines import Activation, SparseVector
from embedder.errors import InvalidRequest
from embedder.registry import Declaration
from embedder.schemas import EncodingFormat, VectorType

Vectors = NDArray[np.float32]


def vectors(
    computed: Computed, declaration: Declaration, *, dimensions: int | None = None, normalize: bool | None = None
) -> Vectors:
    """The rows of a dense model, shape (texts, dimensions): as many dimensions as were asked for, and of length one
    unless that was declined.

    Raises:
        InvalidRequest: the model cannot give that many.
    """
    rows = cast("Sequence[Vector]", computed.rows)
    units = rows[0].unit[None] if len(rows) == 1 else np.array([row.unit for row in rows])
    wants_units = declaration.normalize if normalize is None else normalize
    if dimensions is not None:
        check_dimensions(declaration, dimensions, own=units.shape[1])
        if dimensions < units.shape[1]:
            units = np.ascontiguousarray(units[:, :dimensions])
            if wants_units:
                return np.array([row.unit for row in vectors_of(units)])
    return units if wants_units else units * np.array([[row.length] for row in rows], dtype=np.float32)


def check_dimensions(declaration: Declaration, wanted: int, *, own: int) -> None:
    allowed = declaration.matryoshka
    is_allowed = allowed if isinstance(allowed, bool) else wanted in allowed
    if wanted == own or (wanted < own and is_allowed):
        return
    message = f"The model {declaration.name!r} has {own} dimensions and cannot give {wanted}; leave 'dimensions' out"
    if isinstance(allowed, list):
        message += f", or ask for {', '.join(map(str, allowed))}"
    elif allowed:
        message += ", or ask for fewer"
    raise InvalidRequest(f"{message}.", param="dimensions")


def rounded(vectors: Vectors, dtype: VectorType | None) -> Vectors:
    """Numbers as a narrower type would keep them."""
    if dtype == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = vectors.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return vectors


def embeddings(vectors: Vectors, *, model: str, tokens: int, encoding_format: EncodingFormat | None) -> bytes:
    rows: Iterable[Any] = base64_rows(vectors) if encoding_format == "base64" else vectors
    return dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def base64_rows(vectors: Vectors) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4", copy=False)]


def sparse_embeddings(computed: Computed, *, model: str) -> bytes:
    rows = cast("Sequence[SparseVector]", computed.rows)
    return dumps(
        {
            "object": "list",
            "data": [
                {"object": "sparse_embedding", "index": index, "indices": row.indices, "values": row.values}
                for index, row in enumerate(rows)
            ],
            "model": model,
            "usage": {"prompt_tokens": computed.tokens, "total_tokens": computed.tokens},
        }
    )


def ranking(scores: NDArray[np.float32], top_n: int | None) -> list[int]:
    """Positions of the best scores, the best first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:top_n].tolist()


def rerank(
    scores: NDArray[np.float32],
    documents: Sequence[object] | None,
    *,
    model: str,
    tokens: int,
    top_n: int | None,
) -> bytes:
    """Cohere's and Jina's answer; `documents` are what each result carries, if it carries any."""
    results: list[dict[str, object]] = [
        {"index": index, "relevance_score": float(scores[index])} for index in ranking(scores, top_n)
    ]
    if documents is not None:
        results = [result | {"document": documents[cast("int", result["index"])]} for result in results]
    return dumps(
        {
            "id": f"rerank-{uuid4().hex}",
            "object": "list",
            "model": model,
            "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}},
        }
    )


def texts_rerank(scores: NDArray[np.float32], texts: Sequence[str] | None, *, top_n: int | None) -> bytes:
    """The answer of text-embeddings-inference: a bare list."""
    results: list[dict[str, object]] = [
        {"index": index, "score": float(scores[index])} for index in ranking(scores, top_n)
    ]
    if texts is not None:
        results = [result | {"text": texts[cast("int", result["index"])]} for result in results]
    return dumps(results)


def scores_of(computed: Computed) -> NDArray[np.float32]:
    return np.array(computed.rows, dtype=np.float32)


def activated(scores: NDArray[np.float32], *, have: Activation | None, want: Activation) -> NDArray[np.float32]:
    """Scores as probabilities or as the model's own logits, whichever of them they are."""
    if (have or "identity") == want:
        return scores
    if want == "sigmoid":
        return (1 / (1 + np.exp(-scores))).astype(np.float32)
    inside = np.clip(scores, TINY, 1 - np.finfo(np.float32).epsneg)
    return (np.log(inside) - np.log1p(-inside)).astype(np.float32)


def dumps(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
