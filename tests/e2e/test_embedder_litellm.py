"""The embedder behind a running LiteLLM proxy, by every prefix that leads to it."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from openai import OpenAI

from tests.embedder import tiny_models
from tests.processes import free_port, running

ROOT = Path(__file__).parents[2]
MASTER_KEY = "sk-master-test-0123456789"
EMBEDDER_KEY = "sk-embedder-test"
SECONDS = 60.0
QUERY, DOCUMENTS = "the cat", ["the dog ran", "the cat sat on the mat", "on on on"]

RERANKERS = {  # the model's prefix in LiteLLM, and the path of its api_base
    "hosted_vllm": "/v1",
    "cohere": "",
    "jina_ai": "",
    "infinity": "/infinity",
    "huggingface": "",
    "litellm_proxy": "",
}


@dataclass(frozen=True)
class Served:
    embedder_url: str
    proxy_url: str
    scores: list[float]  # as sentence-transformers itself gives them to the documents
    weights: NDArray[np.float32]  # the documents' sparse vectors, written out, as it gives them

    @property
    def proxy(self) -> OpenAI:
        return OpenAI(base_url=f"{self.proxy_url}/v1", api_key=MASTER_KEY, timeout=SECONDS, max_retries=0)

    @property
    def direct(self) -> OpenAI:
        return OpenAI(base_url=f"{self.embedder_url}/v1", api_key=EMBEDDER_KEY, timeout=SECONDS, max_retries=0)

    def rerank(self, provider: str, **fields: Any) -> Any:
        body = {"model": f"rerank-{provider}", "query": QUERY, "documents": DOCUMENTS, **fields}
        headers = {"authorization": f"Bearer {MASTER_KEY}"}
        response = httpx.post(f"{self.proxy_url}/v1/rerank", json=body, headers=headers, timeout=SECONDS)
        assert response.status_code == 200, response.text
        return response.json()["results"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_cache: str) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("served")
    reranker = tiny_models.save_cross_encoder(directory / "reranker")
    splade = tiny_models.save_splade(directory / "splade")
    scores = tiny_models.scores(reranker, [(QUERY, document) for document in DOCUMENTS]).tolist()
    weights = tiny_models.sparse_vectors(splade, DOCUMENTS)
    embedder_url, proxy_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    environment = {
        "PYTHONPATH": str(ROOT),
        "EMBEDDER_PORT": embedder_url.rpartition(":")[2],
        "EMBEDDER_API_KEY": EMBEDDER_KEY,
        "EMBEDDER_CONFIG": str(write_models(directory, reranker, splade)),
        "EMBEDDER_CACHE_DIR": model_cache,
    }
    proxy_environment = {
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
    }
    config = str(write_proxy_config(directory, embedder_url))
    litellm = str(Path(sys.executable).with_name("litellm"))
    with (
        running(
            [sys.executable, "-m", "embedder"],
            env=environment,
            health=f"{embedder_url}/ready",
            log=directory / "embedder.log",
        ),
        running(
            [litellm, "--config", config, "--host", "127.0.0.1", "--port", proxy_url.rpartition(":")[2]],
            env=proxy_environment,
            health=f"{proxy_url}/health/liveliness",
            log=directory / "proxy.log",
        ),
    ):
        yield Served(embedder_url, proxy_url, scores, weights)


def write_models(directory: Path, reranker: Path, splade: Path) -> Path:
    prompts = {"query_prompt": "query: ", "passage_prompt": "passage: "}
    models = [
        {"name": "minilm", "model": "all-minilm-l6-v2", "matryoshka": True, **prompts},
        {"name": "reranker", "model": str(reranker), "engine": "torch"},
        {"name": "splade", "model": str(splade), "engine": "torch"},
    ]
    path = directory / "models.yaml"
    path.write_text(yaml.safe_dump({"models": models}))
    return path


def write_proxy_config(directory: Path, embedder_url: str) -> Path:
    def entry(name: str, model: str, path: str) -> dict[str, Any]:
        params = {"model": model, "api_base": f"{embedder_url}{path}", "api_key": EMBEDDER_KEY}
        return {"model_name": name, "litellm_params": params}

    entries = [entry(f"rerank-{prefix}", f"{prefix}/reranker", path) for prefix, path in RERANKERS.items()]
    entries += [entry(f"embed-{prefix}", f"{prefix}/minilm", "/v1") for prefix in ("hosted_vllm", "openai")]
    path = directory / "litellm_config.yaml"
    path.write_text(yaml.safe_dump({"model_list": entries}))
    return path


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("provider", ["hosted_vllm", "openai"])
def test_vectors_through_the_proxy_are_the_embedders(served: Served, provider: str, encoding_format: Any) -> None:
    texts = ["Items may be sent back.", "The bakery opens at six."]
    through = served.proxy.embeddings.create(model=f"embed-{provider}", input=texts, encoding_format=encoding_format)
    direct = served.direct.embeddings.create(model="minilm", input=texts)

    assert np.allclose([as_floats(item.embedding) for item in through.data], [item.embedding for item in direct.data])
    assert through.usage.prompt_tokens == direct.usage.prompt_tokens


def as_floats(embedding: Any) -> list[float]:
    """The proxy hands base64 on; the client decodes it only where it asked for it by itself."""
    import base64

    return np.frombuffer(base64.b64decode(embedding), "<f4").tolist() if isinstance(embedding, str) else embedding


@pytest.mark.parametrize(
    ("input_type", "prompt"), [("query", "query: "), ("passage", "passage: "), ("document", "passage: ")]
)
def test_the_input_type_reaches_the_embedder_through_the_proxy(served: Served, input_type: str, prompt: str) -> None:
    extra = {"input_type": input_type}
    asked = served.proxy.embeddings.create(model="embed-hosted_vllm", input="bread", extra_body=extra)
    plain = served.direct.embeddings.create(model="minilm", input=f"{prompt}bread")

    assert np.allclose(asked.data[0].embedding, plain.data[0].embedding)


def test_fewer_dimensions_reach_the_embedder_through_the_proxy(served: Served) -> None:
    short = served.proxy.embeddings.create(model="embed-hosted_vllm", input="bread", dimensions=64)

    assert len(short.data[0].embedding) == 64


@pytest.mark.parametrize("provider", RERANKERS)
def test_documents_are_ranked_through_the_proxy(served: Served, provider: str) -> None:
    results = served.rerank(provider)

    given = {result["index"]: result["relevance_score"] for result in results}
    assert [given[index] for index in range(len(DOCUMENTS))] == pytest.approx(served.scores, abs=1e-4)
    assert sorted(given.values(), reverse=True) == [result["relevance_score"] for result in results]


@pytest.mark.parametrize("provider", RERANKERS)
def test_a_ranking_through_the_proxy_is_cut_and_carries_its_documents(served: Served, provider: str) -> None:
    results = served.rerank(provider, top_n=2, return_documents=True)

    assert len(results) == 2
    assert [document_text(result) for result in results] == [DOCUMENTS[result["index"]] for result in results]


def document_text(result: Any) -> str:
    return result["document"]["text"]


def test_sparse_vectors_are_those_of_sentence_transformers(served: Served) -> None:
    headers = {"authorization": f"Bearer {EMBEDDER_KEY}"}
    body = {"model": "splade", "input": DOCUMENTS}
    answer = httpx.post(f"{served.embedder_url}/v1/sparse_embeddings", json=body, headers=headers).json()

    written_out = np.zeros_like(served.weights)
    for row, item in zip(written_out, answer["data"], strict=True):
        row[item["indices"]] = item["values"]
    assert np.allclose(written_out, served.weights, atol=1e-4)


def test_an_error_of_the_embedder_reaches_the_proxys_caller(served: Served) -> None:
    headers = {"authorization": f"Bearer {MASTER_KEY}"}
    body = {"model": "embed-hosted_vllm", "input": ["a", ""]}
    response = httpx.post(f"{served.proxy_url}/v1/embeddings", json=body, headers=headers, timeout=SECONDS)

    assert response.status_code == 400
    assert "'input[1]' is an empty string." in response.text
