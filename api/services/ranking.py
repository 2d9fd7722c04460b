"""How the chunks of a search are found and put in order, as `ranking_options` asks for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from api import fusion, reranking
from api.errors import InvalidRequest, ModelUnavailable
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas import RANKERS, Filter, RankingOptions, SearchRequest
from api.tables import chunks, keyword_search
from api.tables.chunks import Match
from api.tables.database import Connection
from api.tables.keyword_search import Found
from api.wire import Vector

DEFAULT_CANDIDATES = 50
DEFAULT_ALPHA = 0.5


@dataclass(frozen=True)
class Plan:
    """What a search does. `auto` uses both legs where the keyword index has all chunks, else the vectors."""

    mode: Literal["vector", "keyword", "hybrid", "auto"]
    fusion: Literal["rrf", "weighted"]
    embedding_weight: float
    text_weight: float
    reranker: str | None
    threshold: float
    candidates: int  # of each leg


@dataclass(frozen=True)
class Legs:
    """What each leg found: the scores by id, each of its best question, and the chunks."""

    vector: Mapping[str, float]
    keyword: Mapping[str, float]
    matches: Mapping[str, Match | Found]
    is_fused: bool


@dataclass(frozen=True)
class Ranked:
    match: Match | Found
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
        fusion="weighted" if is_weighted else "rrf",
        embedding_weight=weights[0],
        text_weight=weights[1],
        reranker=reranker,
        threshold=options.score_threshold or 0.0,
        candidates=limit if is_final else max(options.candidates or DEFAULT_CANDIDATES, limit),
    )


def _mode(options: RankingOptions) -> Literal["vector", "keyword", "hybrid", "auto"]:
    if options.search_mode is not None:
        return options.search_mode
    if options.hybrid_search is not None or options.ranker in ("rrf", "weighted"):
        return "hybrid"
    return "vector" if options.ranker == "none" else "auto"


async def find(
    connection: Connection,
    table: ChunkTable,
    vector_store_id: str,
    plan: Plan,
    *,
    questions: Sequence[str],
    queries: Sequence[Vector],
    filter: Filter | None,
) -> Legs:
    """The candidates of each leg, for every question in one statement of its own."""
    vector: list[dict[str, float]] = []
    keyword: list[dict[str, float]] = []
    matches: dict[str, Match | Found] = {}
    limit = plan.candidates
    is_fused = plan.mode == "hybrid"
    if plan.mode == "vector":
        for query in queries:
            nearest = await chunks.search(
                connection, table, vector_store_id, query=query, filter=filter, max_distance=2.0, limit=limit
            )
            vector.append({match["id"]: _similarity(match["distance"]) for match in nearest})
            matches |= {match["id"]: match for match in nearest}
    elif plan.mode == "keyword":
        for question in questions:
            worded = await keyword_search.search(
                connection, table, vector_store_id, question=question, filter=filter, limit=limit
            )
            keyword.append({match["id"]: match["text_score"] or 0.0 for match in worded})
            matches |= {match["id"]: match for match in worded}
    else:
        for question, query in zip(questions, queries, strict=True):
            both = await keyword_search.search_both(
                connection, table, vector_store_id, question=question, query=query, filter=filter, limit=limit
            )
            # Without all chunks in it, the words would prefer the older ones.
            is_fused = is_fused or any(match["is_indexed"] for match in both)
            vector.append({m["id"]: _similarity(m["distance"] or 0.0) for m in both if m["text_score"] is None})
            keyword.append({m["id"]: m["text_score"] for m in both if m["text_score"] is not None})
            matches |= {match["id"]: match for match in both}
    return Legs(fusion.best(vector), fusion.best(keyword), matches, is_fused)


async def rank(resources: Resources, plan: Plan, found: Legs, *, questions: Sequence[str]) -> Answer:
    """Put the candidates in order, by the rerank model if one is asked for.

    Raises:
        InvalidRequest: the proxy has no such rerank model.
        ModelUnavailable: it is away, and RERANK__REQUIRED is set.
    """
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
        return found.keyword
    if not found.is_fused:
        return found.vector
    if plan.fusion == "weighted":
        return fusion.weighted([(plan.embedding_weight, found.vector), (plan.text_weight, found.keyword)])
    return fusion.reciprocal_ranks(
        [
            (plan.embedding_weight, fusion.ordered(found.vector)),
            (plan.text_weight, fusion.ordered(found.keyword)),
        ]
    )


def _similarity(distance: float) -> float:
    return min(max(1.0 - distance / 2.0, 0.0), 1.0)
