"""Searches by text: through a real LiteLLM proxy and the embedder, with the calls of many searches made as one."""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.up.embedded_postgres import EmbeddedPostgres
from bench import generated, stack
from bench.search import TOP, body, path
from bench.stack import Load
from embedder.engines import sources
from tests.processes import free_port, running

MODEL = "all-minilm-l6-v2"
MASTER_KEY = "sk-master-bench-0123456789"
CLIENTS = 32
QUESTIONS = 40_000  # so many that none is sent twice
SEEN = 300


@contextmanager
def proxy() -> Generator[str]:
    """The embedder with its bundled model, and the LiteLLM proxy on Quiver's configuration before it."""
    embedder_port, proxy_port = free_port(), free_port()
    url = f"http://127.0.0.1:{proxy_port}"
    cache = Path.home() / ".cache" / "quiver" / "models"
    environment = {
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "EMBEDDER_BASE_URL": f"http://127.0.0.1:{embedder_port}/v1",
        "EMBEDDER_API_KEY": "none",
        "QUIVER_BASE_URL": "http://127.0.0.1:1/v1",  # not used here
        "QUIVER_API_KEY": "none",
        "PG_VECTOR_API_BASE": "http://127.0.0.1:1",
        "PG_VECTOR_API_KEY": "none",
        "QUIVER_PG_VECTOR_STORE_ID": "none",
        "QUIVER_OPENAI_VECTOR_STORE_ID": "none-either",
    }
    litellm = [str(Path(sys.executable).with_name("litellm")), "--config", str(stack.ROOT / "litellm_config.yaml")]
    with (
        tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory,
        running(
            [sys.executable, "-m", "embedder"],
            env={
                "EMBEDDER_PORT": str(embedder_port),
                "EMBEDDER_CACHE_DIR": str(cache),
                "PYTHONPATH": str(stack.ROOT),
            },
            health=f"http://127.0.0.1:{embedder_port}/ready",
            log=Path(directory) / "embedder.log",
        ),
        running(
            [*litellm, "--host", "127.0.0.1", "--port", str(proxy_port)],
            env=environment,
            health=f"{url}/health/liveliness",
            log=Path(directory) / "proxy.log",
        ),
    ):
        yield url


def by_text(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    """Questions that are new, questions that were asked before, and words and vectors together."""
    store = asyncio.run(stack.fill(postgres, options.chunks, options.dimension))
    new = questions(QUESTIONS, seed=os.getpid())
    seen = generated.sentences(SEEN, words=9, seed=os.getpid())
    embedding = [{"model": MODEL, "input": [one], "encoding_format": "base64"} for one in new]
    with proxy() as proxy_url:
        # The same vectors both ways: those of texts lie far from the generated ones, which is a quarter more work.
        vectors = [body(vector) for vector in embedded(proxy_url, seen)]
        environment = {"EMBEDDING__BASE_URL": proxy_url, "EMBEDDING__API_KEY": MASTER_KEY}
        with stack.api(postgres, **environment) as served:
            load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid])
            once = "a proxied embedding each"
            load.add_http(once, proxy_url, "/v1/embeddings", embedding, clients=CLIENTS, key=MASTER_KEY)
            load.add_http("by text, all new", served.url, path(store), list(map(asked, new)), clients=CLIENTS)
            print(f"\nBy text, {store.count} chunks, {CLIENTS} clients; of the first, only the embedding is timed")
            stack.print_table(load.run(), base=once)

            load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
            load.add_http("by vector", served.url, path(store), vectors, clients=CLIENTS)
            load.add_http("by text, seen before", served.url, path(store), list(map(asked, seen)), clients=CLIENTS)
            print("\nQuestions that were asked before")
            stack.print_table(load.run(), base="by vector")

            load = Load(seconds=options.seconds, rounds=options.rounds, servers=[served.pid, postgres.process.pid])
            for way in ({"ranker": "none"}, {"ranker": "auto"}, {"ranker": "rrf"}, {"search_mode": "keyword"}):
                name = " ".join(way.values())
                bodies = [asked(question, **way) for question in seen]
                load.add_http(name, served.url, path(store), bodies, clients=1)
            print("\nQuestions of 9 words, asked before, 1 client; `none` is the vector leg alone")
            stack.print_table(load.run(), base="none")


def embedded(proxy_url: str, texts: list[str]) -> list[str]:
    """Their vectors in base64."""
    asked = {"model": MODEL, "input": texts, "encoding_format": "base64"}
    authorization = {"Authorization": f"Bearer {MASTER_KEY}"}
    answer = httpx.post(f"{proxy_url}/v1/embeddings", json=asked, headers=authorization, timeout=60)
    return [one["embedding"] for one in answer.raise_for_status().json()["data"]]


def questions(count: int, *, seed: int) -> list[str]:
    """Nine English words each, the last of them a number, no two alike: 12 tokens.

    The invented words of the generated chunks are strange to a tokenizer, which makes 26 tokens of nine of them.
    """
    tokenizer = json.loads((sources.bundled() / "tokenizer.json").read_text())
    words = [word for word in tokenizer["model"]["vocab"] if word.isascii() and word.isalpha()]
    chosen = random.Random(seed)  # noqa: S311  # a load of questions, no secret
    return [f"{' '.join(chosen.choices(words, k=8))} {number}" for number in range(count)]


def asked(question: str, **options: str) -> dict[str, Any]:
    return {"query": question, "max_num_results": TOP, "ranking_options": options or {"ranker": "none"}}
