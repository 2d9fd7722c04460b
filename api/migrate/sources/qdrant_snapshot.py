"""A snapshot of Qdrant: of a collection, or of one shard. Qdrant's own storage reads it, in this process.

A snapshot is a tar: of a collection it has a directory of the number of each shard, and in a shard's `segments` each of
its segments, as a directory or as a tar again.
"""

import asyncio
import re
import shutil
import tarfile
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

from api.errors import ConfigurationError
from api.migrate.progress import say
from api.migrate.sources.files import file_identity
from api.migrate.sources.qdrant import Scrolled

if TYPE_CHECKING:
    from qdrant_edge import EdgeShard, Record

STAMP: Final = re.compile(r"-\d+-\d{4}(-\d\d){5}$")  # what Qdrant puts behind the collection's name: peer and time
FILE: Final = re.compile(r"(?:\./)?(?:(?P<shard>\d+)/)?(?P<file>segments/.+)")
CONFIG: Final = re.compile(r"(?:\./)?config\.json")


class Shards:
    """The points of a snapshot, shard by shard, in the order of their ids. An offset is a shard's place and an id."""

    def __init__(self, snapshot: Path, shards: "list[EdgeShard]") -> None:
        self._shards = shards
        self.name = STAMP.sub("", snapshot.stem)
        self.shown = f"snapshot {snapshot}"
        self.identity = file_identity(snapshot)

    async def count(self) -> int:
        from qdrant_edge import CountRequest

        return sum(shard.count(CountRequest(exact=True)) for shard in self._shards)

    async def scroll(self, offset: Any, limit: int) -> Scrolled:
        from qdrant_edge import ScrollRequest

        place, id = offset or (0, None)
        start = UUID(id) if isinstance(id, str) else id
        request = ScrollRequest(offset=start, limit=limit, with_payload=True, with_vector=True)
        records, following = await asyncio.to_thread(self._shards[place].scroll, request)
        is_last = place + 1 == len(self._shards)
        next_shard = None if is_last else (place + 1, None)
        return Scrolled(list(map(_point, records)), next_shard if following is None else (place, _id(following)))


@asynccontextmanager
async def unpacked(snapshot: Path) -> AsyncGenerator[Shards]:
    """The snapshot in a temporary directory, which takes about its size.

    Raises:
        ConfigurationError: it is no snapshot of Qdrant's, or of a Qdrant whose files the package here does not read.
    """
    try:
        from qdrant_edge import EdgeShard
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Snapshots are read by Qdrant's own package: pip install 'quiver[migrate]'."
        ) from error
    with tempfile.TemporaryDirectory(prefix="quiver-qdrant-") as name:
        directories = await asyncio.to_thread(_unpack, snapshot, Path(name))
        shards: list[EdgeShard] = []
        try:
            for directory in directories:
                # Qdrant unpacks the segments that lie there already, too: an empty tar adds none.
                await asyncio.to_thread(EdgeShard.unpack_snapshot, str(_empty_tar(directory)), str(directory))
                shards.append(await asyncio.to_thread(EdgeShard.load, str(directory)))
        except Exception as error:  # whatever Qdrant's code has against it comes as this
            raise ConfigurationError(
                f"The Qdrant that this is built with cannot read {snapshot}: {error}. Recover it in a server of the "
                "version that made it, and migrate from that: quiver migrate http://…:6333"
            ) from error
        try:
            yield Shards(snapshot, shards)
        finally:
            for shard in shards:
                shard.close()


def _unpack(snapshot: Path, directory: Path) -> list[Path]:
    """The directories of the shards, in the order of their numbers."""
    shards: set[int] = set()
    wanted = 0
    try:
        with tarfile.open(snapshot) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:  # of a directory
                    continue
                found = FILE.fullmatch(member.name)
                if found and ".." not in member.name.split("/"):
                    number = int(found["shard"] or 0)
                    place = directory / str(number) / found["file"]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with place.open("wb") as file:
                        shutil.copyfileobj(content, file, 1024 * 1024)
                    shards.add(number)
                elif CONFIG.fullmatch(member.name):
                    wanted = _shard_number(content.read())
    except tarfile.TarError as error:
        raise ConfigurationError(f"{snapshot} is no snapshot of Qdrant's: {error}.") from error
    if not shards:
        raise ConfigurationError(f"{snapshot} is no snapshot of a collection of Qdrant's: it has no segments.")
    if len(shards) < wanted:
        say(
            f"{snapshot} has {len(shards)} of the collection's {wanted} shards: each node of a cluster makes a "
            "snapshot of its own. Migrate those, too, with --store and the id of this one's store."
        )
    return [directory / str(number) for number in sorted(shards)]


def _shard_number(config: bytes) -> int:
    """How many shards the collection has, on whatever node; 0 where their keys decide that."""
    params = orjson.loads(config)["params"]
    return 0 if params.get("sharding_method") == "custom" else params.get("shard_number") or 0


def _empty_tar(directory: Path) -> Path:
    path = directory.with_suffix(".tar")
    with tarfile.open(path, "w"):
        return path


def _point(record: "Record") -> dict[str, Any]:
    return {"id": _id(record.id), "vector": record.vector, "payload": record.payload}


def _id(id: int | UUID | str) -> int | str:
    return id if isinstance(id, int) else str(id)
