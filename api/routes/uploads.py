"""`/uploads`: large files in parts."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.answers import Json
from api.routes.forms import form_errors, read_form
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.uploads import (
    CompleteUploadRequest,
    CreateUploadRequest,
    PresignedPart,
    PresignUploadPartRequest,
    Upload,
    UploadPart,
)
from api.services import uploads

router = APIRouter(tags=["Uploads"])
with_json = APIRouter(prefix="/uploads", route_class=JsonRoute)
with_form = APIRouter(prefix="/uploads")

FORM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["data"],
    "properties": {"data": {"type": "string", "format": "binary"}},
}


@with_json.post("", response_model=Upload)
async def create_upload(request: CreateUploadRequest, resources: Opened) -> Response:
    return Json(await uploads.create(resources, request))


@with_form.post(
    "/{upload_id}/parts",
    response_model=UploadPart,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def add_upload_part(upload_id: str, request: Request, resources: Opened) -> Response:
    form = read_form(request, limit=uploads.MAX_PART_BYTES, too_large=uploads.part_too_large())
    with form_errors():
        return Json(await uploads.add_part(resources, upload_id, form))


@with_json.post("/{upload_id}/presigned_parts", response_model=PresignedPart)
async def presign_upload_part(upload_id: str, request: PresignUploadPartRequest, resources: Opened) -> Response:
    """Ours: an address in S3 for a part that is larger than what stands before the server lets through."""
    return Json(await uploads.presign_part(resources, upload_id, request))


@with_json.post("/{upload_id}/complete", response_model=Upload)
async def complete_upload(upload_id: str, request: CompleteUploadRequest, resources: Opened) -> Response:
    return Json(await uploads.complete(resources, upload_id, request))


@with_json.post("/{upload_id}/cancel", response_model=Upload)
async def cancel_upload(upload_id: str, resources: Opened) -> Response:
    return Json(await uploads.cancel(resources, upload_id))


router.include_router(with_json)
router.include_router(with_form)
