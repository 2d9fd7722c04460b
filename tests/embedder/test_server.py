import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI

from embedder.engines import Tokens
from embedder.server import routes
from tests.embedder.conftest import Serve
from tests.embedder.letter_engine import LetterEngine

MODEL = "all-minilm-l6-v2"
KEY = "sk-embedder-key"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("input", "", "'input[0]' is an empty string."),
        ("input", ["a", ""], "'input[1]' is an empty string."),
        ("input", [], "empty list"),
        ("input", None, "string or a list of strings"),
        ("input", 7, "string or a list of strings"),
        ("input", ["a", None], "'input[1]' must be a string."),
        ("input", [1, "a"], "'input[0]' must be a string."),
        ("input", [[1, 2], ["a"]], "'input[1]' must be a list of token ids"),
        ("input", [[1, 2], []], "'input[1]' must be a list of token ids"),
        ("input", [200_000], "no text in cl100k_base"),
        ("input", [100_257], "no text in cl100k_base"),
        ("input", [-1], "no text in cl100k_base"),
        ("input", ["a"] * 2049, "at most 2048"),
        ("model", None, "'model' is wrong"),
        ("model", 1, "'model' is wrong"),
        ("encoding_format", "int8", "'float' or 'base64'"),
        ("dimensions", 256, "has 384 dimensions and cannot give 256"),
        ("dimensions", 0, "'dimensions' is wrong"),
        ("dimensions", "384", "'dimensions' is wrong"),
        ("dimensions", True, "'dimensions' is wrong"),
    ],
)
def test_a_wrong_field_is_named_in_a_400(http: httpx.Client, field: str, value: Any, says: str) -> None:
    response = http.post("/v1/embeddings", json={"model": MODEL, "input": "a", field: value})

    assert response.status_code == 400
    error = response.json()["error"]
    assert says in error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", field, "invalid_value")


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_missing_field_is_named(http: httpx.Client, field: str) -> None:
    body = {"model": MODEL, "input": "a"}
    del body[field]
    response = http.post("/v1/embeddings", json=body)

    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": f"The field {field!r} is missing.",
        "type": "invalid_request_error",
        "param": field,
        "code": "missing_required_parameter",
    }


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"model": "m", "input": "\\ud800"}', b"[" * 100_000])
def test_a_body_that_is_not_json_is_a_400(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/embeddings", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1"])
def test_a_body_that_is_not_an_object_is_a_400(http: httpx.Client, body: bytes) -> None:
    response = http.post("/v1/embeddings", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The body must be a JSON object."


def test_a_body_over_the_limit_is_a_413(http: httpx.Client) -> None:
    body = b" " * 1_000_001
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    announced = http.post("/v1/embeddings", content=body)
    streamed = http.post("/v1/embeddings", content=chunks)

    assert announced.status_code == streamed.status_code == 413
    assert announced.json()["error"]["code"] == "request_too_large"


def test_an_unknown_model_is_a_404_that_names_the_served_one(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="'gpt-4' is not served here; served: 'all-minilm-l6-v2'") as caught:
        client.embeddings.create(model="gpt-4", input="Hello")

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_an_unknown_path_and_a_wrong_method_are_answered_in_the_envelope(http: httpx.Client) -> None:
    path, method = http.get("/v1/nothing"), http.get("/v1/embeddings")

    assert (path.status_code, path.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_each_route_answers_with_and_without_v1(http: httpx.Client, prefix: str) -> None:
    embedding = http.post(f"{prefix}/embeddings", json={"model": MODEL, "input": "Hello"})

    assert embedding.status_code == 200
    assert http.get(f"{prefix}/models").json()["data"][0]["id"] == MODEL
    assert http.get(f"{prefix}/health").json() == {"status": "ok", "models": [MODEL]}


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY}x"])
def test_without_the_key_nothing_is_read_or_shown(serve: Serve, key: str | None) -> None:
    headers = {} if key is None else {"authorization": key}
    with serve(LetterEngine(), api_key=KEY) as address, httpx.Client(base_url=address, headers=headers) as http:
        embedding = http.post("/v1/embeddings", content=b"not json")
        models = http.get("/v1/models")
        health = http.get("/health")

    assert (embedding.status_code, models.status_code, health.status_code) == (401, 401, 200)
    assert embedding.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in embedding.text


def test_the_key_opens_and_another_does_not(serve: Serve) -> None:
    with serve(LetterEngine(), api_key=KEY) as address, OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        models = client.models.list().data
        with pytest.raises(AuthenticationError), client.with_options(api_key="wrong") as stranger:
            stranger.models.list()

    assert [model.id for model in models] == ["letters"]


def test_a_request_id_is_given_back_and_made_where_there_is_none(http: httpx.Client) -> None:
    given = http.get("/health", headers={"x-request-id": "abc-1"})
    made = http.get("/v1/nothing")
    unusable = http.get("/health", headers={"x-request-id": "x" * 129})

    assert given.headers["x-request-id"] == "abc-1"
    assert made.headers["x-request-id"].startswith("req_")
    assert unusable.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("level", "lines"), [("info", 1), ("warning", 0)])
def test_a_request_is_one_line_of_json_unless_the_log_is_for_worse(
    serve: Serve, capfd: pytest.CaptureFixture[str], level: str, lines: int
) -> None:
    with serve(LetterEngine(), log_level=level) as address:
        httpx.get(f"{address}/v1/models", headers={"x-request-id": "mine"})
        httpx.get(f"{address}/health")
    written = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]

    assert [(line["path"], line["status"], line["request_id"]) for line in written] == [
        ("/v1/models", 200, "mine")
    ] * lines


def test_a_bug_is_a_500_in_the_envelope_with_its_request_id(serve: Serve) -> None:
    class Broken(LetterEngine):
        def tokenize(self, texts: object, *, prompt: str = "") -> list[Tokens]:
            raise ZeroDivisionError

    with serve(Broken()) as address:
        response = httpx.post(f"{address}/v1/embeddings", json={"model": "letters", "input": "a"})

    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"].startswith("req_")


def test_the_request_is_described_in_openapi(http: httpx.Client) -> None:
    operation = http.get("/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]

    assert schema["required"] == ["model", "input"]
    assert "256 tokens" in schema["properties"]["input"]["description"]


def test_the_server_is_importable_without_torch_and_what_else_takes_long() -> None:
    heavy = "{'torch', 'sentence_transformers', 'fastapi', 'bpe_openai', 'ruamel', 'httpx'}"
    program = f"import sys, embedder.server; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)

    assert done.stdout == "set()\n"


def test_the_most_texts_of_one_request_are_a_setting(serve: Serve) -> None:
    with serve(LetterEngine(), max_texts=2) as address:
        response = httpx.post(f"{address}/embeddings", json={"model": "letters", "input": ["a", "b", "c"]})

    assert response.json()["error"]["message"] == "'input' has 3 texts; send at most 2 in one request."


def test_the_documented_paths_answer_with_and_without_v1() -> None:
    paths = {route.path for route in routes()}
    alone = {path for path in paths if not {path.removeprefix("/v1"), f"/v1{path}"} & (paths - {path})}

    assert {"/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/health", "/v1/ready"} <= paths - alone
    assert alone == {
        *("/v2/rerank", "/infinity/rerank", "/embed", "/batch_embed", "/metrics", "/openapi.json"),
        *("/admin/models", "/admin/models/{name:path}"),
    }
