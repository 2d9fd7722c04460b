"""`/files`: uploaded files and their bytes."""

import mimetypes
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from api.answers import Json, failure
from api.routes.forms import form_errors, read_form
from api.routes.parameters import Opened
from api.routes.ranges import Range, RangeNotSatisfiable, read_range
from api.schemas.files import PURPOSES, FileDeleted, FileObject, FilePage, FileQuery
from api.services import files

router = APIRouter(prefix="/files", tags=["Files"])

BYTES: dict[str, Any] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
FORM: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
}


@router.post(
    "",
    response_model=FileObject,
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FORM}}}},
)
async def create_file(request: Request, resources: Opened) -> Response:
    limit = resources.settings.max_file_bytes
    form = read_form(request, limit=limit, too_large=files.file_too_large(limit))
    with form_errors():
        return Json(await files.create(resources, form))


@router.get("", response_model=FilePage)
async def list_files(query: Annotated[FileQuery, Query()], resources: Opened) -> Response:
    return Json(await files.list_page(resources, query))


@router.get("/{file_id}", response_model=FileObject)
async def retrieve_file(file_id: str, resources: Opened) -> Response:
    return Json(await files.get(resources, file_id))


@router.delete("/{file_id}", response_model=FileDeleted)
async def delete_file(file_id: str, resources: Opened) -> Response:
    return Json(await files.delete(resources, file_id))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={
        200: BYTES,
        206: BYTES | {"description": "The range that was asked for."},
        307: {"description": "It is larger than MAX_ANSWER_BYTES, and is in S3."},
        413: {},
        416: {},
    },
)
async def download_file(file_id: str, request: Request, resources: Opened) -> Response:
    file = await files.get_with_content(resources, file_id)
    size = file["bytes"]
    try:
        asked = read_range(request.headers, size)
    except RangeNotSatisfiable as error:
        answer = failure(error)
        answer.headers["Content-Range"] = f"bytes */{size}"
        return answer
    part = asked or Range(0, size)
    most = resources.settings.max_answer_bytes
    if most is not None and part.end - part.start > most:
        url = await files.content_url(resources, file_id, most_bytes=most)
        return RedirectResponse(url, headers={"Cache-Control": "no-store"})
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(part.end - part.start),
        # A browser must not show it in our name, whatever it is; the charset of a text is not known.
        "Content-Type": _media_type(file["filename"]),
        "Content-Disposition": _attachment(file["filename"]),
        "X-Content-Type-Options": "nosniff",
    }
    if asked is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{size}"
    return StreamingResponse(
        files.open_content(resources, file_id, start=part.start, end=part.end),
        status_code=200 if asked is None else 206,
        headers=headers,
    )


def _media_type(filename: str) -> str:
    guessed, encoding = mimetypes.guess_type(filename)
    return guessed if guessed and encoding is None else "application/octet-stream"


def _attachment(filename: str) -> str:
    quoted = quote(filename, safe="")
    return f'attachment; filename="{filename}"' if quoted == filename else f"attachment; filename*=UTF-8''{quoted}"
