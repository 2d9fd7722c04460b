"""`/keys`: callers' keys, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api import key_schemas, schemas
from api.answers import Json
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.services import keys

router = APIRouter(prefix="/keys", tags=["Keys"], route_class=JsonRoute)


@router.post("", response_model=key_schemas.ApiKey, responses={404: {}})
async def create_api_key(request: key_schemas.CreateApiKeyRequest, resources: Opened) -> Response:
    """Make a key. Its `value` is in this answer and nowhere else."""
    return Json(await keys.create(resources, request), headers={"Cache-Control": "no-store"})


@router.get("", response_model=key_schemas.ApiKeyPage)
async def list_api_keys(query: Annotated[schemas.PageQuery, Query()], resources: Opened) -> Response:
    return Json(await keys.list_page(resources, query))


@router.delete("/{key_id}", response_model=key_schemas.ApiKeyDeleted)
async def delete_api_key(key_id: str, resources: Opened) -> Response:
    """Revoke a key. It is refused within seconds, by every process."""
    return Json(await keys.delete(resources, key_id))
