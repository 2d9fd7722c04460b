"""The real pgai beside the real stack: models of the proxy in its vectorizers, and vectorizers taken over."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import httpx
import numpy as np
import psycopg
import pytest

from api.tables import migrations
from tests.conftest import KEY, Serve, raw
from tests.e2e.conftest import ANSWER, MASTER_KEY, QUESTION, ROOT, SECONDS, TEXTS, Stack
from tests.installing import installing
from tests.plpython import PlPython, plpython_server
from tests.postgres_tools import run_script

PGAI = ROOT / "infra" / "pgai"
MODEL = "all-minilm-l6-v2"

TABLE = """
    CREATE TABLE docs (id int PRIMARY KEY, title text, body text, lang text);
    INSERT INTO docs VALUES
        (1, 'Returns', 'Items may be sent back within thirty days.', 'en'),
        (2, 'Delivery', 'Parcels arrive after two days.', 'en'),
        (3, 'Bread', 'The bakery opens at six.', NULL)
"""


class Database:
    def __init__(self, url: str) -> None:
        self.url = url

    def execute(self, script: LiteralString, *parameters: object) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(script, parameters or None)

    def fetch(self, query: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, parameters or None).fetchall()

    def run(self, script: Path, **variables: object) -> None:
        """Run a file of SQL as its head says: by psql."""
        run_script(script, self.url, **variables)


@pytest.fixture(scope="module")
def pgai() -> str:
    """The program, in an environment of its own."""
    with installing():
        if not (ROOT / ".venv" / "pgai" / "bin" / "pgai").exists():
            subprocess.run(["make", f"PYTHON={sys.executable}", ".venv/pgai"], cwd=ROOT, check=True)
    return str(ROOT / ".venv" / "pgai" / "bin" / "pgai")


@pytest.fixture(scope="module")
def database(stack: Stack, stack_database: str, pgai: str, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """The stack's own database with pgai in it, whose worker has filled the vectors of both ways without a patch."""
    database = Database(stack_database)
    run_pgai(pgai, "install", "-d", stack_database)
    database.execute(TABLE)
    variables = {"table": "docs", "column": "body", "model": MODEL, "dimensions": 384}
    database.run(PGAI / "vectorizer.sql", **variables, base_url=f"{stack.proxy_url}/v1")
    run_pgai(pgai, "vectorizer", "worker", "-d", stack_database, "--once")
    return database


def run_pgai(pgai: str, *arguments: str) -> None:
    environment = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": MASTER_KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run([pgai, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("target", ["docs_by_openai", "docs_by_litellm"])
def test_pgai_as_it_is_embeds_with_a_model_of_the_proxy(
    database: Database, stack: Stack, target: LiteralString
) -> None:
    rows = database.fetch(f"SELECT chunk, embedding::real[] FROM {target} ORDER BY id")  # noqa: S608  # of this file
    chunks = [chunk for chunk, _ in rows]
    expected = stack.proxy.embeddings.create(model=MODEL, input=chunks, encoding_format="float")

    assert [chunk.split()[0] for chunk in chunks] == ["Items", "Parcels", "The"]
    for (_, vector), embedded in zip(rows, expected.data, strict=True):
        assert float(np.dot(vector, embedded.embedding)) > 0.999


def test_a_vectorizer_is_taken_over_without_embedding_again(database: Database, stack: Stack) -> None:
    database.execute("UPDATE docs SET body = 'Letters arrive after a day.' WHERE id = 2")  # waits in pgai's queue
    sync = adopt(stack, "docs_by_openai", attributes=["lang"])
    copied = database.fetch(
        "SELECT chunk.file_id, chunk.content FROM embeddings AS chunk JOIN docs_by_openai AS taken "
        "ON taken.id::text = chunk.file_id AND taken.chunk = chunk.content "
        "WHERE vector_store_id = %s AND abs(1 - (chunk.embedding::vector <=> taken.embedding)) > 0.999",
        sync["vector_store_id"],
    )
    wait_until_done(stack, sync)

    assert {key for key, _ in copied} >= {"1", "3"}
    found = search(stack, sync, "letters")[0]
    assert (found["file_id"], found["attributes"]) == ("2", {"lang": "en"})
    database.execute("UPDATE docs SET body = 'The moon is far.' WHERE id = 3")
    wait_until_done(stack, sync)
    assert search(stack, sync, "moon")[0]["file_id"] == "3"


