"""What is asked of a model over HTTP, in every shape, on engines that count letters."""

import math
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest

from embedder.engines import Engine, ModelSpec
from embedder.server import create_app
from tests.embedder.conftest import HermeticSettings, Serve, app_of, served
from tests.embedder.letter_engine import LetterEngine

PROMPTS = {"query": "qq", "document": "dd", "clustering": "kk"}
DOCUMENTS = ["abz", "zzz", "abc"]
MODELS = """
models:
  - name: letters
    matryoshka: [2, 3]
  - {name: strict, truncate: refuse}
  - {name: plain, normalize: false, query_prompt: zzz, passage_prompt: ""}
  - {name: sparse}
  - {name: reranker, aliases: [rerank-1]}
"""


def load(spec: ModelSpec, **_: Any) -> Engine:
    kinds: dict[str, Any] = {"sparse": "sparse", "reranker": "rerank"}
    return LetterEngine(kinds.get(spec.source, "dense"), prompts=PROMPTS)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    file = tmp_path_factory.mktemp("shapes") / "models.yaml"
    file.write_text(MODELS)
    app = create_app(HermeticSettings(config=file), load=load)
    with served(app) as address, httpx.Client(base_url=address) as http:
        yield http


def embedding(http: httpx.Client, text: str, **fields: Any) -> list[float]:
    response = http.post("/v1/embeddings", json={"model": "letters", "input": text, **fields})
    return response.raise_for_status().json()["data"][0]["embedding"]


def error(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()["error"]
    return response.status_code, body["param"], body["message"]


@pytest.mark.parametrize("ids", [[15339], [[15339]]])
def test_openais_token_ids_are_read_as_the_text_they_stand_for(http: httpx.Client, ids: list[Any]) -> None:
    response = http.post("/v1/embeddings", json={"model": "letters", "input": ids}).json()

    assert response["data"][0]["embedding"] == embedding(http, "hello")
    assert response["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_fewer_dimensions_are_the_first_ones_at_length_one(http: httpx.Client) -> None:
    short = embedding(http, "aabbbc", dimensions=2)

    assert short == pytest.approx([2 / math.sqrt(13), 3 / math.sqrt(13)])


def test_dimensions_that_a_model_does_not_have_are_refused_with_those_it_has(http: httpx.Client) -> None:
    response = http.post("/v1/embeddings", json={"model": "letters", "input": "a", "dimensions": 4})

    expected = "The model 'letters' has 26 dimensions and cannot give 4; leave 'dimensions' out, or ask for 2, 3."
    assert error(response) == (400, "dimensions", expected)


def test_a_text_that_was_cut_is_counted_in_a_header(http: httpx.Client) -> None:
    response = http.post("/v1/embeddings", json={"model": "letters", "input": ["a", "b" * 1001]})

    assert response.headers["x-truncated-texts"] == "1"
    assert response.json()["usage"]["prompt_tokens"] == 1001


def test_a_text_that_may_not_be_cut_is_a_400(http: httpx.Client) -> None:
    response = http.post("/v1/embeddings", json={"model": "strict", "input": "b" * 1001})

    assert error(response)[:2] == (400, "input")
    assert "has 1001 tokens; the model reads at most 1000" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "input_type", "prompt"),
    [
        ("letters", None, ""),
        ("letters", "query", "qq"),
        ("letters", "search_query", "qq"),
        ("letters", "passage", "dd"),
        ("letters", "search_document", "dd"),
        ("letters", "clustering", "kk"),
        ("letters", "of no meaning", ""),
        ("letters", 7, ""),
        ("plain", "query", "zzz"),
        ("plain", "document", ""),
    ],
)
def test_the_input_type_chooses_the_prompt(http: httpx.Client, model: str, input_type: Any, prompt: str) -> None:
    body = {"model": model, "input": "a", "input_type": input_type}
    usage = http.post("/v1/embeddings", json=body).json()["usage"]

    assert usage["prompt_tokens"] == len(prompt) + 1
    assert embedding(http, "a", model=model, input_type=input_type) == embedding(http, f"{prompt}a", model=model)


def test_a_model_may_be_declared_to_give_vectors_of_any_length(http: httpx.Client) -> None:
    assert embedding(http, "aab", model="plain")[:3] == pytest.approx([2, 1, 0])


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_ranked_in_coheres_and_jinas_shape(http: httpx.Client, path: str) -> None:
    body = {"model": "rerank-1", "query": "ab", "documents": ["zz", {"text": "ab"}, "az"], "top_n": 2}
    answer = http.post(path, json=body).json()

    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 2, "relevance_score": 0.5}]
    assert answer["model"] == "reranker"
    assert answer["usage"] == {"prompt_tokens": 15, "total_tokens": 15}


