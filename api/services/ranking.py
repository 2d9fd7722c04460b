"""How the chunks of a search are found and put in order, as `ranking_options` asks for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from api import fusion, reranking
from api.errors import InvalidRequest, ModelUnavailable
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas import RANKERS, RankingOptions, SearchRequest
from api.tables.searches import Match

DEFAULT_CANDIDATES = 50
DEFAULT_ALPHA = 0.7  # of 0.5 to 0.8 the best on the sets of `make bench-quality`


@dataclass(frozen=True)
class Plan:
    """What a search does. `auto` takes the words in where the keyword index has all chunks."""

    mode: Literal["vector", "keyword", "hybrid", "auto"]
    fusion: Literal["raised", "rrf", "weighted"]
    embedding_weight: float
    text_weight: float
    reranker: str | None
    threshold: float
    candidates: int  # of each leg
    ef_search: int | None  # None: as many as the candidates need


@dataclass(frozen=True)
class Legs:
    """What was found, by id: scores of the best question, and the chunks."""

    nearest: Mapping[str, float]  # of the leg of the vectors
    similarity: Mapping[str, float]  # of whatever either leg found
    shares: Mapping[str, float]  # of the leg of the words
    matches: Mapping[str, Match]
    is_indexed: bool


@dataclass(frozen=True)
class Ranked:
    match: Match
    score: float  # 0 to 1


@dataclass(frozen=True)
class Answer:
    """Best first. `is_rerank_missing`: the reranker is away, and this is the order without it."""

    ranked: list[Ranked]
    is_rerank_missing: bool = False


def plan(request: SearchRequest, table: ChunkTable, *, limit: int) -> Plan:
    """Read the options.

    Raises:
        InvalidRequest: they ask for words, and there are none in the question or no index of them.
    """
    options = request.ranking_options or RankingOptions()
    mode = _mode(options)
    if mode in ("keyword", "hybrid") and request.query is None:
        raise InvalidRequest(
            "A search by words needs `query`; `query_embedding` can only be searched by vector.",
            param="ranking_options.search_mode",
        )
    if mode in ("keyword", "hybrid") and not table.has_seq:
        raise InvalidRequest(
            f"Table {table.name!r} has no keyword index, which needs a column `seq bigint` that rises with every "
            "insert; search it by vector.",
            param="ranking_options.search_mode",
            code="keyword_index_unavailable",
        )
    reranker = None if options.ranker in (None, *RANKERS) else options.ranker
    if reranker is not None and request.query is None:
        raise InvalidRequest(
            "A rerank model reads the question; send `query` and not `query_embedding`.", param="ranking_options.ranker"
        )
    alpha = DEFAULT_ALPHA if options.alpha is None else options.alpha
    is_weighted = options.ranker == "weighted"
    weights = (alpha, 1 - alpha) if is_weighted else (1.0, 1.0)
    if options.hybrid_search is not None:
        weights = (options.hybrid_search.embedding_weight, options.hybrid_search.text_weight)
    if mode == "auto" and (request.query is None or not table.has_seq):
        mode = "vector"
    is_final = mode == "vector" and reranker is None  # what is found first is what is answered
    return Plan(
        mode=mode,
        fusion="weighted" if is_weighted else "raised" if mode == "auto" else "rrf",
        embedding_weight=weights[0],
        text_weight=weights[1],
        reranker=reranker,
        threshold=options.score_threshold or 0.0,
        candidates=limit if is_final else max(options.candidates or DEFAULT_CANDIDATES, limit),
        ef_search=options.ef_search,
    )


def _mode(options: RankingOptions) -> Literal["vector", "keyword", "hybrid", "auto"]:
    if options.search_mode is not None:
        return options.search_mode
    if options.hybrid_search is not None or options.ranker in ("rrf", "weighted"):
        return "hybrid"
    return "vector" if options.ranker == "none" else "auto"


def _legs(found: Sequence[Sequence[Match]]) -> Legs:
    nearest: list[dict[str, float]] = []
    similarity: list[dict[str, float]] = []
    shares: list[dict[str, float]] = []
    for matches in found:
        by_words = {match["id"]: share for match in matches if (share := match["text_score"]) is not None}
        distances = {match["id"]: match["distance"] for match in matches}
        near = {id: _similarity(distance) for id, distance in distances.items() if distance is not None}
        of_vectors = {match["id"] for match in matches if match["text_score"] is None}
        nearest.append({id: score for id, score in near.items() if id in of_vectors})
        similarity.append(near)
        shares.append(by_words)
    return Legs(
        nearest=fusion.best(nearest),
        similarity=fusion.best(similarity),
        shares=fusion.best(shares),
        matches={match["id"]: match for matches in found for match in matches},
        is_indexed=all(match["is_indexed"] for matches in found for match in matches),
    )


async def rank(
    resources: Resources, plan: Plan, found_by_question: Sequence[Sequence[Match]], *, questions: Sequence[str]
) -> Answer:
    """Put what was found for each question in one order, by the rerank model if one is asked for.

    Raises:
        InvalidRequest: the proxy has no such rerank model.
        ModelUnavailable: it is away, and RERANK__REQUIRED is set.
    """
    if plan.mode == "vector" and plan.reranker is None and len(found_by_question) == 1:  # nothing to fuse
        ranked = [Ranked(match, _similarity(match["distance"] or 0.0)) for match in found_by_question[0]]
        return Answer(sorted(ranked, key=lambda one: (-one.score, one.match["id"])))
    found = _legs(found_by_question)
    scores = _fuse(plan, found)
    order = fusion.ordered(scores)
    if plan.reranker is None or not order:
        return Answer([Ranked(found.matches[id], scores[id]) for id in order])
    window = order[: plan.candidates]
    texts = [found.matches[id]["text"] for id in window]
    settings = resources.settings.rerank
    try:
        by_question = await asyncio.gather(
            *(
                reranking.rerank(resources.proxy, settings, model=plan.reranker, question=question, texts=texts)
                for question in questions
            )
        )
    except ModelUnavailable:
        if settings.required:
            raise
        return Answer([Ranked(found.matches[id], scores[id]) for id in order], is_rerank_missing=True)
    reranked = fusion.best([dict(zip(window, scores, strict=True)) for scores in by_question])
    return Answer([Ranked(found.matches[id], reranked[id]) for id in fusion.ordered(reranked)])


def _fuse(plan: Plan, found: Legs) -> Mapping[str, float]:
    if plan.mode == "keyword":
        return found.shares
    if plan.mode == "vector" or (plan.mode == "auto" and not found.is_indexed):
        return found.nearest
    match plan.fusion:
        case "raised":
            return fusion.raised(found.similarity, found.shares)
        case "weighted":
            return fusion.weighted([(plan.embedding_weight, found.similarity), (plan.text_weight, found.shares)])
        case "rrf":
            orders = [(plan.embedding_weight, found.nearest), (plan.text_weight, found.shares)]
            return fusion.reciprocal_ranks([(weight, fusion.ordered(scores)) for weight, scores in orders])


def _similarity(distance: float) -> float:
    return min(max(1.0 - distance / 2.0, 0.0), 1.0)
