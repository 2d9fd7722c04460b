"""Making one order of several. Pure: chunks are ids, an order is a list of them, and every score is in 0..1."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

RANK_OFFSET: Final = 60  # of Cormack, Clarke and Büttcher (2009); the first of a list counts little more than the next


def reciprocal_ranks(orders: Sequence[tuple[float, Sequence[str]]]) -> dict[str, float]:
    """Fuse weighted orders by the reciprocals of the ranks in them; 1 is to be the first of all that weigh."""
    total = sum(weight for weight, _ in orders)
    scores: defaultdict[str, float] = defaultdict(float)
    for weight, order in orders:
        for rank, id in enumerate(order):
            scores[id] += weight / total * (RANK_OFFSET + 1) / (RANK_OFFSET + 1 + rank)
    return scores


def weighted(legs: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Fuse by the weighted mean of scores; what a leg lacks has 0 there."""
    total = sum(weight for weight, _ in legs)
    scores: defaultdict[str, float] = defaultdict(float)
    for weight, leg in legs:
        for id, score in leg.items():
            scores[id] += weight / total * score
    return scores


def raised(similarity: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """Similarities, each raised towards 1 by the share of the words: no score is less than the vectors alone give."""
    return {id: 1 - (1 - score) * (1 - shares.get(id, 0.0)) for id, score in similarity.items()}


def best(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The best score that an id has anywhere."""
    found: dict[str, float] = {}
    for of_one in scores:
        for id, score in of_one.items():
            found[id] = max(score, found.get(id, 0.0))
    return found


def ordered(scores: Mapping[str, float]) -> list[str]:
    """Best first, ties by id."""
    return sorted(scores, key=lambda id: (-scores[id], id))
