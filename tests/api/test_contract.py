"""The check that every answer of these tests goes through: it lets pass what OpenAI describes, and fails the rest."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from api.app import create_app
from tests.conftest import KEY, make_settings
from tests.openai_contract import ANSWERS, NOT_OF_THE_API, problem, verify, verify_sync

STORE: dict[str, Any] = {
    "id": "vs_1",
    "object": "vector_store",
    "created_at": 1,
    "name": "",
    "usage_bytes": 0,
    "file_counts": {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0},
    "status": "completed",
    "last_active_at": None,
    "metadata": None,
}
PAGE: dict[str, Any] = {"object": "list", "data": [STORE], "first_id": "vs_1", "last_id": "vs_1", "has_more": False}
ERROR: dict[str, Any] = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
FILE: dict[str, Any] = {
    "id": "file-1",
    "object": "vector_store.file",
    "usage_bytes": 0,
    "created_at": 1,
    "vector_store_id": "vs_1",
    "status": "failed",
    "last_error": {"code": "invalid_file", "message": "It is empty."},
}
RETRIEVE_STORE = ("GET", "/v1/vector_stores/vs_1")
RETRIEVE_FILE = ("GET", "/v1/vector_stores/vs_1/files/file-1")


def answer(
    method: str, path: str, content: Any, status: int = 200, *, media_type: str = "application/json"
) -> httpx.Response:
    headers = {"x-request-id": "req_1", "Content-Type": media_type}
    return httpx.Response(status, json=content, headers=headers, request=httpx.Request(method, f"http://quiver{path}"))


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


RIGHT = {
    "only what is required": answer(*RETRIEVE_STORE, STORE),
    "a field of ours": answer(*RETRIEVE_STORE, STORE | {"description": None}),
    "a base that ends in /v1 twice": answer("GET", "/v1/v1/vector_stores/vs_1", STORE),
    "no base at all": answer("GET", "/vector_stores/vs_1", STORE),
    "a list": answer("GET", "/v1/vector_stores", PAGE),
    "an empty list": answer("GET", "/v1/vector_stores", PAGE | {"data": [], "first_id": None, "last_id": None}),
    "a failed file": answer(*RETRIEVE_FILE, FILE),
    "attributes of every type": answer(*RETRIEVE_FILE, FILE | {"attributes": {"a": "x", "b": 1, "c": 0.5, "d": True}}),
    "an error": answer(*RETRIEVE_STORE, {"error": ERROR}, 404),
    "an error of an unknown path": answer("PUT", "/v1/nothing", {"error": ERROR}, 404),
    "a probe": answer("GET", "/ready", {"status": "unavailable"}, 503),
}
WRONG = {
    "a field is missing": (answer(*RETRIEVE_STORE, without(STORE, "status")), "status\n  Field required"),
    "a field of a part is missing": (answer(*RETRIEVE_STORE, STORE | {"file_counts": {}}), "file_counts.total\n  F"),
    "a text for a number": (answer(*RETRIEVE_STORE, STORE | {"created_at": "1"}), "created_at\n  Input should be"),
    "a fraction for an integer": (answer(*RETRIEVE_STORE, STORE | {"created_at": 1.5}), "created_at\n"),
    "a value that is none of them": (answer(*RETRIEVE_STORE, STORE | {"status": "ready"}), "status\n"),
    "another object": (answer(*RETRIEVE_STORE, STORE | {"object": "file"}), "object\n"),
    "null for a text": (answer(*RETRIEVE_STORE, STORE | {"name": None}), "name\n"),
    "a number in the metadata": (answer(*RETRIEVE_STORE, STORE | {"metadata": {"a": 1}}), "metadata.a\n"),
    "a negative count": (answer(*RETRIEVE_STORE, STORE | {"usage_bytes": -1}), "usage_bytes\n"),
    "a list as an attribute": (answer(*RETRIEVE_FILE, FILE | {"attributes": {"a": []}}), "attributes.a"),
    "a wrong item of a list": (answer("GET", "/v1/vector_stores", PAGE | {"data": [FILE]}), "data.0.object\n"),
    "an error without a code": (answer(*RETRIEVE_STORE, {"error": without(ERROR, "code")}, 404), "error.code\n"),
    "an error without a param": (answer(*RETRIEVE_STORE, {"error": without(ERROR, "param")}, 404), "error.param\n"),
    "an error that is no envelope": (answer(*RETRIEVE_STORE, {"detail": []}, 422), "error\n  Field required"),
    "another success": (answer("POST", "/v1/vector_stores", STORE, 201), "answered with 201"),
    "a redirect": (answer(*RETRIEVE_STORE, STORE, 307), "answered with 307"),
    "an unknown path": (answer("GET", "/v1/assistants", STORE), "does not describe"),
    "an unknown method": (answer("PATCH", "/v1/vector_stores/vs_1", STORE), "does not describe"),
    "no JSON": (answer(*RETRIEVE_STORE, STORE, media_type="text/plain"), "instead of JSON"),
}


@pytest.mark.parametrize("response", RIGHT.values(), ids=RIGHT.keys())
def test_an_answer_as_openai_describes_it_passes(response: httpx.Response) -> None:
    assert problem(response) is None


@pytest.mark.parametrize(("response", "part"), WRONG.values(), ids=WRONG.keys())
def test_any_other_answer_is_named(response: httpx.Response, part: str) -> None:
    assert part in (problem(response) or "")


def test_an_answer_without_a_request_id_is_named() -> None:
    response = httpx.Response(200, json=STORE, request=httpx.Request(RETRIEVE_STORE[0], "http://quiver/v1/files"))

    assert "x-request-id" in (problem(response) or "")


def wrong(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=STORE | {"status": "ready"}, headers={"x-request-id": "req_1"})


async def test_the_async_client_cannot_hide_a_wrong_answer() -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(wrong), event_hooks={"response": [verify]})
    async with AsyncOpenAI(base_url="http://quiver/v1", api_key=KEY, http_client=http) as client:
        with pytest.raises(pytest.fail.Exception, match="status"):
            await client.vector_stores.retrieve("vs_1")


def test_the_sync_client_cannot_hide_a_wrong_answer() -> None:
    http = httpx.Client(transport=httpx.MockTransport(wrong), event_hooks={"response": [verify_sync]})
    with (
        OpenAI(base_url="http://quiver/v1", api_key=KEY, http_client=http) as client,
        pytest.raises(pytest.fail.Exception, match="status"),
    ):
        client.vector_stores.retrieve("vs_1")


async def test_the_bytes_of_a_file_are_left_to_who_reads_them() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"text"

    request = httpx.Request("GET", "http://quiver/v1/files/file-1/content")
    response = httpx.Response(206, content=content(), headers={"x-request-id": "req_1"}, request=request)
    await verify(response)

    assert not response.is_stream_consumed


def test_the_clients_of_these_tests_check_every_answer(http: httpx.AsyncClient) -> None:
    assert http.event_hooks["response"] == [verify]


def test_every_route_of_the_api_is_described(settings: dict[str, Any]) -> None:
    paths = create_app(make_settings(**settings)).openapi()["paths"]
    routes = {
        (method.upper(), re.sub(r"{\w+}", "{id}", path.removeprefix("/v1")))
        for path in paths.keys() - NOT_OF_THE_API
        for method in paths[path]
    }

    assert routes == {(method, path.replace("{path}", "{id}")) for method, path in ANSWERS}
