"""Search of one store: embed the question, find and rank the chunks, answer in OpenAI's shape."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from api import rewriting
from api.errors import ConfigurationError, DatabaseUnavailable, InvalidRequest, ModelUnavailable, NotFound
from api.field_mapping import ChunkTable
from api.resources import Resources
from api.schemas.filters import Filter
from api.schemas.search import SearchRequest, SearchResult, SearchResultsPage
from api.services import ranking, stores
from api.services.ranking import Answer, Mode, Plan
from api.sparse import DIMENSION, Weights
from api.tables import searches
from api.tables.database import Connection
from api.tables.searches import Asked, Leg, Match, Search, Store
from api.vectors import Vector
from api.wire import dump_json, read_vector

DEFAULT_RESULTS = 10
MAX_LIMIT = 100  # litellm-pgvector's, for its `limit`
MAX_REWRITTEN = 4  # questions of one search; each is a call of a chat model

_LEGS: Final[Mapping[Mode, Leg]] = {
    "vector": "vector",
    "keyword": "keyword",
    "sparse": "sparse",
    "hybrid": "both",
    "auto": "both",
}


@dataclass(frozen=True)
class Found:
    """The page, and whether models that were asked for had no part in it."""

    page: SearchResultsPage
    is_rerank_missing: bool = False
    is_sparse_missing: bool = False


async def search(resources: Resources, vector_store_id: str, request: SearchRequest) -> Found:
    """Find the chunks of a store that answer a question, or several at once; the best first, each chunk once.

    Raises:
        NotFound: there is no such store.
        InvalidRequest: it has expired, or a field of the request does not fit it.
        EmbeddingUnavailable, EmbeddingTimeout: the question could not be embedded.
        ModelUnavailable: the question could not be rewritten; or not reranked, or given no sparse vector, where that
            is required.
    """
    replica = resources.replica
    if replica is not None and not replica.is_resting:
        try:
            return await _search(resources.on_replica(replica), vector_store_id, request)
        except NotFound:  # not yet, perhaps: it is behind by a moment
            pass
        except (DatabaseUnavailable, ConfigurationError):
            replica.rest()
    return await _search(resources, vector_store_id, request)


async def _search(resources: Resources, vector_store_id: str, request: SearchRequest) -> Found:
    limit = _limit(resources, request)
    table = await resources.database.chunk_table()
    plan = ranking.plan(request, table, limit=limit, has_sparse_model=resources.sparse_queries is not None)
    rewriter = _rewriter(resources, request)
    questions = _questions(request)
    if rewriter is not None:
        await _store(resources, vector_store_id)
        questions = [
            await rewriting.rewrite(resources.proxy, resources.settings.rewrite, model=rewriter, question=question)
            for question in questions
        ]
    if request.query_embedding is not None:
        query = read_vector(request.query_embedding, param="query_embedding")
        known = await _known(resources, vector_store_id)
        asked = [Asked(None, query)]
        store, found = await _find(resources, table, known, plan, asked, request.filters)
        if store.dimension not in (None, query.size):
            raise _misfit(vector_store_id, query, store.dimension)
    else:
        asked, found = await _find_texts(resources, table, vector_store_id, plan, questions, request.filters)
    answer = await ranking.rank(resources, plan, found, questions=questions)
    results = _results(answer, plan.threshold, limit, has_attributes=request.return_metadata is not False)
    is_sparse_missing = plan.is_sparse and any(one.weights is None for one in asked)
    return Found(_page(questions, results), answer.is_rerank_missing, is_sparse_missing)


async def _find_texts(
    resources: Resources,
    table: ChunkTable,
    vector_store_id: str,
    plan: Plan,
    questions: Sequence[str],
    filter: Filter | None,
) -> tuple[list[Asked], list[list[Match]]]:
    """What is asked, and found, with the vectors of the model that the store was filled with.

    The store is as it was at its last search, most of the time; if it has changed since, which takes another store of
    its id, the questions are embedded anew.
    """
    store = await _known(resources, vector_store_id)
    while True:
        if store.dimension is None:
            store = await _store(resources, vector_store_id)
            if store.dimension is None:  # nothing was ever put in
                return [], []
        asked = await _ask(resources, plan, questions, model=store.model, dimension=store.dimension)
        current, found = await _find(resources, table, store, plan, asked, filter)
        if (current.model, current.dimension) == (store.model, store.dimension):
            return asked, found
        store = current


async def _ask(
    resources: Resources, plan: Plan, questions: Sequence[str], *, model: str | None, dimension: int
) -> list[Asked]:
    """The questions with those vectors that the plan needs, both kinds asked for at once."""
    model = model or resources.embeddings.default_model
    if plan.mode == "keyword":
        return [Asked(question, None) for question in questions]
    if plan.mode == "sparse":
        weights = await _weigh(resources, plan, questions)
        return [Asked(question, None, own) for question, own in zip(questions, weights, strict=True)]
    if not plan.is_sparse:
        queries = await resources.query_vectors.embed(questions, model=model, dimension=dimension)
        return [Asked(question, query) for question, query in zip(questions, queries, strict=True)]
    queries, weights = await asyncio.gather(
        resources.query_vectors.embed(questions, model=model, dimension=dimension),
        _weigh(resources, plan, questions),
    )
    return [Asked(*one) for one in zip(questions, queries, weights, strict=True)]


async def _weigh(resources: Resources, plan: Plan, questions: Sequence[str]) -> Sequence[Weights | None]:
    """The sparse vectors of the questions, or none of them where the search can do without."""
    settings = resources.settings.sparse
    assert resources.sparse_queries is not None  # the plan has checked
    assert settings.model is not None  # likewise
    try:
        return await resources.sparse_queries.embed(questions, model=settings.model, dimension=DIMENSION)
    except ModelUnavailable:
        if settings.required or plan.needs_sparse:
            raise
        return [None] * len(questions)


async def _find(
    resources: Resources,
    table: ChunkTable,
    known: Store,
    plan: Plan,
    asked: Sequence[Asked],
    filter: Filter | None,
) -> tuple[Store, list[list[Match]]]:
    is_weighed = any(one.weights is not None for one in asked)
    search = Search(
        leg="all" if plan.mode == "hybrid" and is_weighed else _LEGS[plan.mode],
        filter=filter,
        limit=plan.candidates,
        ef_search=plan.ef_search,
        sparse_model=resources.settings.sparse.model,
        max_exact=resources.settings.sparse.max_exact_chunks,
    )
    async with resources.database.connection() as connection:
        search = await resources.known_stores.sampled(connection, table, known, search)
        store, found = await searches.search(connection, table, known, search, asked)
        return await _searched(resources, connection, known.id, store), found


async def _known(resources: Resources, id: str) -> Store:
    return resources.known_stores.find(resources.database.scope, id) or await _store(resources, id)


async def _store(resources: Resources, id: str) -> Store:
    async with resources.database.connection() as connection:
        return await _searched(resources, connection, id, await searches.find_store(connection, id))


async def _searched(resources: Resources, connection: Connection, id: str, store: Store | None) -> Store:
    """The store, remembered, and marked as active if it was not lately.

    Raises:
        NotFound: there is none.
        InvalidRequest: it has expired.
    """
    resources.known_stores.remember(connection.scope, id, store)
    if store is None:
        raise stores.no_such_store(id)
    if store.is_expired:
        raise stores.expired(id)
    if store.is_idle and resources.known_stores.may_touch(id):
        await _touch(resources, connection, id)
    return store


async def _touch(resources: Resources, connection: Connection, id: str) -> None:
    if resources.primary is None:
        await searches.touch(connection, id)
        return
    with suppress(DatabaseUnavailable):  # the search was the replica's
        async with resources.primary.connection() as writable:
            await searches.touch(writable, id)


def _misfit(id: str, query: Vector, dimension: int | None) -> InvalidRequest:
    return InvalidRequest(
        f"Vector store {id!r} has vectors of {dimension} dimensions, not {query.size}.",
        param="query_embedding",
        code="embedding_dimension_mismatch",
    )


def _results(answer: Answer, threshold: float, limit: int, *, has_attributes: bool) -> list[SearchResult]:
    return [_result(match, score, has_attributes) for match, score in answer.ranked[:limit] if score >= threshold]


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


def _result(match: Match, score: float, has_attributes: bool) -> SearchResult:
    text, filename = match.attributes, match.filename
    attributes: Any = None
    if text is not None:
        is_plain = _is_plain(text)
        # A fragment is JSON already: the same map, without being read and written.
        attributes = orjson.Fragment(text) if is_plain else _attributes(_map(text))
        if not filename and '"filename"' in text:
            filename = _filename(_map(text))
    return {
        "file_id": match.file_id or match.id,
        "filename": filename or match.id,
        "score": score,
        "attributes": attributes if has_attributes else None,
        "content": [{"type": "text", "text": match.text}],
    }


def _is_plain(text: str) -> bool:
    """Whether JSON is a map of scalars and nothing else; a text with such characters in it may say no."""
    return text.startswith("{") and text.find("{", 1) < 0 and "[" not in text and "null" not in text


def _map(text: str) -> dict[str, Any] | None:
    """What the JSON is if it is a map: a table of somebody else's may have anything there."""
    value: Any = orjson.loads(text)
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]  # JSON's keys are texts


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
