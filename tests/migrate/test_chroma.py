"""A directory that the real Chroma wrote, read without it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from api.errors import ConfigurationError
from api.migrate.sources import chroma
from tests import packages
from tests.migrate.running import migrate, query

# Chroma and what it imports beyond our own packages. The rest of what it asks for is for its server, and large.
CHROMA = """
    chromadb==1.5.9 googleapis-common-protos==1.76.0 grpcio==1.85.1 opentelemetry-api==1.45.2
    opentelemetry-exporter-otlp-common==0.66b2 opentelemetry-exporter-otlp-proto-common==1.45.2
    opentelemetry-exporter-otlp-proto-grpc==1.45.2 opentelemetry-proto==1.45.2 opentelemetry-sdk==1.45.2
    opentelemetry-semantic-conventions==0.66b2 overrides==7.7.0 protobuf==7.36.2
"""

# 2,000 of the rows are in Chroma's index when it ends, the rest waits in its queue; some of either are changed.
WRITE = """
import sys, json
import chromadb, numpy as np

directory, space = sys.argv[1:]
client = chromadb.PersistentClient(directory, settings=chromadb.Settings(anonymized_telemetry=False))
docs = client.create_collection("docs", metadata={"hnsw:space": space, "team": "x"}, embedding_function=None)
vectors = np.random.default_rng(1).normal(size=(2500, 8)).astype(np.float32)
for start in range(0, 2500, 500):
    rows = range(start, start + 500)
    docs.add(ids=[f"id-{i}" for i in rows], documents=[f"text {i}" for i in rows],
             embeddings=vectors[start:start + 500],
             metadatas=[{"n": i, "half": i / 2, "even": i % 2 == 0, "word": "x"} for i in rows])
docs.update(ids=["id-3", "id-2400"], documents=["changed", "changed"], embeddings=[[9, 1, 1, 1, 1, 1, 1, 1]] * 2)
docs.delete(ids=["id-4", "id-2401"])
few = client.create_collection("few", embedding_function=None)
few.add(ids=["a"], documents=["A"], embeddings=[[1, 2, 3, 4]])
got = docs.get(include=["embeddings", "documents", "metadatas"])
rows = zip(got["ids"], got["documents"], got["metadatas"], got["embeddings"].tolist())
json.dump(sorted(rows), sys.stdout)
"""


@dataclass(frozen=True)
class Written:
    """A directory, and the rows that Chroma itself says are in its collection `docs`."""

    path: Path
    rows: list[tuple[str, str, dict[str, Any], list[float]]]


@pytest.fixture(scope="session")
def chroma_packages() -> Path:
    return packages.installed("chroma", CHROMA)


@pytest.fixture(scope="session", params=["cosine", "l2"])
def written(request: pytest.FixtureRequest, chroma_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("chroma")
    written = packages.run(chroma_packages, WRITE, path, request.param, home=path)
    return Written(path, [tuple(row) for row in orjson.loads(written)])


async def test_a_directory_of_chromas_is_migrated(written: Written, settings: dict[str, Any], database: str) -> None:
    assert await migrate(settings, written.path)

    rows = await query(
        database, "SELECT id, content, metadata, embedding::vector::real[] AS numbers FROM embeddings WHERE id <> 'a'"
    )
    rows.sort(key=lambda row: row["id"])
    assert len(rows) == 2498
    assert [(row["id"], row["content"], row["metadata"]) for row in rows] == [row[:3] for row in written.rows]
    units = np.array([row[3] for row in written.rows])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.allclose([row["numbers"] for row in rows], units, atol=1e-3)
    found = await query(database, "SELECT name, metadata, embedding_dimension FROM vector_stores ORDER BY name")
    assert found == [
        {"name": "docs", "metadata": {"team": "x"}, "embedding_dimension": 8},
        {"name": "few", "metadata": None, "embedding_dimension": 4},
    ]


async def test_one_collection_can_be_chosen(written: Written, settings: dict[str, Any], database: str) -> None:
    assert await migrate(settings, written.path, collection="few")

    assert [row["content"] for row in await query(database, "SELECT content FROM embeddings")] == ["A"]
    with pytest.raises(ConfigurationError, match="no collection 'dogs', but 'docs', 'few'"):
        await migrate(settings, written.path, collection="dogs")


async def test_reading_goes_on_behind_every_position(written: Written) -> None:
    docs, _ = chroma.open_collections(written.path, collection=None)

    (first,) = [batch async for batch in docs.read()]
    (second,) = [batch async for batch in docs.read(1200)]

    assert [record.id for record in second.records] == [record.id for record in first.records[1199:]]


def test_a_pickle_that_does_anything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index_metadata.pickle").write_bytes(b"cposix\nsystem\n(S'touch /tmp/owned'\ntR.")

    with pytest.raises(ConfigurationError, match=r"posix\.system has no place in it"):
        chroma._unpickle(tmp_path / "index_metadata.pickle")  # pyright: ignore[reportPrivateUsage]  # the only way in
