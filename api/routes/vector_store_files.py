"""`/vector_stores/{vector_store_id}/files` and `/file_batches`: files put into a store, singly or many at once."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.answers import Json
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.file_batches import CreateFileBatchRequest, FileBatch
from api.schemas.vector_store_files import (
    CreateVectorStoreFileRequest,
    FileContentPage,
    FileContentQuery,
    UpdateVectorStoreFileRequest,
    VectorStoreFile,
    VectorStoreFileDeleted,
    VectorStoreFilePage,
    VectorStoreFileQuery,
)
from api.services import file_batches, vector_store_files

router = APIRouter(prefix="/vector_stores/{vector_store_id}", tags=["Vector store files"], route_class=JsonRoute)

FileQuery = Annotated[VectorStoreFileQuery, Query()]

POLL_AFTER_MS = "500"  # what the client's polling helpers wait for; a small file takes a worker less


@router.post("/files", response_model=VectorStoreFile)
async def create_vector_store_file(
    vector_store_id: str, request: CreateVectorStoreFileRequest, resources: Opened
) -> Response:
    return _polled(await vector_store_files.create(resources, vector_store_id, request))


@router.get("/files", response_model=VectorStoreFilePage)
async def list_vector_store_files(vector_store_id: str, query: FileQuery, resources: Opened) -> Response:
    return Json(await vector_store_files.list_page(resources, vector_store_id, query))


@router.get("/files/{file_id}", response_model=VectorStoreFile)
async def retrieve_vector_store_file(vector_store_id: str, file_id: str, resources: Opened) -> Response:
    return _polled(await vector_store_files.get(resources, vector_store_id, file_id))


@router.post("/files/{file_id}", response_model=VectorStoreFile)
async def update_vector_store_file(
    vector_store_id: str, file_id: str, request: UpdateVectorStoreFileRequest, resources: Opened
) -> Response:
    return Json(await vector_store_files.update(resources, vector_store_id, file_id, request))


@router.delete("/files/{file_id}", response_model=VectorStoreFileDeleted)
async def delete_vector_store_file(vector_store_id: str, file_id: str, resources: Opened) -> Response:
    return Json(await vector_store_files.delete(resources, vector_store_id, file_id))


@router.get("/files/{file_id}/content", response_model=FileContentPage)
async def retrieve_vector_store_file_content(
    vector_store_id: str, file_id: str, query: Annotated[FileContentQuery, Query()], resources: Opened
) -> Response:
    return Json(await vector_store_files.content(resources, vector_store_id, file_id, query))


@router.post("/file_batches", response_model=FileBatch)
async def create_file_batch(vector_store_id: str, request: CreateFileBatchRequest, resources: Opened) -> Response:
    return _polled(await file_batches.create(resources, vector_store_id, request))


@router.get("/file_batches/{batch_id}", response_model=FileBatch)
async def retrieve_file_batch(vector_store_id: str, batch_id: str, resources: Opened) -> Response:
    return _polled(await file_batches.get(resources, vector_store_id, batch_id))


@router.post("/file_batches/{batch_id}/cancel", response_model=FileBatch)
async def cancel_file_batch(vector_store_id: str, batch_id: str, resources: Opened) -> Response:
    return Json(await file_batches.cancel(resources, vector_store_id, batch_id))


@router.get("/file_batches/{batch_id}/files", response_model=VectorStoreFilePage)
async def list_file_batch_files(vector_store_id: str, batch_id: str, query: FileQuery, resources: Opened) -> Response:
    return Json(await file_batches.list_files(resources, vector_store_id, batch_id, query))


def _polled(answer: Mapping[str, Any]) -> Json:
    """An answer that the client asks for again until its status is a final one, and when to ask."""
    headers = {"openai-poll-after-ms": POLL_AFTER_MS} if answer["status"] == "in_progress" else None
    return Json(answer, headers=headers)
