"""`/keys`: callers' keys, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.answers import Json
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.keys import ApiKey, ApiKeyDeleted, ApiKeyPage, CreateApiKeyRequest
from api.schemas.requests import PageQuery
from api.services import keys

router = APIRouter(prefix="/keys", tags=["Keys"], route_class=JsonRoute)


@router.post("", response_model=ApiKey, responses={404: {}})
async def create_api_key(request: CreateApiKeyRequest, resources: Opened) -> Response:
    """Make a key. Its `value` is in this answer and nowhere else."""
    return Json(await keys.create(resources, request), headers={"Cache-Control": "no-store"})


@router.get("", response_model=ApiKeyPage)
async def list_api_keys(query: Annotated[PageQuery, Query()], resources: Opened) -> Response:
    return Json(await keys.list_page(resources, query))


@router.delete("/{key_id}", response_model=ApiKeyDeleted)
async def delete_api_key(key_id: str, resources: Opened) -> Response:
    """Revoke a key. It is refused within seconds, by every process."""
    return Json(await keys.delete(resources, key_id))
