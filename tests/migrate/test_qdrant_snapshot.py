"""Snapshots of Qdrant. Its own storage writes the segments; they are packed here as a server packs them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from qdrant_edge import (
    Distance,
    EdgeConfig,
    EdgeShard,
    EdgeSparseVectorParams,
    EdgeVectorParams,
    Point,
    SparseVector,
    UpdateOperation,
)

from api.errors import ConfigurationError
from tests.migrate.running import DIMENSION, chunks, migrate, query, vector, write_lines

NAME = "my-docs-559032209313046-2025-11-03-13-20-11.snapshot"


def shard(directory: Path, points: Sequence[Point], **vectors: EdgeVectorParams) -> Path:
    """The files of a shard with these points."""
    directory.mkdir(parents=True)
    config = EdgeConfig(
        vectors=vectors or {"": EdgeVectorParams(size=DIMENSION, distance=Distance.Dot)},
        sparse_vectors={"words": EdgeSparseVectorParams()} if vectors else None,
    )
    opened = EdgeShard.create(str(directory), config)
    opened.update(UpdateOperation.upsert_points(list(points)))
    opened.flush()
    opened.close()
    return directory


def pack_collection(path: Path, shards: dict[int, Path], *, shard_number: int | None = None) -> Path:
    """As a node of Qdrant makes a snapshot: each of its shards with a tar of each segment."""
    config = {
        "params": {"vectors": {"size": DIMENSION, "distance": "Dot"}, "shard_number": shard_number or len(shards)}
    }
    with tarfile.open(path, "w") as archive:
        for number, directory in shards.items():
            for segment in (directory / "segments").iterdir():
                add(archive, f"{number}/segments/{segment.name}.tar", pack_segment(segment))
            add(archive, f"{number}/wal/open-1", b"")
            add(archive, f"{number}/shard_config.json", b'{"type":"ReplicaSet"}')
        add(archive, "version.info", b"1.15.0")
        add(archive, "config.json", orjson.dumps(config))
    return path


def pack_shard(path: Path, directory: Path) -> Path:
    """As Qdrant streams a snapshot of one shard: segments as directories."""
    with tarfile.open(path, "w") as archive:
        for segment in (directory / "segments").iterdir():
            archive.add(segment, f"segments/{segment.name}/files")
    return path


def pack_segment(segment: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(segment, "snapshot/files")
    return packed.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def points(first: int, last: int) -> list[Point]:
    return [Point(number, vector(number), {"text": f"text {number}", "n": number}) for number in range(first, last)]


async def test_a_collection_is_read_from_all_its_shards(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    named = Point(UUID(int=7), vector(7), {"text": "text 7", "tags": ["a", {"b": 1}]})
    shards = {0: shard(tmp_path / "0", points(100, 350)), 1: shard(tmp_path / "1", [*points(350, 500), named])}

    assert await migrate(settings, pack_collection(tmp_path / NAME, shards))

    rows = {row["id"]: row for row in await chunks(database)}
    assert sorted(rows) == sorted([*map(str, range(100, 500)), str(UUID(int=7))])
    assert (rows["400"]["content"], rows["400"]["metadata"]) == ("text 400", {"n": 400})
    assert rows[str(UUID(int=7))]["metadata"] == {"tags": ["a", {"b": 1}]}
    assert [store["name"] for store in await query(database, "SELECT name FROM vector_stores")] == ["my-docs"]


async def test_a_snapshot_of_one_shard_is_read(settings: dict[str, Any], database: str, tmp_path: Path) -> None:
    assert await migrate(settings, pack_shard(tmp_path / "shard.snapshot", shard(tmp_path / "0", points(0, 30))))

    assert len(await chunks(database)) == 30


async def test_a_snapshot_goes_on_where_it_was(settings: dict[str, Any], database: str, tmp_path: Path) -> None:
    shards = {0: shard(tmp_path / "0", points(0, 100)), 1: shard(tmp_path / "1", points(100, 200))}
    snapshot = pack_collection(tmp_path / NAME, shards)
    assert await migrate(settings, snapshot)
    await query(database, "UPDATE migration_checkpoints SET position = '[1, 150]'")

    await migrate(settings, snapshot, verifies=False)

    (checkpoint,) = await query(database, "SELECT rows_written, rows_skipped FROM migration_checkpoints")
    assert checkpoint == {"rows_written": 200, "rows_skipped": 50}


async def test_of_several_vectors_the_named_one_is_taken(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    vectors = {
        "big": EdgeVectorParams(size=2, distance=Distance.Dot),
        "small": EdgeVectorParams(size=DIMENSION, distance=Distance.Dot),
    }
    given: dict[str, list[float] | list[list[float]] | SparseVector] = {
        "big": [1.0, 2.0],
        "small": vector(3),
        "words": SparseVector(indices=[1], values=[0.5]),
    }
    snapshot = pack_collection(tmp_path / NAME, {0: shard(tmp_path / "0", [Point(1, given, {"text": "t"})], **vectors)})

    with pytest.raises(ConfigurationError, match="the vectors 'big', 'small'; name one with --vector"):
        await migrate(settings, snapshot)
    assert await migrate(settings, snapshot, vector="small")

    assert [len(row["numbers"]) for row in await chunks(database)] == [DIMENSION]


async def test_shards_that_other_nodes_have_are_said_to_be_missing(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = pack_collection(tmp_path / NAME, {1: shard(tmp_path / "1", points(0, 3))}, shard_number=4)

    assert await migrate(settings, snapshot)

    assert "has 1 of the collection's 4 shards" in "".join(capsys.readouterr())


async def test_what_is_no_snapshot_is_said_so(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no snapshot of Qdrant's"):
        await migrate(settings, write_lines(tmp_path / "rows.snapshot", {"id": 1}))
    with pytest.raises(ConfigurationError, match="it has no segments"):
        await migrate(settings, pack_collection(tmp_path / "empty.snapshot", {}))


async def test_files_that_qdrant_cannot_read_are_said_so(settings: dict[str, Any], tmp_path: Path) -> None:
    broken = shard(tmp_path / "0", points(0, 3))
    (state,) = broken.glob("segments/*/segment.json")
    state.write_text("{}")

    with pytest.raises(ConfigurationError, match=r"cannot read .*Recover it in a server"):
        await migrate(settings, pack_collection(tmp_path / NAME, {0: broken}))
