"""A store goes into a file, and the file makes the same store."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from api.errors import ConfigurationError, NotFound
from api.migrate.export import export
from tests.conftest import make_settings
from tests.migrate.running import migrate, query, read_lines
from tests.working import work_off

CHUNKS = """
    SELECT id, content, embedding::text, metadata, created_at, file_id, filename, chunk_index
    FROM embeddings WHERE vector_store_id = %s ORDER BY id
"""
FILES = """
    SELECT file_id, status, usage_bytes, attributes, chunking_strategy FROM vector_store_files
    WHERE vector_store_id = %s ORDER BY file_id
"""
STORE = """
    SELECT name, description, metadata, expires_after, embedding_model, embedding_dimension, file_counts, usage_bytes
    FROM vector_stores WHERE id = %s
"""


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
async def store(openai: AsyncOpenAI, http: httpx.AsyncClient, settings: dict[str, Any]) -> str:
    """A store with files, one of them of several chunks, and with chunks that are of no file."""
    store = await openai.vector_stores.create(
        name="Handbook", metadata={"team": "x"}, expires_after={"anchor": "last_active_at", "days": 30}
    )
    for number, text in enumerate(["alpha", "beta " * 900]):
        file = await openai.files.create(file=(f"{number}.txt", text.encode()), purpose="assistants")
        await openai.vector_stores.files.create(store.id, file_id=file.id, attributes={"number": number})
    await work_off(settings)
    body = {"embeddings": [{"content": f"loose {i}", "metadata": {"i": i}} for i in range(5)] + [{"content": "bare"}]}
    assert (await http.post(f"/v1/vector_stores/{store.id}/embeddings/batch", json=body)).status_code == 200
    return store.id


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
async def test_a_round_trip_gives_the_same_store(
    suffix: str, store: str, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    path = tmp_path / f"store{suffix}"
    await export(make_settings(**settings), store, path)

    assert await migrate(settings, path)

    (copy,) = await query(database, "SELECT id FROM vector_stores WHERE id <> %s", store)
    for statement in (CHUNKS, FILES, STORE):
        assert await query(database, statement, copy["id"]) == await query(database, statement, store)
    assert len(await query(database, CHUNKS, store)) > 8


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
async def test_a_round_trip_of_an_empty_store_gives_an_empty_store(
    suffix: str, openai: AsyncOpenAI, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    store = await openai.vector_stores.create(name="Empty", metadata={"team": "x"})
    await export(make_settings(**settings), store.id, tmp_path / f"empty{suffix}")

    assert await migrate(settings, tmp_path / f"empty{suffix}")

    (copy,) = await query(database, "SELECT id FROM vector_stores WHERE id <> %s", store.id)
    assert await query(database, STORE, copy["id"]) == await query(database, STORE, store.id)


async def test_what_only_the_last_chunk_has_comes_back_too(
    store: str, http: httpx.AsyncClient, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    rows = [{"id": f"{i:04}", "content": "bare"} for i in range(1001)]
    assert (await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": rows})).is_success
    await export(make_settings(**settings), store, tmp_path / "store.jsonl")

    assert await migrate(settings, tmp_path / "store.jsonl")

    (copy,) = await query(database, "SELECT id FROM vector_stores WHERE id <> %s", store)
    for statement in (CHUNKS, FILES, STORE):
        assert await query(database, statement, copy["id"]) == await query(database, statement, store)


async def test_a_file_of_a_migrated_store_can_be_listed_read_and_deleted(
    store: str, settings: dict[str, Any], openai: AsyncOpenAI, database: str, tmp_path: Path
) -> None:
    await export(make_settings(**settings), store, tmp_path / "store.jsonl")
    await migrate(settings, tmp_path / "store.jsonl")
    (copy,) = await query(database, "SELECT id FROM vector_stores WHERE id <> %s", store)

    # Their times are those of their chunks, of which the longer file's may have been there first.
    page = await openai.vector_stores.files.list(copy["id"])
    files = sorted(page.data, key=lambda file: (file.attributes or {})["number"])
    content = await openai.vector_stores.files.content(files[0].id, vector_store_id=copy["id"])
    await openai.vector_stores.files.delete(files[0].id, vector_store_id=copy["id"])

    assert [file.attributes for file in files] == [{"number": 0}, {"number": 1}]
    assert [part.text for part in content.data] == ["alpha"]
    assert (await openai.vector_stores.retrieve(copy["id"])).file_counts.completed == 7


async def test_an_export_begins_with_the_store(store: str, settings: dict[str, Any], tmp_path: Path) -> None:
    await export(make_settings(**settings), store, tmp_path / "store.jsonl")

    first, *rows = read_lines(tmp_path / "store.jsonl")

    assert (first["object"], first["id"], first["name"]) == ("vector_store", store, "Handbook")
    assert all(len(row["embedding"]) == first["embedding_dimension"] for row in rows)


async def test_an_export_that_fails_leaves_no_file(store: str, settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="vs_none"):
        await export(make_settings(**settings), "vs_none", tmp_path / "store.jsonl")
    with pytest.raises(ConfigurationError, match=r"must end on \.jsonl or \.parquet"):
        await export(make_settings(**settings), store, tmp_path / "store.csv")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        await export(make_settings(**settings), store, tmp_path / "nowhere" / "store.jsonl")

    assert names(tmp_path) == ["blobs"]
