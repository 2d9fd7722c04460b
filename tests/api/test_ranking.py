"""Both legs at once: fusion by ranks and by weights, and what `ranking_options` takes."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from api import fusion
from api.resources import Resources
from api.services import keywords
from tests.fake_embedder import embed
from tests.working import opened

# The vector of each says one thing and its words another.
CHUNKS: list[dict[str, Any]] = [
    {"id": "both", "content": "ferry to the island", "embedding": embed("boat").tolist()},
    {"id": "near", "content": "crossing by water", "embedding": embed("boat ship").tolist()},
    {"id": "worded", "content": "boat boat", "embedding": embed("recipe for soup").tolist()},
    {"id": "neither", "content": "opening hours", "embedding": embed("ledger").tolist()},
]
CHUNKS[0]["content"] += " on a boat"


@pytest.fixture
async def resources(settings: dict[str, Any]) -> AsyncIterator[Resources]:
    async with opened(settings) as resources:
        yield resources


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources) -> str:
    store = (await openai.vector_stores.create()).id
    await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": CHUNKS})
    await keywords.index(resources, seconds=60)
    return store


@pytest.fixture
async def find(http: httpx.AsyncClient, store: str) -> Any:
    async def find(query: str | list[str] = "boat", **options: Any) -> dict[str, float]:
        answer = await http.post(f"/v1/vector_stores/{store}/search", json={"query": query, "ranking_options": options})
        assert answer.status_code == 200, answer.text
        return {result["file_id"]: result["score"] for result in answer.json()["data"]}

    return find


async def test_a_chunk_that_is_near_and_has_the_words_comes_first(find: Any) -> None:
    scores = await find(ranker="rrf")

    assert next(iter(scores)) == "both"
    assert set(scores) == {"both", "near", "worded", "neither"}
    assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.parametrize("ranker", ["rrf", "weighted"])
async def test_each_mode_has_its_order(find: Any, ranker: str) -> None:
    assert list(await find(search_mode="vector"))[:2] == ["both", "near"]
    assert list(await find(search_mode="keyword")) == ["worded", "both"]
    assert next(iter(await find(ranker=ranker))) == "both"


async def test_the_first_of_both_legs_has_the_score_of_1(find: Any) -> None:
    scores = await find("ferry boat", ranker="rrf")

    assert scores["both"] == pytest.approx(1.0)
    assert scores["neither"] < 0.5


async def test_openais_weights_turn_the_order(find: Any) -> None:
    by_vector = await find(hybrid_search={"embedding_weight": 1.0, "text_weight": 0.0})
    by_words = await find(hybrid_search={"embedding_weight": 0.0, "text_weight": 2.0})

    assert list(by_vector)[:2] == ["both", "near"]
    assert list(by_words)[:2] == ["worded", "both"]


async def test_without_options_words_raise_what_the_vectors_say(find: Any) -> None:
    near, automatic = await find(search_mode="vector"), await find()
    shares = await find(search_mode="keyword")

    assert automatic == pytest.approx({id: 1 - (1 - near[id]) * (1 - shares.get(id, 0)) for id in near})
    assert automatic == await find(ranker="auto") == await find(ranker="default-2024-11-15")
    assert near == await find(ranker="none")


async def test_without_options_words_wait_until_all_are_indexed(find: Any, http: httpx.AsyncClient, store: str) -> None:
    await http.post(f"/v1/vector_stores/{store}/embeddings", json={"id": "late", "content": "boat"})

    assert await find() == await find(search_mode="vector")


async def test_alpha_is_the_weight_of_the_vectors(find: Any) -> None:
    assert list(await find(ranker="weighted", alpha=1.0))[:2] == ["both", "near"]
    assert list(await find(ranker="weighted", alpha=0.0))[:2] == ["worded", "both"]


async def test_the_threshold_holds_for_the_fused_score(find: Any) -> None:
    scores = await find(ranker="rrf")
    border = sorted(scores.values())[-2]

    kept = await find(ranker="rrf", score_threshold=border)

    assert kept == {id: score for id, score in scores.items() if score >= border}


async def test_several_questions_are_fused_in_each_leg(find: Any) -> None:
    scores = await find(["boat", "opening hours"], ranker="rrf")

    assert set(list(scores)[:2]) == {"both", "neither"} or set(list(scores)[:2]) == {"both", "worded"}
    assert len(scores) == 4


async def test_filters_hold_for_both_legs(openai: AsyncOpenAI, http: httpx.AsyncClient, resources: Resources) -> None:
    store = (await openai.vector_stores.create()).id
    chunks = [{"content": "boat", "metadata": {"n": n}} for n in range(6)]
    await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
    await keywords.index(resources, seconds=60)

    page = await openai.vector_stores.search(
        store, query="boat", filters={"type": "gte", "key": "n", "value": 4}, ranking_options=_options(ranker="rrf")
    )

    assert sorted(result.attributes["n"] for result in page.data if result.attributes) == [4, 5]


def _options(**options: Any) -> Any:
    return options


async def test_what_is_not_indexed_yet_is_found_by_its_vector(find: Any, http: httpx.AsyncClient, store: str) -> None:
    late = {"id": "late", "content": "boat", "embedding": embed("boat").tolist()}
    await http.post(f"/v1/vector_stores/{store}/embeddings", json=late)

    assert "late" in await find(ranker="rrf")


async def test_everything_may_be_null(find: Any) -> None:
    names = ["ranker", "search_mode", "score_threshold", "alpha", "candidates", "hybrid_search", "ef_search"]

    assert len(await find(**dict.fromkeys(names))) == 4


async def test_ef_search_changes_nothing_in_a_small_store(find: Any) -> None:
    assert await find(ef_search=10) == await find()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"search_modus": "hybrid"}, "search_modus"),
        ({"search_mode": "both"}, "search_mode"),
        ({"alpha": 1.5, "ranker": "weighted"}, "alpha"),
        ({"alpha": 0.5, "ranker": "rrf"}, "weighted"),
        ({"candidates": 0}, "candidates"),
        ({"ranker": "rrf", "search_mode": "vector"}, "search_mode"),
        ({"hybrid_search": {"embedding_weight": 1, "text_weight": 1}, "search_mode": "keyword"}, "search_mode"),
        ({"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}, "text_weight"),
        ({"hybrid_search": {"embedding_weight": 1, "text_weight": 1}, "search_mode": "sparse"}, "search_mode"),
        ({"hybrid_search": {"embedding_weight": 1, "text_weight": 1, "sparse_weight": -1}}, "sparse_weight"),
        (
            {"hybrid_search": {"embedding_weight": 1, "text_weight": 1}, "ranker": "weighted", "alpha": 0.5},
            "alpha",
        ),
    ],
)
async def test_options_that_contradict_or_are_unknown_are_named(
    http: httpx.AsyncClient, store: str, options: dict[str, Any], named: str
) -> None:
    answer = await http.post(f"/v1/vector_stores/{store}/search", json={"query": "x", "ranking_options": options})

    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"].startswith("ranking_options")


@pytest.mark.parametrize("options", [{"search_mode": "keyword"}, {"ranker": "rrf"}, {"ranker": "some-reranker"}])
async def test_a_vector_alone_has_no_words(http: httpx.AsyncClient, store: str, options: dict[str, Any]) -> None:
    body = {"query_embedding": embed("boat").tolist(), "ranking_options": options}

    answer = await http.post(f"/v1/vector_stores/{store}/search", json=body)

    assert answer.status_code == 400
    assert "query_embedding" in answer.json()["error"]["message"]


async def test_candidates_bound_what_each_leg_gives(find: Any, http: httpx.AsyncClient, store: str) -> None:
    body = {"query": "boat", "max_num_results": 1, "ranking_options": {"ranker": "rrf", "candidates": 1}}

    answer = await http.post(f"/v1/vector_stores/{store}/search", json=body)

    assert [result["score"] for result in answer.json()["data"]] == [pytest.approx(0.5)]


orders = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), min_size=1, max_size=4)


@given(orders)
def test_fused_ranks_stay_in_0_to_1_and_respect_what_all_agree_on(found: list[list[str]]) -> None:
    scores = fusion.reciprocal_ranks([(1.0, order) for order in found])

    assert all(0 < score <= 1 + 1e-9 for score in scores.values())
    for above, below in ((above, below) for above in scores for below in scores):
        agreed = all(
            above in order and (below not in order or order.index(above) < order.index(below)) for order in found
        )
        assert not agreed or scores[above] > scores[below]


leg = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1))


@given(leg, leg, st.floats(0, 1))
def test_a_weighted_score_lies_between_its_parts(left: dict[str, float], right: dict[str, float], alpha: float) -> None:
    fused = fusion.weighted([(alpha, left), (1 - alpha, right)])

    parts = {id: sorted((left.get(id, 0.0), right.get(id, 0.0))) for id in left.keys() | right.keys()}
    assert fused.keys() == parts.keys()
    assert all(parts[id][0] - 1e-9 <= score <= parts[id][1] + 1e-9 for id, score in fused.items())


@given(leg, leg)
def test_words_never_lower_a_score(similarity: dict[str, float], shares: dict[str, float]) -> None:
    fused = fusion.raised(similarity, shares)

    assert fused.keys() == similarity.keys()
    assert all(max(similarity[id], shares.get(id, 0.0)) - 1e-9 <= score <= 1 for id, score in fused.items())


def test_weight_alone_orders_a_leg_as_it_is() -> None:
    assert fusion.ordered(fusion.weighted([(1.0, {"a": 0.2, "b": 0.9, "c": 0.5}), (0.0, {"a": 1.0})])) == [
        "b",
        "c",
        "a",
    ]