def test_a_ranking_carries_its_documents_when_asked(http: httpx.Client) -> None:
    body = {"query": "ab", "documents": DOCUMENTS, "return_documents": True, "top_n": 1}
    objects = http.post("/v1/rerank", json=body).json()["results"]
    strings = http.post("/infinity/rerank", json=body).json()["results"]

    assert objects == [{"index": 0, "relevance_score": 1.0, "document": {"text": "abz"}}]
    assert strings == [{"index": 0, "relevance_score": 1.0, "document": "abz"}]


def test_texts_are_ranked_in_the_shape_of_text_embeddings_inference(http: httpx.Client) -> None:
    raw = http.post("/rerank", json={"query": "ab", "texts": DOCUMENTS, "raw_scores": True, "return_text": True})
    squashed = http.post("/rerank", json={"query": "ab", "texts": DOCUMENTS, "truncate": True, "top_n": 1})

    assert [(one["index"], one["score"], one["text"]) for one in raw.json()] == [
        (0, 1.0, "abz"),
        (2, 1.0, "abc"),
        (1, 0.0, "zzz"),
    ]
    assert squashed.json() == [{"index": 0, "score": pytest.approx(1 / (1 + math.exp(-1)))}]


@pytest.mark.parametrize("path", ["/v1/sparse_embeddings", "/v1/embed_sparse", "/embed_sparse"])
def test_sparse_vectors_are_indices_and_values(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"model": "sparse", "input": ["bab", "z"]}).json()

    assert answer["data"] == [
        {"object": "sparse_embedding", "index": 0, "indices": [0, 1], "values": [1.0, 2.0]},
        {"object": "sparse_embedding", "index": 1, "indices": [25], "values": [1.0]},
    ]
    assert answer["usage"]["total_tokens"] == 4


def test_the_pools_shape_takes_texts_with_options(http: httpx.Client) -> None:
    options = {"normalize": False, "max_seq_length": 3, "dtype": "bfloat16"}
    answer = http.post("/embed", json={"model": "letters", "texts": ["aabz", "c"], "options": options}).json()

    assert [row[:3] for row in answer["embeddings"]] == [[2, 1, 0], [0, 0, 1]]
    assert (answer["dimensions"], answer["dtype"], answer["model"]) == (26, "bfloat16", "letters")


def test_the_single_shape_takes_a_text(http: httpx.Client) -> None:
    answer = http.post("/embed", json={"text": "ab"}).json()

    assert answer == {"embedding": embedding(http, "ab"), "dimensions": 26}


def test_the_batch_shape_takes_texts(http: httpx.Client) -> None:
    answer = http.post("/batch_embed", json={"texts": ["ab", "c"]}).json()
    nothing = http.post("/batch_embed", json={"texts": []}).json()

    assert answer == {"embeddings": [embedding(http, "ab"), embedding(http, "c")], "dimensions": 26}
    assert nothing == {"embeddings": [], "dimensions": 26}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_rounded_to_the_nearest_of_the_narrower_type(http: httpx.Client, dtype: str) -> None:
    exact = np.array(embedding(http, "aabc"), dtype=np.float32)
    body = {"model": "letters", "texts": ["aabc"], "options": {"dtype": dtype}}
    rounded = np.array(http.post("/embed", json=body).json()["embeddings"][0])

    assert 0 < np.abs(rounded - exact).max() < 0.004


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": [1]}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": [{"body": "a"}]}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "texts": [1]}, "texts.0"),
        ("/v1/rerank", {"query": "a", "documents": ["a"] * 2049}, "documents"),
        ("/v1/rerank", {"model": "letters", "query": "a", "documents": ["a"]}, "model"),
        ("/v1/embeddings", {"model": "reranker", "input": "a"}, "model"),
        ("/v1/sparse_embeddings", {"model": "letters", "input": "a"}, "model"),
        ("/v1/sparse_embeddings", {"input": []}, "input"),
        ("/embed", {}, "text"),
        ("/embed", {"text": "a", "texts": ["a"]}, "text"),
        ("/embed", {"text": ""}, "text"),
        ("/embed", {"texts": ["a"], "options": {"dtype": "int8"}}, "options.dtype"),
        ("/embed", {"texts": ["a"], "options": {"normalise": True}}, "options.normalise"),
        ("/batch_embed", {"texts": "a"}, "texts"),
        ("/batch_embed", {"texts": ["a", ""]}, "texts"),
    ],
)
def test_a_wrong_field_is_named_in_a_400(http: httpx.Client, path: str, body: Any, param: str) -> None:
    response = http.post(path, json=body)

    assert error(response)[:2] == (400, param)


