"""How good the answers are: nDCG@10 and recall@100 on retrieval sets, each way of searching through the API.

    make bench-quality DATA=DIRECTORY

A set is a directory in BEIR's layout, its JSON lines compressed or not: corpus.jsonl, queries.jsonl, and qrels.tsv with
a header line. Beside the API stand an exact search of the same vectors in memory and bm25s.
"""

import argparse
import asyncio
import csv
import gzip
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import bm25s
import httpx
import numpy as np
import Stemmer
import structlog

from api.app import create_app
from api.embeddings import Embeddings
from api.services import keywords
from api.settings import EmbeddingSettings, Settings
from api.tables import migrations
from api.up.embedded_postgres import EmbeddedPostgres
from bench import stack
from tests.processes import free_port

KEY = "sk-bench-0123456789abcdef"
TOP = 10
DEPTH = 100
BATCH = 200

# How a search is asked for. The store of `english` ways has stems, the other words as they are.
WAYS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "auto": ("simple", {"ranker": "auto"}),
    "vector": ("simple", {"search_mode": "vector"}),
    "keyword": ("simple", {"search_mode": "keyword"}),
    "hybrid rrf": ("simple", {"ranker": "rrf"}),
    "hybrid weighted 0.5": ("simple", {"ranker": "weighted", "alpha": 0.5}),
    "hybrid weighted": ("simple", {"ranker": "weighted"}),
    "english auto": ("english", {"ranker": "auto"}),
    "english keyword": ("english", {"search_mode": "keyword"}),
    "english hybrid rrf": ("english", {"ranker": "rrf"}),
    "english hybrid weighted": ("english", {"ranker": "weighted"}),
}

Orders = dict[str, list[str]]  # ids of chunks, best first, by the id of the question


@dataclass(frozen=True)
class RetrievalSet:
    name: str
    texts: dict[str, str]
    questions: dict[str, str]
    grades: dict[str, dict[str, int]]  # of texts, by question


def read_set(directory: Path) -> RetrievalSet:
    texts = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in _rows(directory, "corpus.jsonl")}
    asked = {row["_id"]: row["text"] for row in _rows(directory, "queries.jsonl")}
    grades: dict[str, dict[str, int]] = {}
    with _open(directory, "qrels.tsv") as file:
        for question, text, grade in list(csv.reader(file, delimiter="\t"))[1:]:
            grades.setdefault(question, {})[text] = int(grade)
    texts = {id: text for id, text in texts.items() if text}
    return RetrievalSet(directory.name, texts, {id: asked[id] for id in asked if id in grades}, grades)


def _rows(directory: Path, name: str) -> list[dict[str, str]]:
    with _open(directory, name) as file:
        return [json.loads(line) for line in file]


def _open(directory: Path, name: str) -> IO[str]:
    compressed = directory / f"{name}.gz"
    return gzip.open(compressed, "rt") if compressed.exists() else (directory / name).open()


def ndcg(order: Sequence[str], grades: Mapping[str, int]) -> float:
    gained = sum(grades.get(id, 0) / np.log2(rank + 2) for rank, id in enumerate(order[:TOP]))
    best = sum(grade / np.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)[:TOP]))
    return gained / best if best else 0.0


def recall(order: Sequence[str], grades: Mapping[str, int]) -> float:
    relevant = {id for id, grade in grades.items() if grade > 0}
    return len(relevant & set(order[:DEPTH])) / len(relevant) if relevant else 0.0


def judge(retrieval_set: RetrievalSet, orders: Orders) -> tuple[float, float]:
    """Means over the questions that have a relevant text."""
    judged = [id for id, grades in retrieval_set.grades.items() if id in orders and any(grades.values())]
    grades = retrieval_set.grades
    return (
        float(np.mean([ndcg(orders[id], grades[id]) for id in judged])),
        float(np.mean([recall(orders[id], grades[id]) for id in judged])),
    )


async def embed(retrieval_set: RetrievalSet, embeddings: Embeddings, cache: Path | None) -> tuple[Any, Any]:
    """Vectors of the texts and of the questions, of unit length; kept in `cache`, if there is one."""
    kept = cache and cache / f"{retrieval_set.name}.npz"
    if kept and kept.exists():
        with np.load(kept) as vectors:
            return vectors["texts"], vectors["questions"]
    texts, questions = [
        _normal(await embeddings.embed(list(part.values()), model=embeddings.default_model, dimension=None))
        for part in (retrieval_set.texts, retrieval_set.questions)
    ]
    if kept:
        np.savez(kept, texts=texts, questions=questions)
    return texts, questions


def exact(retrieval_set: RetrievalSet, texts: Any, questions: Any) -> Orders:
    """All vectors compared with all, in memory."""
    ids = np.array(list(retrieval_set.texts))
    nearest = np.argsort(-(questions @ texts.T), axis=1)[:, :DEPTH]
    return {question: ids[row].tolist() for question, row in zip(retrieval_set.questions, nearest, strict=True)}


