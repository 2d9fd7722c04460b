"""The models: listed for everybody in OpenAI's shape, changed by whoever has the admin key."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from embedder.errors import InvalidRequest
from embedder.model import Model
from embedder.registry import Declaration
from embedder.schemas import parse, parse_json
from embedder.service import Service, json_response, read_body, service_of


async def list_models(request: Request) -> Response:
    service = service_of(request)
    service.check_key(request)
    data = [described for model in service.pool.models for described in descriptions(service, model)]
    return json_response({"object": "list", "data": data})


async def retrieve_model(request: Request) -> Response:
    service = service_of(request)
    service.check_key(request)
    name = request.path_params["name"]
    return json_response(description(service, service.pool.get_model(name), name))


def descriptions(service: Service, model: Model) -> Iterator[dict[str, Any]]:
    if model.declaration.enabled:
        for name in model.declaration.names:
            yield description(service, model, name)


def description(service: Service, model: Model, name: str) -> dict[str, Any]:
    status = model.status()
    return {
        "id": name,
        "object": "model",
        "created": service.started_at,
        "owned_by": "quiver",
        "kind": status["kind"],
        "dimensions": status["dimensions"],
        "max_tokens": status["max_tokens"],
    }


async def list_statuses(request: Request) -> Response:
    service = administered(request)
    statuses = [model.status() for model in service.pool.models]
    return json_response({"object": "list", "data": statuses, "config_error": service.pool.config_error})


async def retrieve_status(request: Request) -> Response:
    service = administered(request)
    return json_response(service.pool.get_model(request.path_params["name"]).status())


async def register_model(request: Request) -> Response:
    """Answered when the model is loaded, or cannot be."""
    service = administered(request)
    declaration = parse(Declaration, parse_json(await read_body(request)))
    return json_response(await service.pool.register(declaration), status=201)


async def change_model(request: Request) -> Response:
    service = administered(request)
    values = parse_json(await read_body(request))
    model = service.pool.get_model(request.path_params["name"])
    if "name" in values:
        raise InvalidRequest("A model keeps its name; give it an alias instead.", param="name")
    parse(Declaration, model.declaration.model_dump(exclude_unset=True) | values)
    return json_response(await service.pool.change(request.path_params["name"], **values))


async def unregister_model(request: Request) -> Response:
    """Answered when the model has finished what it was asked."""
    service = administered(request)
    name = request.path_params["name"]
    await service.pool.unregister(name)
    return json_response({"name": name, "object": "model", "deleted": True})


def administered(request: Request) -> Service:
    service = service_of(request)
    service.check_admin_key(request)
    return service