def test_models_and_aliases_are_listed_and_found(http: httpx.Client) -> None:
    listed = {model["id"]: model["kind"] for model in http.get("/v1/models").json()["data"]}

    assert listed["letters"] == "dense"
    assert listed["rerank-1"] == listed["reranker"] == "rerank"
    assert http.get("/v1/models/rerank-1").json()["id"] == "rerank-1"
    assert http.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"


def test_the_numbers_for_prometheus_count_requests_texts_and_tokens(serve: Serve) -> None:
    with serve(LetterEngine()) as address, httpx.Client(base_url=address) as http:
        http.post("/v1/embeddings", json={"model": "letters", "input": ["abc", "d"]})
        http.get("/no/such/path")
        lines = http.get("/metrics").text.splitlines()

    assert 'quiver_embedder_requests_total{path="/v1/embeddings",status="200"} 1.0' in lines
    assert 'quiver_embedder_requests_total{path="other",status="404"} 1.0' in lines
    assert 'quiver_embedder_texts_total{model="letters"} 2.0' in lines
    assert 'quiver_embedder_tokens_total{model="letters"} 4.0' in lines
    assert 'quiver_embedder_model_state{model="letters",state="ready"} 1.0' in lines


def test_pages_of_other_origins_are_let_in_only_when_they_are_named(serve: Serve) -> None:
    origin = {"origin": "https://app.example"}
    with ExitStack() as servers:
        closed = servers.enter_context(serve(LetterEngine()))
        opened = servers.enter_context(serve(LetterEngine(), cors_origins=["https://app.example"]))
        answers = [httpx.get(f"{address}/health", headers=origin) for address in (closed, opened)]

    allowed = [answer.headers.get("access-control-allow-origin") for answer in answers]
    assert allowed == [None, "https://app.example"]
    exposed = answers[1].headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == {"x-request-id", "x-truncated-texts", "retry-after"}


def test_a_full_queue_is_a_429_with_retry_after(wait_until: Callable[..., None]) -> None:
    engine = LetterEngine()
    app = app_of(engine, served_name="letters", max_queued_tokens=3)
    with served(app) as address, ThreadPoolExecutor() as callers:
        engine.hold()
        first = callers.submit(post, address, "first")
        wait_until(engine.begun.is_set)
        second = callers.submit(post, address, "second")
        wait_until(lambda: queued_tokens(app) == len("second"))
        third = post(address, "third")
        engine.release()

        assert (first.result().status_code, second.result().status_code) == (200, 200)
    assert third.status_code == 429
    assert int(third.headers["retry-after"]) >= 1
    assert third.json()["error"]["type"] == "rate_limit_error"


def test_a_client_that_hangs_up_leaves_the_queue(wait_until: Callable[..., None]) -> None:
    engine = LetterEngine()
    app = app_of(engine, served_name="letters")
    with served(app) as address, ThreadPoolExecutor() as callers:
        engine.hold()
        first = callers.submit(post, address, "first")
        wait_until(engine.begun.is_set)
        with socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0)) as caller:
            body = b'{"model": "letters", "input": "gone"}'
            caller.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            wait_until(lambda: queued_tokens(app) == len("gone"))
        wait_until(lambda: queued_tokens(app) == 0)
        engine.release()

        assert first.result().status_code == 200
    assert engine.batches == [["first"]]


def test_a_text_the_model_cannot_bear_is_a_500_and_the_next_one_is_fine(serve: Serve) -> None:
    with serve(LetterEngine()) as address:
        bad, good = post(address, "poison"), post(address, "a")

    assert (bad.status_code, good.status_code) == (500, 200)
    assert bad.json()["error"]["code"] == "model_failed"


def post(address: str, text: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/embeddings", json={"model": "letters", "input": text}, timeout=30)


def queued_tokens(app: Any) -> int:
    return app.state.service.pool.get_model("letters").loaded.queued_tokens
