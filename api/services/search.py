"""Search of one store: embed the question, find and rank the chunks, answer in OpenAI's shape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from api import rewriting
from api.errors import InvalidRequest
from api.resources import Resources
from api.schemas import SearchRequest, SearchResult, SearchResultsPage, VectorStore
from api.services import ranking, stores
from api.services.ranking import Answer, Ranked
from api.tables import vector_index, vector_stores
from api.wire import Vector, dump_json, read_vector

DEFAULT_RESULTS = 10
MAX_LIMIT = 100  # litellm-pgvector's, for its `limit`
TOUCH_SECONDS = 60  # expiry counts days: a store that is searched all the time is written once a minute
MAX_REWRITTEN = 4  # questions of one search; each is a call of a chat model


@dataclass(frozen=True)
class Found:
    """The page, and whether the reranker that was asked for had a part in it."""

    page: SearchResultsPage
    is_rerank_missing: bool = False


async def search(resources: Resources, vector_store_id: str, request: SearchRequest) -> Found:
    """Find the chunks of a store that answer a question, or several at once; the best first, each chunk once.

    Raises:
        NotFound: there is no such store.
        InvalidRequest: it has expired, or a field of the request does not fit it.
        EmbeddingUnavailable, EmbeddingTimeout: the question could not be embedded.
        ModelUnavailable: the question could not be rewritten, or not reranked where that is required.
    """
    limit = _limit(resources, request)
    table = await resources.database.chunk_table()
    plan = ranking.plan(request, table, limit=limit)
    rewriter = _rewriter(resources, request)
    async with resources.database.connection() as connection:
        store = await stores.get_unexpired(connection, vector_store_id)
        if time.time() - (store["last_active_at"] or 0) > TOUCH_SECONDS:
            await vector_stores.touch(connection, vector_store_id)
    questions = _questions(request)
    if rewriter is not None:
        questions = [
            await rewriting.rewrite(resources.proxy, resources.settings.rewrite, model=rewriter, question=question)
            for question in questions
        ]
    dimension = store["embedding_dimension"]
    if dimension is None:  # nothing was ever put in
        return Found(_page(questions, []))
    queries: Sequence[Vector] = []
    if plan.mode != "keyword":
        queries = await _queries(resources, store, dimension, questions, request)
    async with resources.database.connection() as connection:
        segments = await vector_index.list_segments(connection, vector_store_id) if queries else []
        found = await ranking.find(
            connection,
            table,
            vector_store_id,
            plan,
            questions=questions,
            queries=queries,
            segments=segments,
            filter=request.filters,
        )
    answer = await ranking.rank(resources, plan, found, questions=questions)
    return _found(questions, answer, plan.threshold, limit, has_attributes=request.return_metadata is not False)


def _found(questions: list[str], answer: Answer, threshold: float, limit: int, *, has_attributes: bool) -> Found:
    results = [_result(ranked, has_attributes) for ranked in answer.ranked[:limit] if ranked.score >= threshold]
    return Found(_page(questions, results), answer.is_rerank_missing)


def _rewriter(resources: Resources, request: SearchRequest) -> str | None:
    """The model that is to rewrite the questions, None if they stay as they are."""
    if not request.rewrite_query or request.query is None:
        return None
    model = resources.settings.rewrite.model
    if model is None:
        raise InvalidRequest(
            "rewrite_query needs a chat model and none is configured; set REWRITE__MODEL, or leave rewrite_query out.",
            param="rewrite_query",
        )
    if isinstance(request.query, list) and len(request.query) > MAX_REWRITTEN:
        raise InvalidRequest(
            f"rewrite_query takes at most {MAX_REWRITTEN} questions at once, not {len(request.query)}.",
            param="rewrite_query",
        )
    return model


def _limit(resources: Resources, request: SearchRequest) -> int:
    if request.limit is not None:
        return min(request.limit, MAX_LIMIT)
    limit = request.max_num_results or DEFAULT_RESULTS
    if limit > resources.settings.max_search_results:
        raise InvalidRequest(
            f"max_num_results is {limit}; at most {resources.settings.max_search_results} is allowed.",
            param="max_num_results",
            code="integer_above_max_value",
        )
    return limit


def _questions(request: SearchRequest) -> list[str]:
    match request.query:
        case None:
            return []
        case str(question):
            return [question]
        case questions:
            return questions


async def _queries(
    resources: Resources, store: VectorStore, dimension: int, questions: Sequence[str], request: SearchRequest
) -> Sequence[Vector]:
    if request.query_embedding is None:
        model = store["embedding_model"] or resources.embeddings.default_model
        return await resources.query_vectors.embed(questions, model=model, dimension=dimension)
    query = read_vector(request.query_embedding, param="query_embedding")
    if query.size != dimension:
        raise InvalidRequest(
            f"Vector store {store['id']!r} has vectors of {dimension} dimensions, not {query.size}.",
            param="query_embedding",
            code="embedding_dimension_mismatch",
        )
    return [query]


def _result(ranked: Ranked, has_attributes: bool) -> SearchResult:
    match = ranked.match
    # A table of somebody else's may have any JSON here.
    metadata = cast("dict[str, Any]", match["attributes"]) if isinstance(match["attributes"], dict) else None
    return {
        "file_id": match["file_id"] or match["id"],
        "filename": match["filename"] or _filename(metadata) or match["id"],
        "score": ranked.score,
        "attributes": _attributes(metadata) if has_attributes else None,
        "content": [{"type": "text", "text": match["text"]}],
    }


def _filename(metadata: dict[str, Any] | None) -> str | None:
    filename = (metadata or {}).get("filename")
    return filename if isinstance(filename, str) else None


def _attributes(metadata: dict[str, Any] | None) -> dict[str, str | int | float | bool] | None:
    """Metadata as OpenAI's attributes, which are scalars: nested values become their JSON, nulls are left out."""
    if metadata is None:
        return None
    return {
        key: value if isinstance(value, str | int | float) else dump_json(value)
        for key, value in metadata.items()
        if value is not None
    }


def _page(questions: list[str], data: list[SearchResult]) -> SearchResultsPage:
    return {
        "object": "vector_store.search_results.page",
        "search_query": questions,
        "data": data,
        "has_more": False,
        "next_page": None,
    }
