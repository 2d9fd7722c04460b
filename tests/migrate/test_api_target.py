"""The same rows through the API, which needs no way to the database."""

from pathlib import Path
from typing import Any

import pytest

from api.migrate.http import ServiceRefused
from tests.conftest import KEY
from tests.migrate.running import chunks, migrate, query, rejects, vector, write_lines
from tests.servers import Server
from tests.working import work_off

ROWS: list[dict[str, Any]] = [
    {"id": f"row-{i:05}", "text": f"text {i}", "embedding": vector(i), "metadata": {"n": i}} for i in range(1200)
]


@pytest.fixture
def api(server: Server, settings: dict[str, Any]) -> dict[str, Any]:
    return {"settings": settings, "api_url": server.base_url, "api_key": KEY}


def forget(directory: Path) -> None:
    (checkpoint,) = directory.glob("quiver-checkpoint-*.json")
    checkpoint.unlink()


async def test_rows_go_through_the_api(api: dict[str, Any], database: str, tmp_path: Path) -> None:
    assert await migrate(place=write_lines(tmp_path / "rows.jsonl", *ROWS), **api)

    rows = await chunks(database)
    assert [(row["id"], row["content"], row["metadata"]) for row in rows] == [
        (row["id"], row["text"], row["metadata"]) for row in ROWS
    ]
    (store,) = await query(database, "SELECT name, file_counts FROM vector_stores")
    assert (store["name"], store["file_counts"]["completed"]) == ("rows", len(ROWS))


async def test_sending_everything_again_changes_nothing(api: dict[str, Any], database: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", *ROWS)
    await migrate(place=path, **api)
    forget(tmp_path)

    assert await migrate(place=path, **api)

    assert len(await chunks(database)) == len(ROWS)
    assert len(await query(database, "SELECT id FROM vector_stores")) == 1


async def test_a_row_that_the_api_refuses_does_not_keep_the_others_back(
    api: dict[str, Any], database: str, tmp_path: Path
) -> None:
    await migrate(place=write_lines(tmp_path / "first.jsonl", ROWS[7]), **api)
    (store,) = await query(database, "SELECT id FROM vector_stores")
    other = [*ROWS[:7], {**ROWS[7], "text": "another"}, *ROWS[8:]]

    await migrate(place=write_lines(tmp_path / "rows.jsonl", *other), store=store["id"], verifies=False, **api)

    assert len(await chunks(database)) == len(ROWS)
    (refused,) = rejects(api["settings"])
    assert refused["id"] == ROWS[7]["id"]
    assert "another chunk with id" in refused["reason"]


async def test_a_wrong_key_is_said_so(api: dict[str, Any], tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", *ROWS[:3])

    api["api_key"] = "sk-wrong"
    with pytest.raises(ServiceRefused, match="HTTP 401"):
        await migrate(place=path, **api)


async def test_a_store_of_one_quiver_is_embedded_anew_in_another(
    server: Server, settings: dict[str, Any], openai: Any, database: str
) -> None:
    store = await openai.vector_stores.create(name="far")
    file = await openai.files.create(file=("a.txt", b"alpha beta"), purpose="assistants")
    await openai.vector_stores.files.create(store.id, file_id=file.id, attributes={"a": 1})
    await work_off(settings)

    assert await migrate(
        settings, f"{server.base_url}/v1", kind="openai", source_key=KEY, collection=store.id, name="near"
    )

    found = await query(database, "SELECT content, metadata, file_id, filename, chunk_index FROM embeddings")
    assert found == [found[0], found[0]]
    assert found[0]["filename"] == "a.txt"
    assert len(await query(database, "SELECT id FROM vector_stores WHERE name = 'near'")) == 1
