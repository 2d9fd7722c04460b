"""`quiver stores`: a list of the stores of a running Quiver."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.services import vector_indexes
from api.up import keys
from tests.conftest import KEY
from tests.servers import Server
from tests.working import opened

ROOT = Path(__file__).parents[2]

Listed = subprocess.CompletedProcess[str]
List = Callable[..., Listed]


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"vector_index": {"min_chunks": 200}}


@pytest.fixture
def list_stores(server: Server, tmp_path: Path) -> List:
    def run(*arguments: str, **environment: str) -> Listed:
        env = {"PORT": str(server.port), "PYTHONPATH": str(ROOT), "QUIVER_DATA_DIR": str(tmp_path), **environment}
        command = [sys.executable, "-m", "api.cli", "stores", *arguments]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    return run


def create(server: Server, name: str, chunks: int) -> str:
    with httpx.Client(base_url=f"{server.base_url}", headers={"Authorization": f"Bearer {KEY}"}) as client:
        store = client.post("/v1/vector_stores", json={"name": name, "embedding_dimension": 2}).json()["id"]
        rows = [{"content": "x", "embedding": [1.0, number]} for number in range(chunks)]
        client.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": rows}).raise_for_status()
    return store


def test_each_store_has_a_line(list_stores: List, server: Server, settings: dict[str, Any]) -> None:
    large, small = create(server, "large", 250), create(server, "small", 3)

    async def care() -> None:
        async with opened(settings) as resources:
            await vector_indexes.care(resources)

    asyncio.run(care())
    head, *lines = list_stores(SERVER_API_KEY=KEY).stdout.splitlines()

    assert head.split() == ["id", "name", "chunks", "indexed", "dimension", "index"]
    assert sorted(line.split() for line in lines) == sorted(
        [[large, "large", "250", "250", "2", "ready"], [small, "small", "3", "0", "2", "exact"]]
    )


def test_the_key_that_quiver_up_has_made_is_found(list_stores: List, tmp_path: Path, server: Server) -> None:
    (tmp_path / keys.FILE_NAME).write_text(f'{{"server_api_key": "{KEY}"}}')
    create(server, "one", 1)

    assert "one" in list_stores().stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"SERVER_API_KEY": "wrong"}, "Incorrect API key"),
        (["--url", "http://127.0.0.1:1"], {"SERVER_API_KEY": KEY}, "No API answers at http://127.0.0.1:1"),
        ([], {}, "SERVER_API_KEY is not set"),
    ],
)
def test_what_is_in_the_way_is_said_in_a_sentence(
    list_stores: List, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    failed = list_stores(*arguments, **environment)

    assert failed.returncode != 0
    assert failed.stderr.startswith("Error: ")
    assert said in failed.stderr
