"""For whoever runs the embedder: is it alive, is it ready, what has it done, how is it spoken to."""

from starlette.requests import Request
from starlette.responses import Response

from embedder.openapi import document
from embedder.service import json_response, service_of


async def health(request: Request) -> Response:
    pool = service_of(request).pool
    return json_response({"status": "ok", "models": [model.declaration.name for model in pool.models]})


async def ready(request: Request) -> Response:
    """503 until the models have been loaded, and when none of them can be. One that fails does not take all out."""
    pool = service_of(request).pool
    states = {model.declaration.name: model.state for model in pool.models}
    is_ready = pool.has_loaded.is_set() and bool({"ready", "idle"} & set(states.values()))
    body = {"status": "ready" if is_ready else "not ready", "models": states, "config_error": pool.config_error}
    return json_response(body, status=200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


async def openapi(_request: Request) -> Response:
    return json_response(document())
