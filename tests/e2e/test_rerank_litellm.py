"""A search reranked by the bundled embedder's cross-encoder, through a running LiteLLM proxy."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from api.services import keywords
from tests.conftest import Serve, raw
from tests.embedder import tiny_models
from tests.fake_embedder import embed
from tests.processes import free_port, running
from tests.working import opened

ROOT = Path(__file__).parents[2]
MASTER_KEY = "sk-master-test-0123456789"
QUESTION = "the cat"
TEXTS = ["the dog ran", "the cat sat on the mat", "on the the"]


@pytest.fixture
async def search(serve: Serve, settings: dict[str, Any], tmp_path: Path) -> AsyncIterator[Any]:
    reranker = tiny_models.save_cross_encoder(tmp_path / "reranker")
    embedder_url, proxy_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [{"name": "tiny", "model": str(reranker), "engine": "torch"}]}))
    environment = {
        "PYTHONPATH": str(ROOT),
        "EMBEDDER_PORT": embedder_url.rpartition(":")[2],
        "EMBEDDER_CONFIG": str(models),
        "EMBEDDER_CACHE_DIR": str(tmp_path / "cache"),
    }
    parameters = {"model": "hosted_vllm/tiny", "api_base": f"{embedder_url}/v1", "api_key": "none"}
    config = tmp_path / "proxy.yaml"
    config.write_text(yaml.safe_dump({"model_list": [{"model_name": "reranker", "litellm_params": parameters}]}))
    with (
        running(
            [sys.executable, "-m", "embedder"],
            env=environment,
            health=f"{embedder_url}/ready",
            log=tmp_path / "embedder.log",
        ),
        running(
            [
                *(str(Path(sys.executable).with_name("litellm")), "--config", str(config)),
                *("--host", "127.0.0.1", "--port", proxy_url.rpartition(":")[2]),
            ],
            env={"LITELLM_MASTER_KEY": MASTER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            health=f"{proxy_url}/health/liveliness",
            log=tmp_path / "proxy.log",
        ),
    ):
        settings |= {"embedding": {"base_url": proxy_url, "api_key": MASTER_KEY}}
        async with serve(**settings) as quiver:
            store = (await quiver.vector_stores.create()).id
            chunks = [{"content": text, "embedding": embed(text).tolist()} for text in TEXTS]
            await raw(quiver).post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
            async with opened(settings) as resources:
                await keywords.index(resources, seconds=60)

            async def search(ranker: str) -> httpx.Response:
                options = {"search_mode": "keyword", "ranker": ranker}
                body = {"query": QUESTION, "ranking_options": options}
                return await raw(quiver).post(f"/v1/vector_stores/{store}/search", json=body)

            yield search


async def test_the_order_and_the_scores_are_the_cross_encoders(search: Any, tmp_path: Path) -> None:
    model = tmp_path / "reranker" / "tiny-cross-encoder"
    expected = dict(zip(TEXTS, tiny_models.scores(model, [(QUESTION, text) for text in TEXTS]).tolist(), strict=True))

    answer = await search("reranker")

    found = {result["content"][0]["text"]: result["score"] for result in answer.json()["data"]}
    assert "x-quiver-rerank" not in answer.headers
    assert found == pytest.approx(expected, abs=1e-4)
    assert list(found) == sorted(expected, key=lambda text: -expected[text])

    unknown = await search("no-such-model")

    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "ranking_options.ranker")
