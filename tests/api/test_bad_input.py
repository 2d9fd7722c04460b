"""Bad input gets OpenAI's envelope and changes nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.conftest import Serve, raw
from tests.fake_embedder import DIMENSION

STORES = "/v1/vector_stores"


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient) -> str:
    store = await openai.vector_stores.create()
    await http.post(f"{STORES}/{store.id}/embeddings", json={"content": "the only one"})
    return store.id


async def snapshot(http: httpx.AsyncClient, store: str) -> Any:
    stores = (await http.get(STORES)).json()
    chunks = (await http.get(f"{STORES}/{store}/embeddings")).json()
    return [(s["id"], s["name"], s["file_counts"], s["usage_bytes"]) for s in stores["data"]], chunks


def vector(first: str) -> str:
    return f"[{first}{', 1.0' * (DIMENSION - 1)}]"


EMBEDDINGS = "/{store}/embeddings"
SEARCH = "/{store}/search"
NESTED_1000 = '{"query":"x","filters":' + '{"type":"and","filters":[' * 1000 + "{}" + "]}" * 1000 + "}"
NESTED_30 = (
    '{"query":"x","filters":' + '{"type":"and","filters":[' * 30 + '{"type":"eq","key":"a","value":1}' + "]}" * 30 + "}"
)
WIDE = json.dumps(
    {"query": "x", "filters": {"type": "or", "filters": [{"type": "eq", "key": "a", "value": i} for i in range(501)]}}
)
INJECTED = """{"query":"x","filters":{"type":"eq","key":"a'); DROP TABLE vector_stores; --","value":1}}"""
PAIRS_17 = json.dumps({"metadata": {str(i): "v" for i in range(17)}})

CASES = {
    "wrong dimension": (EMBEDDINGS, '{"content":"x","embedding":[1.0,2.0]}', "embedding", "embedding_dimension_mismatch"),
    "NaN": (EMBEDDINGS, f'{{"content":"x","embedding":{vector("NaN")}}}', None, "invalid_json"),
    "infinity": (EMBEDDINGS, f'{{"content":"x","embedding":{vector("Infinity")}}}', None, "invalid_json"),
    "beyond float32": (EMBEDDINGS, f'{{"content":"x","embedding":{vector("1e39")}}}', "embedding", "invalid_value"),
    "beyond float64": (EMBEDDINGS, f'{{"content":"x","embedding":{vector("1e999")}}}', None, "invalid_json"),
    "NaN in base64": (EMBEDDINGS, '{"content":"x","embedding":"AADAfw=="}', "embedding", "invalid_value"),
    "no base64": (EMBEDDINGS, '{"content":"x","embedding":"?"}', "embedding", "invalid_value"),
    "half a float": (EMBEDDINGS, '{"content":"x","embedding":"AAA="}', "embedding", "invalid_value"),
    "zero vector": (EMBEDDINGS, f'{{"content":"x","embedding":[0{", 0" * (DIMENSION - 1)}]}}', "embedding", "invalid_value"),
    "empty vector": (EMBEDDINGS, '{"content":"x","embedding":[]}', "embedding", "array_below_min_length"),
    "empty content": (EMBEDDINGS, '{"content":""}', "content", "invalid_value"),
    "blank content": (EMBEDDINGS, '{"content":" \\n\\t"}', "content", "invalid_value"),
    "no content": (EMBEDDINGS, '{"embedding":[1.0]}', "content", "missing_required_parameter"),
    "NUL in content": (EMBEDDINGS, '{"content":"a\\u0000b"}', "content", "invalid_value"),
    "NUL in metadata": (EMBEDDINGS, '{"content":"a","metadata":{"a":[{"\\u0000":1}]}}', "metadata", "invalid_value"),
    "lone surrogate": (EMBEDDINGS, '{"content":"\\ud800"}', None, "invalid_json"),
    "metadata 101 deep": (EMBEDDINGS, '{"content":"a","metadata":' + '{"a":' * 101 + "1" + "}" * 102, "metadata", "invalid_value"),
    "booleans for numbers": (EMBEDDINGS, '{"content":"x","embedding":[true,false]}', "embedding.0", "invalid_type"),
    "lists in the list": (EMBEDDINGS, f'{{"content":"[x]","embedding":{vector("[1.0]")}}}', "embedding.0", "invalid_type"),
    "2049 embeddings": (EMBEDDINGS + "/batch", json.dumps({"embeddings": [{"content": "x"}] * 2049}), "embeddings", "array_above_max_length"),
    "unknown field": (EMBEDDINGS, '{"content":"x","vector":[1.0]}', "vector", "unknown_parameter"),
    "empty batch": (EMBEDDINGS + "/batch", '{"embeddings":[]}', "embeddings", "array_below_min_length"),
    "one id twice": (
        EMBEDDINGS + "/batch",
        '{"embeddings":[{"id":"a","content":"x"},{"id":"a","content":"y"}]}',
        "embeddings.1.id",
        "invalid_value",
    ),
    "bad one in a batch": (
        EMBEDDINGS + "/batch",
        '{"embeddings":[{"content":"fine"},{"content":""}]}',
        "embeddings.1.content",
        "invalid_value",
    ),
    "17 metadata keys": ("", PAIRS_17, "metadata", "object_above_max_properties"),
    "long metadata key": ("", json.dumps({"metadata": {"k" * 65: "v"}}), None, "string_above_max_length"),
    "long metadata value": ("", json.dumps({"metadata": {"k": "v" * 513}}), "metadata.k", "string_above_max_length"),
    "metadata number": ("", '{"metadata":{"k":1}}', "metadata.k", "invalid_type"),
    "unknown field of a store": ("", '{"nam":"x"}', "nam", "unknown_parameter"),
    "zero days": ("", '{"expires_after":{"anchor":"last_active_at","days":0}}', "expires_after.days", "integer_below_min_value"),
    "unknown anchor": ("", '{"expires_after":{"anchor":"created_at","days":1}}', "expires_after.anchor", "invalid_value"),
    "overlap over half": (
        "",
        '{"chunking_strategy":{"type":"static","static":{"max_chunk_size_tokens":100,"chunk_overlap_tokens":51}}}',
        "chunking_strategy.static",
        "invalid_value",
    ),
    "no dimension": ("", '{"metadata":{"embedding_dimension":"many"}}', "metadata.embedding_dimension", "invalid_value"),
    "injected key": (SEARCH, INJECTED, "filters.key", "invalid_value"),
    "nested 1000 deep": (SEARCH, NESTED_1000, None, "invalid_json"),
    "nested 30 deep": (SEARCH, NESTED_30, "filters", "invalid_value"),
    "501 conditions": (SEARCH, WIDE, "filters", "invalid_value"),
    "misspelt filters": (SEARCH, '{"query":"x","filter":{"a":1}}', "filter", "unknown_parameter"),
    "misspelt filter type": (SEARCH, '{"query":"x","filters":{"type":"equals","key":"a","value":1}}', "filters.type", "invalid_value"),
    "filter without type": (SEARCH, '{"query":"x","filters":{"key":"a","value":1}}', "filters.type", "missing_required_parameter"),
    "list for eq": (SEARCH, '{"query":"x","filters":{"type":"eq","key":"a","value":[1]}}', "filters", "invalid_value"),
    "scalar for in": (SEARCH, '{"query":"x","filters":{"type":"in","key":"a","value":1}}', "filters", "invalid_value"),
    "filter type of another kind": (SEARCH, '{"query":"x","filters":{"type":{"a":1}}}', None, "invalid_type"),
    "501 flat conditions": (SEARCH, json.dumps({"query": "x", "filters": {str(i): 1 for i in range(501)}}), None, "object_above_max_properties"),
    "number as text": (SEARCH, '{"query":"x","max_num_results":"5"}', "max_num_results", "invalid_type"),
    "nested flat value": (SEARCH, '{"query":"x","filters":{"a":{"b":1}}}', None, "invalid_type"),
    "negative max_num_results": (SEARCH, '{"query":"x","max_num_results":-1}', "max_num_results", "integer_below_min_value"),
    "max_num_results of 51": (SEARCH, '{"query":"x","max_num_results":51}', "max_num_results", "integer_above_max_value"),
    "both limits": (SEARCH, '{"query":"x","max_num_results":5,"limit":5}', None, "invalid_value"),
    "threshold of 2": (SEARCH, '{"query":"x","ranking_options":{"score_threshold":2}}', "ranking_options.score_threshold", "decimal_above_max_value"),
    "unknown ranker": (SEARCH, '{"query":"x","ranking_options":{"ranker":"best"}}', "ranking_options.ranker", "invalid_value"),
    "no query": (SEARCH, "{}", None, "invalid_value"),
    "two queries": (SEARCH, '{"query":"x","query_embedding":[1.0]}', None, "invalid_value"),
    "empty query": (SEARCH, '{"query":""}', "query", "invalid_value"),
    "no queries": (SEARCH, '{"query":[]}', "query", "array_below_min_length"),
    "empty one of the queries": (SEARCH, '{"query":["x",""]}', "query.1", "invalid_value"),
    "NaN in a query_embedding": (SEARCH, '{"query_embedding":"AADAfw=="}', "query_embedding", "invalid_value"),
    "half a float in a query_embedding": (SEARCH, '{"query_embedding":"AAA="}', "query_embedding", "invalid_value"),
    "query_embedding that is no base64": (SEARCH, '{"query_embedding":"?"}', "query_embedding", "invalid_value"),
    "short query_embedding in base64": (SEARCH, '{"query_embedding":"AACAPw=="}', "query_embedding", "embedding_dimension_mismatch"),
    "short query_embedding": (SEARCH, '{"query_embedding":[1.0]}', "query_embedding", "embedding_dimension_mismatch"),
    "not JSON": (SEARCH, "{nope", None, "invalid_json"),
    "not an object": (SEARCH, "[]", None, "invalid_type"),
    "nothing": (SEARCH, "", None, "missing_required_parameter"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param", "code"), CASES.values(), ids=CASES.keys())
async def test_bad_input_is_refused_and_changes_nothing(
    http: httpx.AsyncClient, store: str, path: str, body: str, param: str | None, code: str
) -> None:
    before = await snapshot(http, store)

    answer = await http.post(
        STORES + path.format(store=store), content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert await snapshot(http, store) == before


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case[0] == EMBEDDINGS])
async def test_a_batch_is_refused_for_what_is_wrong_with_one_chunk(
    http: httpx.AsyncClient, store: str, case: str
) -> None:
    before = await snapshot(http, store)
    _, body, param, code = CASES[case]

    answer = await http.post(
        f"{STORES}/{store}/embeddings/batch",
        content=f'{{"embeddings":[{{"content":"fine"}},{body}]}}',
        headers={"Content-Type": "application/json"},
    )

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code)
    assert error["param"] == (param and f"embeddings.1.{param}")
    assert await snapshot(http, store) == before


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=-1", "limit"), ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("order=up", "order"),
     ("befor=x", "befor"), ("after=x%00", "after")],
)  # fmt: skip
async def test_bad_paging_is_refused(http: httpx.AsyncClient, store: str, query: str, param: str) -> None:
    for path in (STORES, f"{STORES}/{store}/embeddings"):
        answer = await http.get(f"{path}?{query}")

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("DELETE", ""), ("POST", "/search"), ("POST", "/embeddings"), ("GET", "/embeddings"),
     ("POST", "/embeddings/batch"), ("GET", "/embeddings/x"), ("DELETE", "/embeddings/x")],
)  # fmt: skip
async def test_an_unknown_store_is_not_found(http: httpx.AsyncClient, method: str, path: str) -> None:
    body = {"/search": {"query": "x"}, "/embeddings": {"content": "x"}}.get(path, {})
    body = {"embeddings": [{"content": "x"}]} if path.endswith("batch") else body

    answer = await http.request(method, f"{STORES}/vs_none{path}", json=body)

    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "No vector store found with id 'vs_none'."


async def test_a_file_that_does_not_exist_is_named(http: httpx.AsyncClient) -> None:
    answer = await http.post(STORES, json={"file_ids": ["file-1"]})

    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "No such File object: file-1")
    assert (await http.get(STORES)).json()["data"] == []


async def test_a_body_over_the_limit_is_refused(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings, max_request_bytes=2000) as client:
        http = raw(client)

        fits = await http.post(STORES, json={"description": "x" * 1900})
        announced = await http.post(STORES, json={"description": "x" * 2001})
        streamed = await http.post(STORES, content=chunks_of(3), headers={"Content-Type": "application/json"})

        assert [answer.status_code for answer in (fits, announced, streamed)] == [200, 413, 413]
        assert announced.json()["error"]["code"] == "request_too_large"
        assert len((await http.get(STORES)).json()["data"]) == 1


async def chunks_of(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * 1000


async def test_unknown_urls_and_methods_have_the_envelope_too(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/nothing")).json()["error"]["code"] == "unknown_url"
    put = await http.put(STORES)
    assert put.json()["error"]["code"] == "method_not_allowed"
    assert put.headers["allow"] == "GET, POST"