def test_the_command_takes_over_and_drops_from_pgai_if_asked(database: Database, stack: Stack, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.cli", "sync", "--from-pgai", "--vectorizer", "docs_by_litellm"]
    options = [f"--model={MODEL}", "--drop-vectorizer", f"--url={stack.api_url}"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SERVER_API_KEY": KEY}
    done = subprocess.run(
        [*command, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "public.docs in vector store vs_" in done.stdout
    assert database.fetch("SELECT count(*) FROM ai.vectorizer WHERE name = 'docs_by_litellm'") == [(0,)]
    assert database.fetch("SELECT count(*) > 0 FROM docs_by_litellm") == [(True,)]


def test_the_patched_configuration_passes_pgais_own_validation(database: Database, stack: Stack) -> None:
    database.run(PGAI / "embedding_fastapi.sql")
    database.run(PGAI / "embedding_fastapi.sql")
    database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, body text); INSERT INTO notes VALUES (1, 'The moon is far.')"
    )
    database.execute(
        "SELECT ai.create_vectorizer('notes'::regclass, name => 'notes_patched', loading => ai.loading_column('body'), "
        "chunking => ai.chunking_none(), embedding => ai.embedding_fastapi('all-minilm-l6-v2', 384, %s), "
        "formatting => ai.formatting_python_template('Note: $chunk'), destination => ai.destination_table('notes_v'))",
        stack.embedder_url,
    )
    sync = adopt(stack, "notes_patched")  # whose vectors nobody has made
    wait_until_done(stack, sync)

    assert search(stack, sync, "moon")[0]["content"][0]["text"] == "Note: The moon is far."


@pytest.mark.parametrize(
    "config",
    [
        "ai.embedding_fastapi('m', 0)",
        "ai.embedding_fastapi('m', 3) || '{\"implementation\": \"other\"}'",
        "ai.embedding_openai('m', 3) || '{\"implementation\": \"other\"}'",
        "'[]'::jsonb",
    ],
)
def test_other_configurations_are_refused_as_before(database: Database, config: LiteralString) -> None:
    database.run(PGAI / "embedding_fastapi.sql")
    database.execute("SELECT ai._validate_embedding(ai.embedding_openai('m', 3))")

    with pytest.raises(psycopg.errors.RaiseException, match="embedding"):
        database.execute(f"SELECT ai._validate_embedding({config})")


@pytest.fixture(scope="module")
def plpython() -> Iterator[PlPython]:
    """Without pgvector, so that vectors are `float8[]`."""
    with plpython_server() as server:
        server.run(PGAI / "fastapi_hf_embed.sql")
        yield server


def test_a_text_is_embedded_from_sql(plpython: PlPython, stack: Stack) -> None:
    url = f"{stack.embedder_url}/embed"
    expected = httpx.post(url, json={"text": "moon"}, timeout=SECONDS).json()["embedding"]
    rows = plpython.fetch("SELECT ai.fastapi_hf_embed(%s, 'moon'), ai.fastapi_hf_embed(%s, NULL)", url, url)

    assert np.allclose(rows[0][0], expected, atol=1e-5)
    assert rows[0][1] is None


@pytest.mark.parametrize(
    ("url", "message"),
    [("{embedder}/nowhere", "HTTP 404"), ("http://127.0.0.1:9", "cannot be reached"), ("file:///x", "does not begin")],
)
def test_an_embedder_that_fails_is_named(plpython: PlPython, stack: Stack, url: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message):
        plpython.fetch("SELECT ai.fastapi_hf_embed(%s, 'moon')", url.format(embedder=stack.embedder_url))


async def test_a_store_is_searched_by_a_text_from_sql(
    plpython: PlPython, stack: Stack, serve: Serve, tmp_path: Path
) -> None:
    whole = plpython.with_database("whole")
    await migrations.apply(whole.url)
    whole.run(PGAI / "fastapi_hf_embed.sql")
    whole.run(PGAI / "semantic_search.sql", embed_url=f"{stack.embedder_url}/embed")
    embedding = {"base_url": stack.proxy_url, "api_key": MASTER_KEY}
    async with serve(database_url=whole.url, server_api_key=KEY, embedding=embedding, files_dir=tmp_path) as quiver:
        store = await quiver.vector_stores.create()
        body = {"embeddings": [{"content": text, "metadata": metadata} for text, metadata in TEXTS.items()]}
        await raw(quiver).post(f"/v1/vector_stores/{store.id}/embeddings/batch", json=body)
        asked = {"query": QUESTION, "ranking_options": {"search_mode": "vector"}}
        found = (await raw(quiver).post(f"/v1/vector_stores/{store.id}/search", json=asked)).json()["data"]
    rows = whole.fetch("SELECT content, score, attributes FROM quiver_semantic_search_text(%s, %s)", store.id, QUESTION)

    assert rows[0][0] == ANSWER
    assert [row[0] for row in rows] == [result["content"][0]["text"] for result in found]
    assert [row[1] for row in rows] == pytest.approx([result["score"] for result in found], abs=1e-3)
    assert whole.fetch("SELECT pg_typeof(ai.fastapi_hf_embed(%s, 'moon'))::text", f"{stack.embedder_url}/embed") == [
        ("vector",)
    ]


def adopt(stack: Stack, vectorizer: str, **fields: Any) -> dict[str, Any]:
    body = {"vectorizer": vectorizer, "embedding_model": MODEL, **fields}
    return call(stack, "POST", "/table_syncs/from_pgai", body)


def search(stack: Stack, sync: dict[str, Any], query: str) -> list[dict[str, Any]]:
    return call(stack, "POST", f"/vector_stores/{sync['vector_store_id']}/search", {"query": query})["data"]


def wait_until_done(stack: Stack, sync: dict[str, Any]) -> None:
    deadline = time.monotonic() + SECONDS
    while call(stack, "GET", f"/table_syncs/{sync['id']}")["status"] != "completed":
        assert time.monotonic() < deadline, call(stack, "GET", f"/table_syncs/{sync['id']}")
        time.sleep(0.2)


def call(stack: Stack, method: str, path: str, body: object = None) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.request(method, f"{stack.api_url}/v1{path}", json=body, headers=headers, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()
