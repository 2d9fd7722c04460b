"""How the chunks of a search are found and put in order, as `ranking_options` asks for it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Literal, NamedTuple

from api import fusion, reranking
from api.errors import InvalidRequest, ModelUnavailable
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.search import RANKERS, RankingOptions, SearchRequest
from api.tables.searches import Match

DEFAULT_CANDIDATES = 50
NO_OPTIONS = RankingOptions()
DEFAULT_ALPHA = 0.7  # of 0.5 to 0.8 the best on the sets of `make bench-quality`


Mode = Literal["vector", "keyword", "sparse", "hybrid", "auto"]


class Weights(NamedTuple):
    """Of the legs of a hybrid search."""

    embedding: float
    text: float
    sparse: float


@dataclass(frozen=True)
class Plan:
    """What a search does. `auto` takes the words in where the keyword index has all chunks."""

    mode: Mode
    fusion: Literal["raised", "rrf", "weighted"]
    weights: Weights
    reranker: str | None
    threshold: float
    candidates: int  # of each leg
    ef_search: int | None  # None: as many as the candidates need

    @property
    def is_sparse(self) -> bool:
        """Whether the questions need sparse vectors."""
        return self.mode == "sparse" or (self.mode == "hybrid" and self.weights.sparse > 0)

    @property
    def needs_sparse(self) -> bool:
        """Whether nothing can be found without them."""
        return self.mode == "sparse" or not self.weights.embedding + self.weights.text


@dataclass(frozen=True)
class Legs:
    """What was found, by id: scores of the best question, and the chunks."""

    nearest: Mapping[str, float]  # of the leg of the vectors
    similarity: Mapping[str, float]  # of whatever any leg found
    shares: Mapping[str, float]  # of the leg of the words
    sparse: Mapping[str, float]  # of the leg of the sparse vectors
    matches: Mapping[str, Match]
    is_indexed: bool


Ranked = tuple[Match, float]  # with its score, 0 to 1


@dataclass(frozen=True)
class Answer:
    """Best first. `is_rerank_missing`: the reranker is away, and this is the order without it."""

    ranked: list[Ranked]
    is_rerank_missing: bool = False


def plan(request: SearchRequest, table: ChunkTable, *, limit: int, has_sparse_model: bool) -> Plan:
    """Read the options.

    Raises:
        InvalidRequest: they ask for words, or for sparse vectors, and there are none in the question or no index of
            them.
    """
    options = request.ranking_options or NO_OPTIONS
    mode = _mode(options)
    weights = _weights(options, has_sparse_model=has_sparse_model)
    if mode in ("keyword", "sparse", "hybrid"):
        _check_words(request, table)
    if not has_sparse_model and (mode == "sparse" or (mode == "hybrid" and weights.sparse)):
        raise InvalidRequest(
            "Sparse vectors need a sparse model and none is configured; set SPARSE__MODEL, or search without them.",
            param="ranking_options.search_mode" if mode == "sparse" else "ranking_options.hybrid_search.sparse_weight",
            code="sparse_model_not_configured",
        )
    reranker = None if options.ranker in (None, *RANKERS) else options.ranker
    if reranker is not None and request.query is None:
        raise InvalidRequest(
            "A rerank model reads the question; send `query` and not `query_embedding`.", param="ranking_options.ranker"
        )
    if mode == "auto" and (request.query is None or not table.has_seq):
        mode = "vector"
    is_final = mode == "vector" and reranker is None  # what is found first is what is answered
    return Plan(
        mode=mode,
        fusion="weighted" if options.ranker == "weighted" else "raised" if mode == "auto" else "rrf",
        weights=weights,
        reranker=reranker,
        threshold=options.score_threshold or 0.0,
        candidates=limit if is_final else max(options.candidates or DEFAULT_CANDIDATES, limit),
        ef_search=options.ef_search,
    )


def _check_words(request: SearchRequest, table: ChunkTable) -> None:
    if request.query is None:
        raise InvalidRequest(
            "A search by words needs `query`; `query_embedding` can only be searched by vector.",
            param="ranking_options.search_mode",
        )
    if not table.has_seq:
        raise InvalidRequest(
            f"Table {table.name!r} has no keyword index, which needs a column `seq bigint` that rises with every "
            "insert; search it by vector.",
            param="ranking_options.search_mode",
            code="keyword_index_unavailable",
        )


def _weights(options: RankingOptions, *, has_sparse_model: bool) -> Weights:
    if options.hybrid_search is not None:
        given = options.hybrid_search
        return Weights(given.embedding_weight, given.text_weight, given.sparse_weight or 0.0)
    if options.ranker == "weighted":
        alpha = DEFAULT_ALPHA if options.alpha is None else options.alpha
        return Weights(alpha, 1 - alpha, 0.0)
    return Weights(1.0, 1.0, 1.0 if has_sparse_model else 0.0)


def _mode(options: RankingOptions) -> Mode:
    if options.search_mode is not None:
        return options.search_mode
    if options.hybrid_search is not None or options.ranker in ("rrf", "weighted"):
        return "hybrid"
    return "vector" if options.ranker == "none" else "auto"


def _legs(found: Sequence[Sequence[Match]], *, candidates: int) -> Legs:
    nearest: list[dict[str, float]] = []
    similarity: list[dict[str, float]] = []
    shares: list[dict[str, float]] = []
    sparse: list[dict[str, float]] = []
    for matches in found:
        by_words = {match.id: share for match in matches if (share := match.text_score) is not None}
        distances = {match.id: match.distance for match in matches}
        near = {id: _similarity(distance) for id, distance in distances.items() if distance is not None}
        of_vectors = {match.id for match in matches if match.text_score is None}
        weighed = {match.id: score for match in matches if (score := match.sparse_score) is not None}
        # With the leg of the sparse vectors more is found by vectors than each of the two would give.
        nearest.append(_best({id: score for id, score in near.items() if id in of_vectors}, candidates))
        similarity.append(near)
        shares.append(by_words)
        sparse.append(_best(weighed, candidates))
    return Legs(
        nearest=fusion.best(nearest),
        similarity=fusion.best(similarity),
        shares=fusion.best(shares),
        sparse=fusion.best(sparse),
        matches={match.id: match for matches in found for match in matches},
        is_indexed=all(match.is_indexed for matches in found for match in matches),
    )


def _best(scores: dict[str, float], count: int) -> dict[str, float]:
    return scores if len(scores) <= count else {id: scores[id] for id in fusion.ordered(scores)[:count]}


async def rank(
    resources: Resources, plan: Plan, found_by_question: Sequence[Sequence[Match]], *, questions: Sequence[str]
) -> Answer:
    """Put what was found for each question in one order, by the rerank model if one is asked for.

    Raises:
        InvalidRequest: the proxy has no such rerank model.
        ModelUnavailable: it is away, and RERANK__REQUIRED is set.
    """
    if plan.mode == "vector" and plan.reranker is None and len(found_by_question) == 1:  # nothing to fuse
        by_id = sorted(found_by_question[0], key=attrgetter("id"))
        ranked = [(match, _similarity(match.distance or 0.0)) for match in by_id]
        return Answer(sorted(ranked, key=itemgetter(1), reverse=True))
    found = _legs(found_by_question, candidates=plan.candidates)
    scores = _fuse(plan, found)
    order = fusion.ordered(scores)
    if plan.reranker is None or not order:
        return Answer([(found.matches[id], scores[id]) for id in order])
    window = order[: plan.candidates]
    texts = [found.matches[id].text for id in window]
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
        return Answer([(found.matches[id], scores[id]) for id in order], is_rerank_missing=True)
    reranked = fusion.best([dict(zip(window, scores, strict=True)) for scores in by_question])
    return Answer([(found.matches[id], reranked[id]) for id in fusion.ordered(reranked)])


def _fuse(plan: Plan, found: Legs) -> Mapping[str, float]:
    if plan.mode == "keyword":
        return found.shares
    if plan.mode == "sparse":
        return found.sparse
    if plan.mode == "vector" or (plan.mode == "auto" and not found.is_indexed):
        return found.nearest
    if plan.fusion == "raised":
        return fusion.raised(found.similarity, found.shares)
    weights = plan.weights
    if plan.fusion == "weighted":
        legs = [(weights.embedding, found.similarity), (weights.text, found.shares), (weights.sparse, found.sparse)]
        return fusion.weighted(_present(legs))
    legs = [(weights.embedding, found.nearest), (weights.text, found.shares), (weights.sparse, found.sparse)]
    return fusion.reciprocal_ranks([(weight, fusion.ordered(scores)) for weight, scores in _present(legs)])


def _present(legs: Sequence[tuple[float, Mapping[str, float]]]) -> Sequence[tuple[float, Mapping[str, float]]]:
    """The legs without the last, that of the sparse vectors, where it has nothing: the store may have none of them."""
    return legs if legs[-1][1] else legs[:-1]


def _similarity(distance: float) -> float:
    return min(max(1.0 - distance / 2.0, 0.0), 1.0)
