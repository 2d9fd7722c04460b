"""A directory that the real Chroma wrote, read without it."""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from api.errors import ConfigurationError
from api.migrate.sources import chroma
from tests.migrate.running import chunks, migrate, query

CHROMA = "chromadb==1.5.9"

# 2,000 of the rows are in Chroma's index when it ends, the rest waits in its queue; some of either are changed.
WRITE = """
import sys, json
import chromadb, numpy as np

client = chromadb.PersistentClient(sys.argv[1], settings=chromadb.Settings(anonymized_telemetry=False))
docs = client.create_collection("docs", metadata={"hnsw:space": sys.argv[2], "team": "x"}, embedding_function=None)
vectors = np.random.default_rng(1).normal(size=(2500, 8)).astype(np.float32)
for start in range(0, 2500, 500):
    rows = range(start, start + 500)
    docs.add(ids=[f"id-{i}" for i in rows], documents=[f"text {i}" for i in rows], embeddings=vectors[start:start + 500],
             metadatas=[{"n": i, "half": i / 2, "even": i % 2 == 0, "word": "x"} for i in rows])
docs.update(ids=["id-3", "id-2400"], documents=["changed", "changed"], embeddings=[[9, 1, 1, 1, 1, 1, 1, 1]] * 2)
docs.delete(ids=["id-4", "id-2401"])
few = client.create_collection("few", embedding_function=None)
few.add(ids=["a"], documents=["A"], embeddings=[[1, 2, 3, 4]])
got = docs.get(include=["embeddings", "documents", "metadatas"])
rows = zip(got["ids"], got["documents"], got["metadatas"], got["embeddings"].tolist())
json.dump(sorted(rows), sys.stdout)
"""


@pytest.fixture(scope="session")
def chroma_python() -> Path:
    """A Python with Chroma, apart from ours because of all that it needs; made once, beside our own packages."""
    directory = Path(sys.prefix) / "chroma"
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        venv.create(directory, with_pip=True, clear=True)
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", CHROMA)
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        (directory / "complete").touch()
    return python


def write(python: Path, directory: Path, space: str) -> list[list[Any]]:
    done = subprocess.run([python, "-c", WRITE, directory, space], check=True, stdout=subprocess.PIPE)
    return orjson.loads(done.stdout)


@pytest.mark.parametrize("space", ["cosine", "l2"])
async def test_a_directory_of_chromas_is_migrated(
    space: str, chroma_python: Path, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    wanted = write(chroma_python, tmp_path / "chroma", space)

    assert await migrate(settings, tmp_path / "chroma", collection="docs")

    rows = sorted(await chunks(database), key=lambda row: row["id"])
    assert len(rows) == 2498
    assert [(row["id"], row["content"], row["metadata"]) for row in rows] == [tuple(row[:3]) for row in wanted]
    units = np.array([row[3] for row in wanted])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.allclose([row["numbers"] for row in rows], units, atol=1e-3)


async def test_every_collection_becomes_a_store(
    chroma_python: Path, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    write(chroma_python, tmp_path / "chroma", "l2")

    assert await migrate(settings, tmp_path / "chroma")

    found = await query(database, "SELECT name, metadata, embedding_dimension FROM vector_stores ORDER BY name")
    assert found == [
        {"name": "docs", "metadata": {"team": "x"}, "embedding_dimension": 8},
        {"name": "few", "metadata": None, "embedding_dimension": 4},
    ]
    with pytest.raises(ConfigurationError, match="no collection 'dogs' there; it has 'docs', 'few'"):
        await migrate(settings, tmp_path / "chroma", collection="dogs")


async def test_reading_goes_on_behind_every_position(chroma_python: Path, tmp_path: Path) -> None:
    write(chroma_python, tmp_path / "chroma", "l2")
    docs, _ = chroma.open_collections(tmp_path / "chroma", collection=None)

    (first,) = [batch async for batch in docs.read()]
    (second,) = [batch async for batch in docs.read(1200)]

    assert [record.id for record in second.records] == [record.id for record in first.records[1199:]]


def test_a_pickle_that_does_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index_metadata.pickle").write_bytes(b"cposix\nsystem\n(S'touch /tmp/owned'\ntR.")

    with pytest.raises(ConfigurationError, match=r"posix\.system has no place in it"):
        chroma._unpickle(tmp_path / "index_metadata.pickle")  # pyright: ignore[reportPrivateUsage]  # the only way in
