"""`/health`, `/ready` and `/metrics`, for whoever operates Quiver."""

from fastapi import APIRouter
from fastapi.responses import Response

from api.answers import Json
from api.metrics import CONTENT_TYPE
from api.routes.parameters import Opened
from api.schemas.operations import Health, Readiness
from api.services import queue, readiness

router = APIRouter(tags=["Operations"])


@router.get("/health", response_model=Health)
async def health() -> Response:
    """The process runs."""
    return Json({"status": "ok"})


@router.get("/ready", response_model=Readiness, responses={503: {"model": Readiness}})
async def ready(resources: Opened) -> Response:
    """What a request needs is there; what is not is named."""
    answer = await readiness.check(resources)
    return Json(answer, status_code=200 if answer["status"] == "ok" else 503)


@router.get("/metrics", include_in_schema=False)
async def metrics(resources: Opened) -> Response:
    """What Prometheus reads."""
    resources.metrics.set_queue(await queue.depth(resources))
    return Response(resources.metrics.text(), media_type=CONTENT_TYPE)
