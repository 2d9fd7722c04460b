"""Search of one store: embed the question, find the nearest chunks, answer in OpenAI's shape."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

from api.errors import InvalidRequest
from api.resources import Resources
from api.schemas import SearchRequest, SearchResult, SearchResultsPage, VectorStore
from api.services import stores
from api.tables import chunks, vector_stores
from api.tables.chunks import Match
from api.wire import Vector, dump_json, read_vector

DEFAULT_RESULTS = 10
MAX_LIMIT = 100  # litellm-pgvector's, for its `limit`
TOUCH_SECONDS = 60  # expiry counts days: a store that is searched all the time is written once a minute


async def search(resources: Resources, vector_store_id: str, request: SearchRequest) -> SearchResultsPage:
    """Find the chunks of a store nearest to a question, or to several at once; nearest first, each chunk once.

    Raises:
        NotFound: there is no such store.
        InvalidRequest: it has expired, or a field of the request does not fit it.
        EmbeddingUnavailable, EmbeddingTimeout: the question could not be embedded.
    """
    limit = _limit(resources, request)
    table = await resources.database.chunk_table()
    questions = _questions(request)
    async with resources.database.connection() as connection:
        store = await stores.get_unexpired(connection, vector_store_id)
        if time.time() - (store["last_active_at"] or 0) > TOUCH_SECONDS:
            await vector_stores.touch(connection, vector_store_id)
    if store["embedding_dimension"] is None:  # nothing was ever put in
        return _page(questions, [])
    queries = await _queries(resources, store, store["embedding_dimension"], questions, request)
    threshold = (request.ranking_options and request.ranking_options.score_threshold) or 0.0
    async with resources.database.connection() as connection:
        found = [
            await chunks.search(
                connection,
                table,
                vector_store_id,
                query=query,
                filter=request.filters,
                max_distance=2.0 * (1.0 - threshold),
                limit=limit,
            )
            for query in queries
        ]
    has_attributes = request.return_metadata is not False
    return _page(questions, [_result(match, has_attributes) for match in _nearest(found, limit)])


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


def _nearest(found: Iterable[Sequence[Match]], limit: int) -> list[Match]:
    """The best of several questions' matches; a chunk that answers more than one keeps its best distance."""
    best: dict[str, Match] = {}
    for matches in found:
        for match in matches:
            if match["id"] not in best or match["distance"] < best[match["id"]]["distance"]:
                best[match["id"]] = match
    return sorted(best.values(), key=lambda match: (match["distance"], match["id"]))[:limit]


def _result(match: Match, has_attributes: bool) -> SearchResult:
    # A table of somebody else's may have any JSON here.
    metadata = cast("dict[str, Any]", match["attributes"]) if isinstance(match["attributes"], dict) else None
    return {
        "file_id": match["file_id"] or match["id"],
        "filename": match["filename"] or _filename(metadata) or match["id"],
        "score": min(max(1.0 - match["distance"] / 2.0, 0.0), 1.0),
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
