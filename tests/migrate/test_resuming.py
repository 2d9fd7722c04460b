"""A migration that is killed at any point goes on where it was and ends with exactly the source's rows."""

import asyncio
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path
from typing import Any

import pytest

from api.errors import ConfigurationError
from api.migrate.database_target import DatabaseTarget
from api.migrate.records import Record, Reject
from api.migrate.rejects import Rejects
from api.migrate.target import Interrupted, Prepared, StoreFacts
from tests.conftest import make_settings
from tests.migrate.running import migrate, query, read_lines, rejects, vector, write_lines

ROWS = 150_000  # more than the killed runs can bring
FIRST_BATCH = 100
KILLS = 20
SECONDS = 60

SOURCE = """
    CREATE EXTENSION vector;
    CREATE TABLE documents (id text PRIMARY KEY, content text, embedding vector(8));
    INSERT INTO documents
    SELECT md5(i::text), CASE WHEN i % 1000 = 0 THEN '' ELSE 'text ' || i END,
           array_to_vector(ARRAY[i, 1, 2, 3, 4, 5, 6, 7]::real[], 8, false)
    FROM generate_series(1, {rows}) AS i
"""


async def start(source: str, database: str, directory: Path) -> Process:
    command = (sys.executable, "-m", "api.cli", "migrate", source, "--yes", "--no-verify", "--database-url", database)
    return await asyncio.create_subprocess_exec(
        *command, "--rejects", directory / "rejects.jsonl", env={"PATH": ""}, stderr=DEVNULL
    )


async def rows_done(database: str) -> int:
    found = await query(database, "SELECT sum(rows_written + rows_rejected)::int AS done FROM migration_checkpoints")
    return found[0]["done"] or 0


async def killed_after_progress(process: Process, database: str) -> int:
    """Kill it at some moment within its second batch, or a later one; how many rows had gone by then."""
    before = await rows_done(database)
    wanted = before + random.choice((1, 1, FIRST_BATCH + 1))  # noqa: S311
    async with asyncio.timeout(SECONDS):
        while await rows_done(database) < wanted:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(0, 0.1))  # noqa: S311
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    return await rows_done(database) - before


async def test_a_migration_killed_twenty_times_ends_with_exactly_the_sources_rows(
    empty_database: str, database: str, tmp_path: Path
) -> None:
    await query(empty_database, SOURCE.format(rows=ROWS))
    gone = [
        await killed_after_progress(await start(empty_database, database, tmp_path), database) for _ in range(KILLS)
    ]

    last = await start(empty_database, database, tmp_path)

    assert await last.wait() == 0
    assert all(gone) and sum(gone) < ROWS
    wanted = await query(empty_database, "SELECT id, content FROM documents WHERE content <> '' ORDER BY id")
    assert await query(database, "SELECT id, content FROM embeddings ORDER BY id") == wanted
    assert len({row["id"] for row in read_lines(tmp_path / "rejects.jsonl")}) == ROWS // 1000
    assert len(read_lines(tmp_path / "rejects.jsonl")) == ROWS // 1000
    (store,) = await query(database, "SELECT file_counts, usage_bytes FROM vector_stores")
    assert store["file_counts"]["completed"] == len(wanted)
    assert store["usage_bytes"] == sum(len(row["content"]) for row in wanted)


async def test_what_is_in_the_store_already_is_not_written_again(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    rows = [{"id": f"row-{i}", "text": f"text {i}", "embedding": vector(i)} for i in range(20)]
    await migrate(settings, write_lines(tmp_path / "some.jsonl", *rows[:10]))
    (store,) = await query(database, "SELECT id FROM vector_stores")

    assert await migrate(settings, write_lines(tmp_path / "all.jsonl", *rows), store=store["id"])

    (checkpoint,) = await query(database, "SELECT * FROM migration_checkpoints WHERE source LIKE '%all.jsonl'")
    assert (checkpoint["rows_written"], checkpoint["rows_skipped"], checkpoint["rows_rejected"]) == (10, 10, 0)
    assert len(await query(database, "SELECT id FROM embeddings")) == 20


async def test_rejected_rows_go_into_another_file_when_the_first_is_gone(
    settings: dict[str, Any], empty_database: str, database: str, tmp_path: Path
) -> None:
    await query(empty_database, SOURCE.format(rows=1000))
    await migrate(settings, empty_database, verifies=False)
    await query(empty_database, "INSERT INTO documents VALUES ('z', '', '[1,2,3,4,5,6,7,8]')")

    await migrate(settings, empty_database, verifies=False, rejects=tmp_path / "other.jsonl")

    assert [row["id"] for row in read_lines(tmp_path / "other.jsonl")] == ["z"]


async def test_of_two_that_move_the_same_the_later_leaves_the_rejected_rows_alone(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"id": "row", "text": "", "embedding": vector(1)})
    await migrate(settings, path, dimension=8, verifies=False)
    before = (tmp_path / "rejects.jsonl").read_bytes()
    (row,) = await query(database, "SELECT * FROM migration_checkpoints")
    target = await DatabaseTarget.open(make_settings(**settings))
    stale: Any = {**row, "position": None, "rejects_bytes": 0}
    late = Prepared([], None, [Reject(Record("late", None, None), "it has no text")], [1, 1])

    with pytest.raises(Interrupted, match="Another `quiver migrate` is moving the same rows"):
        await target.write(
            StoreFacts(row["vector_store_id"], "", 8, None), late, stale, Rejects(tmp_path / "rejects.jsonl", length=0)
        )

    await target.close()
    assert (tmp_path / "rejects.jsonl").read_bytes() == before


