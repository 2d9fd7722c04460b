"""`quiver sync`, as a process of its own against a running API."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.api.synced_tables import ARTICLES, execute, fetch
from tests.conftest import KEY
from tests.servers import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def articles(database: str) -> str:
    await execute(database, ARTICLES)
    return database


async def quiver_sync(*arguments: str, port: int, directory: Path) -> tuple[int, str, str]:
    """Status, output and complaints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api.cli", "sync", *arguments),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": str(port), "SERVER_API_KEY": KEY},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=directory,
    )
    output, complaints = await process.communicate()
    return process.returncode or 0, output.decode(), complaints.decode()


async def test_a_sync_is_created_listed_and_dropped(articles: str, server: Server, tmp_path: Path) -> None:
    created = await quiver_sync(
        *("create", "public.articles", "--text", "title", "--text", "body", "--attribute", "lang"),
        port=server.port,
        directory=tmp_path,
    )
    id = created[1].partition(":")[0]
    listed = await quiver_sync("list", port=server.port, directory=tmp_path)
    status = await quiver_sync("status", id, port=server.port, directory=tmp_path)
    dropped = await quiver_sync("drop", id, "--delete-store", port=server.port, directory=tmp_path)

    assert (created[0], listed[0], status[0], dropped[0]) == (0, 0, 0, 0), created[2] + listed[2] + status[2]
    assert id in listed[1]
    assert "the table is being looked through" in status[1]
    assert re.fullmatch(rf"{id} is dropped; its vector store vs_\w+ is deleted as well\n", dropped[1])
    assert await fetch(articles, "SELECT count(*) FROM vector_stores") == [(0,)]


async def test_a_vectorizer_of_pgais_that_is_not_there_is_one_sentence(server: Server, tmp_path: Path) -> None:
    status, output, complaint = await quiver_sync("--from-pgai", port=server.port, directory=tmp_path)

    assert (status, output) == (1, "")
    assert complaint == "Error: There is no vectorizer of pgai's in this database.\n"


async def test_the_options_of_a_command_do_not_stand_before_it(tmp_path: Path) -> None:
    for misplaced in (("--from-pgai", "list"), ("--url", "http://127.0.0.1:9", "list"), ("--drop-vectorizer",)):
        status, _, complaint = await quiver_sync(*misplaced, port=9, directory=tmp_path)

        assert (status, "quiver sync --from-pgai" in complaint) == (2, True), complaint


async def test_a_sync_of_no_text_or_of_two_is_refused_with_what_to_say(tmp_path: Path) -> None:
    for text in ((), ("--text", "a", "--template", "{a}")):
        status, _, complaint = await quiver_sync("create", "articles", *text, port=9, directory=tmp_path)

        assert (status, "say what is searched, either by" in complaint) == (2, True), complaint


async def test_what_the_api_refuses_is_one_sentence(server: Server, tmp_path: Path) -> None:
    status, output, complaint = await quiver_sync(
        "create", "nowhere", "--text", "a", port=server.port, directory=tmp_path
    )

    assert (status, output) == (1, "")
    assert complaint.startswith("Error: There is no table 'nowhere'")


async def test_an_api_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    status, _, complaint = await quiver_sync("list", port=9, directory=tmp_path)

    assert (status, complaint.startswith("Error: No API answers at http://127.0.0.1:9")) == (1, True)
