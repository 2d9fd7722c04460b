"""How far a migration is: lines where nobody looks, a bar on a terminal."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from api.migrate.commands import INTERRUPTED
from tests.migrate.running import migrate, query, vector, write_lines

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = [{"id": f"row-{i}", "text": f"text {i}", "embedding": vector(i)} for i in range(12_000)]


async def test_lines_say_how_far_it_is(
    settings: dict[str, Any],
    database: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.migrate.progress.LINE_SECONDS", 0)

    await migrate(settings, write_lines(tmp_path / "rows.jsonl", *ROWS), verifies=False)

    said = capsys.readouterr().err
    assert re.search(r"^Into vs_\w+: 5,000 rows, [\d,]+ a second$", said, re.MULTILINE), said


async def test_a_terminal_is_asked_and_shows_a_bar_with_rate_and_time_left(database: str, tmp_path: Path) -> None:
    await query(database, "CREATE TABLE documents (id text PRIMARY KEY, body text, vec vector)")
    await query(database, "INSERT INTO documents SELECT i, 'text', ARRAY[i, 1]::vector FROM generate_series(1, 9000) i")
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api.cli", "migrate", database, "--table", "documents", "--no-verify"),
        env={"PATH": "", "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(ROOT), "DATABASE_URL": database},
        cwd=tmp_path,
        stdin=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, b"y\n")
    said = await asyncio.to_thread(read_all, ours)

    assert await process.wait() == 0, said
    assert re.search(r"9000/9000\S* [\d,]+ rows/s, \S+ s left", said), said
    assert await query(database, "SELECT count(*)::int AS rows FROM embeddings") == [{"rows": 9000}]


async def test_ctrl_c_at_the_question_ends_the_command(database: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", *ROWS[:3])
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "api.cli", "migrate", path),
        env={"PATH": "", "PYTHONPATH": str(ROOT), "DATABASE_URL": database},
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = await asyncio.to_thread(read_until, ours, "[y/N]")
    rest = asyncio.create_task(asyncio.to_thread(read_all, ours))
    while (
        not rest.done() and process.returncode is None
    ):  # a signal that comes just before it is waited for an answer counts only with the next
        process.send_signal(signal.SIGINT)
        await asyncio.wait([rest], timeout=1)

    said += await rest
    assert await process.wait() == INTERRUPTED, said
    assert "Interrupted. Start the same command again to go on." in said
    assert await query(database, "SELECT * FROM vector_stores") == []


def read_until(terminal: int, wanted: str) -> str:
    said = ""
    while wanted not in said:
        said += os.read(terminal, 4096).decode()
    return said


def read_all(terminal: int) -> str:
    """Everything until whoever has the other end is gone, which a terminal answers with an error."""
    said = b""
    try:
        while part := os.read(terminal, 4096):
            said += part
    except OSError:
        os.close(terminal)
    return said.decode()