def _normal(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bm25(retrieval_set: RetrievalSet, *, stems: bool) -> Orders:
    stemmer = Stemmer.Stemmer("english") if stems else None
    stopwords = "en" if stems else None

    def tokens(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords=stopwords, stemmer=stemmer, show_progress=False)

    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(tokens(list(retrieval_set.texts.values())), show_progress=False)
    ids = np.array(list(retrieval_set.texts))
    found, _ = index.retrieve(
        tokens(list(retrieval_set.questions.values())), corpus=ids, k=DEPTH, show_progress=False, n_threads=1
    )
    return {question: row.tolist() for question, row in zip(retrieval_set.questions, found, strict=True)}


async def fill(http: httpx.AsyncClient, retrieval_set: RetrievalSet, vectors: Any, *, language: str) -> str:
    store = (await _post(http, "/v1/vector_stores", {"metadata": {"language": language}}))["id"]
    chunks = [
        {"id": id, "content": text, "embedding": vector.tolist()}
        for (id, text), vector in zip(retrieval_set.texts.items(), vectors, strict=True)
    ]
    for start in range(0, len(chunks), BATCH):
        await _post(http, f"/v1/vector_stores/{store}/embeddings/batch", {"embeddings": chunks[start : start + BATCH]})
    return store


async def ask(http: httpx.AsyncClient, store: str, retrieval_set: RetrievalSet, options: dict[str, Any]) -> Orders:
    orders: Orders = {}
    for id, question in retrieval_set.questions.items():
        body = {"query": question, "max_num_results": DEPTH, "ranking_options": options}
        page = await _post(http, f"/v1/vector_stores/{store}/search", body)
        orders[id] = [result["file_id"] for result in page["data"]]
    return orders


async def _post(http: httpx.AsyncClient, path: str, body: Any) -> Any:
    answer = await http.post(path, json=body)
    if answer.is_error:
        raise SystemExit(f"{path}: {answer.text}")
    return answer.json()


@contextmanager
def embedder() -> Generator[str]:
    """The bundled one, with the bundled model."""
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "embedder"],
        env={**os.environ, "EMBEDDER_PORT": url.rpartition(":")[2], "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600  # its first start exports the model
        while not _answers(f"{url}/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The embedder did not start; see `python -m embedder`.")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


@asynccontextmanager
async def served(settings: Settings) -> AsyncGenerator[tuple[httpx.AsyncClient, Callable[[], Any]]]:
    """The API, and what the worker does to bring the keyword indexes up to date."""
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://quiver",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=300,
        ) as http,
    ):
        yield http, lambda: keywords.index(app.state.resources, seconds=600)


async def measure(directories: Sequence[Path], cache: Path | None) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="quiver-bench-") as directory,
        EmbeddedPostgres(Path(directory) / "data", durable=False) as postgres,
        embedder() as embedder_url,
    ):
        await migrations.apply(postgres.url)
        settings = Settings(
            _env_file=None,  # pyright: ignore[reportCallIssue]  # pydantic-settings' own
            database_url=postgres.url,  # pyright: ignore[reportArgumentType]  # becomes a secret
            server_api_key=KEY,  # pyright: ignore[reportArgumentType]
            embedding=EmbeddingSettings(base_url=embedder_url, batch_size=16, timeout_seconds=600),
            max_search_results=DEPTH,
            quiver_data_dir=Path(directory),
            log_level="error",
        )
        embeddings = Embeddings(settings.embedding)
        async with served(settings) as (http, index):
            for directory in directories:
                retrieval_set = read_set(directory)
                vectors = await embed(retrieval_set, embeddings, cache)
                _print(retrieval_set, await _measure_set(http, index, retrieval_set, vectors))
        await embeddings.close()


async def _measure_set(
    http: httpx.AsyncClient, index: Callable[[], Any], retrieval_set: RetrievalSet, vectors: tuple[Any, Any]
) -> dict[str, Orders]:
    texts, questions = vectors
    stores = {language: await fill(http, retrieval_set, texts, language=language) for language in ("simple", "english")}
    await index()
    orders = {
        "exact, in memory": exact(retrieval_set, texts, questions),
        "bm25s": bm25(retrieval_set, stems=False),
        "bm25s, stems and stop words": bm25(retrieval_set, stems=True),
    }
    for way, (language, options) in WAYS.items():
        orders[way] = await ask(http, stores[language], retrieval_set, options)
    return orders


def _print(retrieval_set: RetrievalSet, orders: Mapping[str, Orders]) -> None:
    print(f"\n{retrieval_set.name}: {len(retrieval_set.texts)} texts, {len(retrieval_set.questions)} questions")
    print(f"  {'way':30}{'nDCG@10':>9}{'recall@100':>12}")
    for way, found in orders.items():
        gained, recalled = judge(retrieval_set, found)
        print(f"  {way:30}{gained:9.3f}{recalled:12.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a directory of sets, each a directory of its own")
    parser.add_argument("--cache", type=Path, help="a directory where vectors are kept from one run to the next")
    arguments = parser.parse_args()
    data: Path = arguments.data
    directories = sorted(path.parent for path in data.glob("*/qrels.tsv"))
    if not directories:
        raise SystemExit(f"There is no set in {data}: DIRECTORY/NAME/qrels.tsv")
    stack.print_machine("psycopg", "pgvector", "bm25s")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(measure(directories, arguments.cache))


if __name__ == "__main__":
    main()
