"""The description of the API: what FastAPI reads off the routes, and what is true of all of them.

Those are the key, `Idempotency-Key` and the failures. A route declares a failure that others do not have as a
response without content; here it gets OpenAI's envelope as the rest.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from api.auth import KEYS, PUBLIC_PATHS
from api.errors import Envelope

UNPROCESSABLE = "422"  # FastAPI's answer to bad input; ours is a 400
DESCRIPTIONS = {
    400: "The request is wrong; the message says what is, and `param` where.",
    401: "There is no key, or a wrong one.",
    403: "The key is not allowed to do this; the message says which role is.",
    404: "Something that the request names does not exist.",
    409: "The request contradicts what is there, or another one with its Idempotency-Key is being carried out.",
    413: "The body is larger than the server takes.",
    416: "The file has none of the bytes that were asked for.",
    429: "The limit of the key's requests, of searches at once, or of what may be stored is reached.",
    500: "The server had an error.",
    502: "The embedding service cannot be reached, or failed.",
    503: "The database cannot be reached, or is too busy.",
    504: "The embedding service did not answer in time.",
}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request, sent again with the same key within 24 hours, gets its first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
SCHEMA_OF = "#/components/schemas/{model}"


class DescribedApp(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            _complete(super().openapi())
        assert self.openapi_schema is not None  # what FastAPI made of the routes
        return self.openapi_schema


def _complete(description: dict[str, Any]) -> None:
    schema = TypeAdapter(Envelope).json_schema(ref_template=SCHEMA_OF)
    components = description["components"]
    schemas = components["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    schemas |= schema.pop("$defs") | {"Envelope": schema}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if path not in PUBLIC_PATHS:
                _complete_operation(path, method, operation)


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    operation["security"] = [{"key": []}]
    if method == "post" and not KEYS.fullmatch(path):
        operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    responses: dict[str, Any] = operation["responses"]
    responses.pop(UNPROCESSABLE, None)
    declared = {int(status) for status in responses if int(status) >= 400}
    responses |= {str(status): _failure(status) for status in declared | _failures(method, operation)}
    operation["responses"] = {status: responses[status] for status in sorted(responses)}


def _failure(status: int) -> dict[str, Any]:
    envelope = {"$ref": SCHEMA_OF.format(model="Envelope")}
    return {"description": DESCRIPTIONS[status], "content": {"application/json": {"schema": envelope}}}


def _failures(method: str, operation: dict[str, Any]) -> set[int]:
    """What may go wrong with a request of this form."""
    failures = {400, 401, 403, 429, 500, 503}
    parameters: list[dict[str, Any]] = operation.get("parameters", [])
    if any(parameter["in"] == "path" for parameter in parameters):
        failures.add(404)
    if "requestBody" in operation:
        failures.add(413)
    if method == "post":
        failures.add(409)
    return failures
