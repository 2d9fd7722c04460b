"""Reranking by a cross-encoder: the proxy's `/rerank`, in Cohere's shape."""

import math
from collections.abc import Sequence
from typing import Any

from api.errors import InvalidRequest
from api.observation import timed
from api.proxy import Proxy, garbage
from api.schemas.search import RANKERS
from api.settings import RerankSettings


@timed("rerank")
async def rerank(
    proxy: Proxy, settings: RerankSettings, *, model: str, question: str, texts: Sequence[str]
) -> list[float]:
    """How well each text answers a question, 0 to 1, in the order of the texts.

    Scores of a model that gives others than 0 to 1 are taken for logits.

    Raises:
        InvalidRequest: the proxy has no such model, or it refuses the texts.
        ModelUnavailable: it cannot be reached, keeps failing, takes too long, or answers with something else.
    """
    body = {"model": model, "query": question, "documents": list(texts), "top_n": len(texts)}
    try:
        answer = await proxy.post(
            "/rerank", body, timeout_seconds=settings.timeout_seconds, max_attempts=settings.max_attempts
        )
    except InvalidRequest as error:
        if error.code != "model_not_found":
            raise
        raise InvalidRequest(
            f"There is no ranker {model!r}: those are {', '.join(RANKERS)} and the proxy's rerank models, "
            "of which none has this name.",
            param="ranking_options.ranker",
        ) from error
    scores = _read(answer, len(texts))
    if scores is None:
        raise garbage(model)
    is_normal = all(0 <= score <= 1 for score in scores)
    return scores if is_normal else [_logistic(score) for score in scores]


def _read(answer: Any, count: int) -> list[float] | None:
    try:
        scores = {int(result["index"]): float(result["relevance_score"]) for result in answer["results"]}
    except (KeyError, TypeError, ValueError):
        return None
    if scores.keys() != set(range(count)) or not all(map(math.isfinite, scores.values())):
        return None
    return [scores[index] for index in range(count)]


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-max(min(logit, 500.0), -500.0)))
