"""Sparse vectors by the bundled embedder's own process: chunks filled by a worker's job, and questions."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from openai import AsyncOpenAI

from api.services import sparse_vectors
from tests.conftest import Serve, raw
from tests.embedder import tiny_models
from tests.fake_embedder import embed
from tests.processes import free_port, running
from tests.working import opened

ROOT = Path(__file__).parents[2]
QUESTION = "the cat"
TEXTS = ["the dog ran", "the cat sat on the mat", "on the the"]


@pytest.fixture
async def quiver(serve: Serve, settings: dict[str, Any], tmp_path: Path) -> AsyncIterator[AsyncOpenAI]:
    model = tiny_models.save_splade(tmp_path / "splade")
    url = f"http://127.0.0.1:{free_port()}"
    models = tmp_path / "models.yaml"
    models.write_text(yaml.safe_dump({"models": [{"name": "splade", "model": str(model), "engine": "torch"}]}))
    environment = {
        "PYTHONPATH": str(ROOT),
        "EMBEDDER_PORT": url.rpartition(":")[2],
        "EMBEDDER_CONFIG": str(models),
        "EMBEDDER_CACHE_DIR": str(tmp_path / "cache"),
    }
    settings["sparse"] = {"model": "splade", "base_url": url}
    command = [sys.executable, "-m", "embedder"]
    with running(command, env=environment, health=f"{url}/ready", log=tmp_path / "embedder.log"):
        async with serve(**settings) as quiver:
            yield quiver


async def test_the_scores_are_the_products_of_the_models_vectors(
    quiver: AsyncOpenAI, settings: dict[str, Any], tmp_path: Path
) -> None:
    store = (await quiver.vector_stores.create()).id
    chunks = [{"content": text, "embedding": embed(text).tolist()} for text in TEXTS]
    await raw(quiver).post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": chunks})
    async with opened(settings) as resources:
        filled = await sparse_vectors.fill(resources, seconds=60)

    body = {"query": QUESTION, "ranking_options": {"search_mode": "sparse"}}
    answer = await raw(quiver).post(f"/v1/vector_stores/{store}/search", json=body)

    vectors = tiny_models.sparse_vectors(tmp_path / "splade" / "tiny-splade", [QUESTION, *TEXTS])
    products = vectors[1:] @ vectors[0]
    expected = dict(zip(TEXTS, products / (products + np.square(vectors[0]).sum()), strict=True))
    found = {result["content"][0]["text"]: result["score"] for result in answer.json()["data"]}
    assert filled == len(TEXTS)
    assert found == pytest.approx(expected, abs=1e-4)
    assert list(found) == sorted(expected, key=lambda text: -expected[text])
