"""`/vector_stores`: the stores themselves and their search."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.answers import Json
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.requests import PageQuery
from api.schemas.search import SearchRequest, SearchResultsPage
from api.schemas.vector_indexes import VectorStoreIndex
from api.schemas.vector_stores import (
    CreateVectorStoreRequest,
    UpdateVectorStoreRequest,
    VectorStore,
    VectorStoreDeleted,
    VectorStorePage,
)
from api.services import search, stores, vector_indexes

router = APIRouter(prefix="/vector_stores", tags=["Vector stores"], route_class=JsonRoute)


@router.post("", response_model=VectorStore, responses={404: {}})
async def create_vector_store(request: CreateVectorStoreRequest, resources: Opened) -> Response:
    return Json(await stores.create(resources, request))


@router.get("", response_model=VectorStorePage)
async def list_vector_stores(query: Annotated[PageQuery, Query()], resources: Opened) -> Response:
    return Json(await stores.list_page(resources, query))


@router.get("/{vector_store_id}", response_model=VectorStore)
async def retrieve_vector_store(vector_store_id: str, resources: Opened) -> Response:
    return Json(await stores.get(resources, vector_store_id))


@router.post("/{vector_store_id}", response_model=VectorStore)
async def modify_vector_store(vector_store_id: str, request: UpdateVectorStoreRequest, resources: Opened) -> Response:
    return Json(await stores.update(resources, vector_store_id, request))


@router.delete("/{vector_store_id}", response_model=VectorStoreDeleted)
async def delete_vector_store(vector_store_id: str, resources: Opened) -> Response:
    return Json(await stores.delete(resources, vector_store_id))


@router.get("/{vector_store_id}/index", response_model=VectorStoreIndex)
async def retrieve_vector_store_index(vector_store_id: str, resources: Opened) -> Response:
    return Json(await vector_indexes.get(resources, vector_store_id))


@router.post("/{vector_store_id}/search", response_model=SearchResultsPage, responses={502: {}, 504: {}})
async def search_vector_store(vector_store_id: str, request: SearchRequest, resources: Opened) -> Response:
    found = await search.search(resources, vector_store_id, request)
    missing = {"x-quiver-rerank": found.is_rerank_missing, "x-quiver-sparse": found.is_sparse_missing}
    return Json(found.page, headers={header: "unavailable" for header, is_missing in missing.items() if is_missing})