async def test_a_file_of_rejected_rows_that_cannot_be_is_said_before_anything_is_done(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"id": "row", "text": "one", "embedding": vector(1)})

    with pytest.raises(ConfigurationError, match=r"nowhere/r.jsonl, cannot be written: No such file"):
        await migrate(settings, path, rejects=tmp_path / "nowhere" / "r.jsonl")
    with pytest.raises(ConfigurationError, match="cannot be written: Is a directory"):
        await migrate(settings, path, rejects=tmp_path)

    assert await query(database, "SELECT * FROM vector_stores") == []


async def test_a_migration_of_which_no_row_could_go_is_no_success(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", {"id": "row", "text": "", "embedding": vector(1)})

    assert not await migrate(settings, path)

    assert "  1 row: it has no text\nNot one row could go." in capsys.readouterr().err


async def test_an_id_that_means_another_text_is_refused(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    row = {"id": "row", "text": "one", "embedding": vector(1)}
    await migrate(settings, write_lines(tmp_path / "one.jsonl", row))
    (store,) = await query(database, "SELECT id FROM vector_stores")

    await migrate(
        settings, write_lines(tmp_path / "two.jsonl", {**row, "text": "two"}), store=store["id"], verifies=False
    )

    assert [row["reason"] for row in rejects(settings)] == ["the store has another chunk with this id"]
    assert [row["content"] for row in await query(database, "SELECT content FROM embeddings")] == ["one"]


@pytest.mark.parametrize("position", [1, 100, 200])
async def test_a_key_that_many_rows_share_is_no_obstacle_to_going_on(
    position: int, empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, SOURCE.format(rows=500))
    await query(empty_database, "ALTER TABLE documents ADD day date DEFAULT '2026-01-01'")
    await query(empty_database, "UPDATE documents SET day = '2026-01-02' WHERE content > 'text 3'")
    await migrate(settings, empty_database, key="day", verifies=False)
    await query(database, "DELETE FROM embeddings")
    await query(database, "UPDATE migration_checkpoints SET position = %s::jsonb", f'["2026-01-01", {position}]')

    await migrate(settings, empty_database, key="day", verifies=False)

    assert len(await query(database, "SELECT id FROM embeddings")) == 500 - position


@pytest.mark.parametrize(
    ("key", "ids"),
    [
        ("bytea", ["\\x00ff", "\\x41", "\\xfe"]),
        ("hidden.mood", ["sad", "ok", "happy"]),
        ("int8", ["2", "10", "9007199254740993"]),
        ("timestamptz", ["2026-01-01 00:00:00.123456+00:00", "2026-02-01 00:00:00+00:00", "2027-01-01 00:00:00+00:00"]),
    ],
)
async def test_rows_behind_a_key_of_any_type_are_brought_later(
    key: str, ids: list[str], empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, "CREATE SCHEMA hidden; CREATE TYPE hidden.mood AS ENUM ('sad', 'ok', 'happy')")
    await query(empty_database, f"CREATE TABLE documents (id {key} PRIMARY KEY, content text, embedding real[])")
    insert = "INSERT INTO documents SELECT id, 'text', '{1,2,3,4,5,6,7,8}' FROM (VALUES ({})) AS row (id)"
    await query(empty_database, insert.replace("({})", ", ".join(f"('{id}'::{key})" for id in ids[:2])))
    await migrate(settings, empty_database, table="documents", verifies=False)
    await query(empty_database, insert.replace("({})", f"('{ids[2]}'::{key})"))

    assert await migrate(settings, empty_database, table="documents")

    assert sorted(row["id"] for row in await query(database, "SELECT id FROM embeddings")) == sorted(ids)
