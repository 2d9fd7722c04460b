"""`/vector_stores/{id}/embeddings`: litellm-pgvector's way to put chunks in, with reading and deleting beside it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.answers import Json
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.embeddings import (
    CreateEmbeddingBatchRequest,
    CreateEmbeddingRequest,
    Embedding,
    EmbeddingBatch,
    EmbeddingDeleted,
    EmbeddingPage,
)
from api.schemas.requests import PageQuery
from api.services import chunks

router = APIRouter(prefix="/vector_stores/{vector_store_id}/embeddings", tags=["Embeddings"], route_class=JsonRoute)

EMBEDS: dict[int | str, dict[str, Any]] = {502: {}, 504: {}}  # how the embedding service fails


@router.post("", response_model=Embedding, responses=EMBEDS)
async def create_embedding(vector_store_id: str, request: CreateEmbeddingRequest, resources: Opened) -> Response:
    return Json(await chunks.create(resources, vector_store_id, request))


@router.post("/batch", response_model=EmbeddingBatch, responses=EMBEDS)
async def create_embedding_batch(
    vector_store_id: str, request: CreateEmbeddingBatchRequest, resources: Opened
) -> Response:
    return Json(await chunks.create_batch(resources, vector_store_id, request.embeddings))


@router.get("", response_model=EmbeddingPage)
async def list_embeddings(vector_store_id: str, query: Annotated[PageQuery, Query()], resources: Opened) -> Response:
    return Json(await chunks.list_page(resources, vector_store_id, query))


@router.get("/{embedding_id:path}", response_model=Embedding)
async def retrieve_embedding(vector_store_id: str, embedding_id: str, resources: Opened) -> Response:
    return Json(await chunks.get(resources, vector_store_id, embedding_id))


@router.delete("/{embedding_id:path}", response_model=EmbeddingDeleted)
async def delete_embedding(vector_store_id: str, embedding_id: str, resources: Opened) -> Response:
    return Json(await chunks.delete(resources, vector_store_id, embedding_id))
