"""The key: who has none or a wrong one gets OpenAI's 401, before anything is read."""

from typing import Any

import httpx
import pytest

from api.app import create_app
from api.errors import ConfigurationError
from tests.conftest import KEY, Serve, make_settings

ROUTES = [
    ("GET", "/v1/vector_stores"),
    ("POST", "/v1/vector_stores"),
    ("GET", "/v1/vector_stores/vs_1"),
    ("POST", "/v1/vector_stores/vs_1"),
    ("DELETE", "/v1/vector_stores/vs_1"),
    ("GET", "/v1/vector_stores/vs_1/index"),
    ("POST", "/v1/vector_stores/vs_1/search"),
    ("POST", "/v1/vector_stores/vs_1/embeddings"),
    ("POST", "/v1/vector_stores/vs_1/embeddings/batch"),
    ("GET", "/v1/vector_stores/vs_1/embeddings"),
    ("GET", "/v1/vector_stores/vs_1/embeddings/emb_1"),
    ("DELETE", "/v1/vector_stores/vs_1/embeddings/emb_1"),
    ("POST", "/v1/vector_stores/vs_1/files"),
    ("GET", "/v1/vector_stores/vs_1/files"),
    ("GET", "/v1/vector_stores/vs_1/files/file-1"),
    ("POST", "/v1/vector_stores/vs_1/files/file-1"),
    ("DELETE", "/v1/vector_stores/vs_1/files/file-1"),
    ("GET", "/v1/vector_stores/vs_1/files/file-1/content"),
    ("POST", "/v1/vector_stores/vs_1/file_batches"),
    ("GET", "/v1/vector_stores/vs_1/file_batches/vsfb_1"),
    ("POST", "/v1/vector_stores/vs_1/file_batches/vsfb_1/cancel"),
    ("GET", "/v1/vector_stores/vs_1/file_batches/vsfb_1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files"),
    ("GET", "/v1/files/file-1"),
    ("DELETE", "/v1/files/file-1"),
    ("GET", "/v1/files/file-1/content"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/upload_1/parts"),
    ("POST", "/v1/uploads/upload_1/presigned_parts"),
    ("POST", "/v1/uploads/upload_1/complete"),
    ("POST", "/v1/uploads/upload_1/cancel"),
    ("POST", "/v1/table_syncs"),
    ("POST", "/v1/table_syncs/from_pgai"),
    ("GET", "/v1/table_syncs"),
    ("GET", "/v1/table_syncs/ts_1"),
    ("DELETE", "/v1/table_syncs/ts_1"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", "/v1/keys/key_1"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer ключ"]
)
async def test_without_the_key_no_route_answers(
    http: httpx.AsyncClient, method: str, path: str, authorization: str
) -> None:
    answer = await http.request(method, path, content=b"{nope", headers=[(b"Authorization", authorization.encode())])

    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")


async def test_every_route_is_in_the_table_above(serve: Serve, settings: dict[str, Any]) -> None:
    schema = create_app(make_settings(**settings)).openapi()

    documented = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
    tried = {
        (
            method,
            path.replace("vs_1", "{vector_store_id}")
            .replace("emb_1", "{embedding_id}")
            .replace("file-1", "{file_id}")
            .replace("vsfb_1", "{batch_id}")
            .replace("upload_1", "{upload_id}")
            .replace("key_1", "{key_id}")
            .replace("ts_1", "{table_sync_id}"),
        )
        for method, path in ROUTES
    }
    assert documented - tried == {("GET", "/health"), ("GET", "/ready")}


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs"])
async def test_probes_and_documentation_need_no_key(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path, headers={"Authorization": ""})).status_code == 200


@pytest.mark.parametrize(
    "key", [None, " " * 20, "schlüssel-mit-umlaut", "your-api-key-here", "YOUR-API-KEY-HERE", "sk-1234", "short"]
)
def test_the_api_refuses_to_start_without_a_real_key(settings: dict[str, Any], key: str | None) -> None:
    with pytest.raises(ConfigurationError, match="SERVER_API_KEY"):
        create_app(make_settings(**settings | {"server_api_key": key}))


async def test_development_may_go_without_a_key(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"server_api_key": None, "quiver_development": True}) as client:
        assert (await client.vector_stores.list()).data == []


async def test_an_answer_carries_the_id_of_its_request(http: httpx.AsyncClient) -> None:
    chosen = await http.get("/v1/vector_stores", headers={"x-request-id": "trace-1"})
    forged = await http.get("/v1/vector_stores", headers={"x-request-id": "a b"})
    refused = await http.get("/v1/vector_stores", headers={"Authorization": ""})

    assert chosen.headers["x-request-id"] == "trace-1"
    assert forged.headers["x-request-id"].startswith("req_")
    assert refused.headers["x-request-id"].startswith("req_")
    assert int(chosen.headers["openai-processing-ms"]) >= 0
