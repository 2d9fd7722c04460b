"""The description of the HTTP interface, from the schemas that check it."""

from typing import Any

from pydantic import BaseModel

from embedder.registry import Declaration
from embedder.schemas import BatchEmbedRequest, EmbeddingRequest, EmbedRequest, RerankRequest, SparseRequest

OPERATIONS: tuple[tuple[str, str, str, type[BaseModel] | None], ...] = (
    ("post", "/v1/embeddings", "Embed a text or a list of texts, in their order.", EmbeddingRequest),
    ("post", "/v1/sparse_embeddings", "Weights of vocabulary entries for each text.", SparseRequest),
    ("post", "/v1/rerank", "Rank documents by their relevance to a query.", RerankRequest),
    ("get", "/v1/models", "List the models.", None),
    ("get", "/v1/models/{name}", "Describe a model.", None),
    ("post", "/embed", "Embed in the shape of older servers.", EmbedRequest),
    ("post", "/batch_embed", "Embed in the shape of older servers.", BatchEmbedRequest),
    ("get", "/health", "Whether the process runs.", None),
    ("get", "/ready", "Whether the models are loaded.", None),
    ("get", "/metrics", "Numbers for Prometheus.", None),
    ("get", "/admin/models", "List the models and how they do. Needs the admin key.", None),
    ("post", "/admin/models", "Register a model. Needs the admin key.", Declaration),
    ("patch", "/admin/models/{name}", "Change what is declared of a model. Needs the admin key.", None),
    ("delete", "/admin/models/{name}", "Unregister a model. Needs the admin key.", None),
)


def document() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for method, path, summary, body in OPERATIONS:
        paths.setdefault(path, {})[method] = operation(path, summary, body)
    return {"openapi": "3.1.0", "info": {"title": "Quiver embedder", "version": "1"}, "paths": paths}


def operation(path: str, summary: str, body: type[BaseModel] | None) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": summary, "responses": {"200": {"description": "Done."}}}
    if "{name}" in path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if body is not None:
        content = {"application/json": {"schema": body.model_json_schema()}}
        described["requestBody"] = {"required": True, "content": content}
    return described
