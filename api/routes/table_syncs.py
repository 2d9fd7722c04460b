"""`/table_syncs`: tables of the same database that are kept searchable in a store."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from api.answers import Json
from api.errors import Forbidden
from api.resources import Resources
from api.routes.json_route import JsonRoute
from api.routes.parameters import Opened
from api.schemas.requests import PageQuery
from api.schemas.table_syncs import (
    AdoptVectorizerRequest,
    CreateTableSyncRequest,
    DropTableSyncQuery,
    TableSync,
    TableSyncDeleted,
    TableSyncPage,
)
from api.services import pgai_adoption, table_syncs

router = APIRouter(prefix="/table_syncs", tags=["Table syncs"], route_class=JsonRoute)


async def _of_all_tenants(resources: Opened) -> Resources:
    if resources.database.scope.tenant is not None:
        raise Forbidden("Table syncs read tables that no tenant owns: they need SERVER_API_KEY, acting for no tenant.")
    return resources


OpenedWhole = Annotated[Resources, Depends(_of_all_tenants)]


@router.post("", response_model=TableSync, responses={404: {}})
async def create_table_sync(request: CreateTableSyncRequest, resources: OpenedWhole) -> Response:
    return Json(await table_syncs.create(resources, request))


@router.post("/from_pgai", response_model=TableSync, responses={404: {}})
async def adopt_vectorizer(request: AdoptVectorizerRequest, resources: OpenedWhole) -> Response:
    return Json(await pgai_adoption.adopt(resources, request))


@router.get("", response_model=TableSyncPage)
async def list_table_syncs(query: Annotated[PageQuery, Query()], resources: OpenedWhole) -> Response:
    return Json(await table_syncs.list_page(resources, query))


@router.get("/{table_sync_id}", response_model=TableSync)
async def retrieve_table_sync(table_sync_id: str, resources: OpenedWhole) -> Response:
    return Json(await table_syncs.get(resources, table_sync_id))


@router.delete("/{table_sync_id}", response_model=TableSyncDeleted)
async def drop_table_sync(
    table_sync_id: str, query: Annotated[DropTableSyncQuery, Query()], resources: OpenedWhole
) -> Response:
    return Json(await table_syncs.drop(resources, table_sync_id, deletes_store=query.delete_vector_store))
