"""What every blob store promises, held against each of them."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.blobs import WRITE_BYTES, BlobStore, blobs_at
from api.errors import StorageUnavailable

PART_BYTES = 8 * 1024 * 1024  # of an upload to S3
LARGE = os.urandom(PART_BYTES + 1_000_000)
CHUNK_BYTES = 65_536
CHUNKS = -(-len(LARGE) // CHUNK_BYTES)
SECONDS = 20


class Broken(Exception):
    pass


@pytest.fixture(params=["directory", "bucket_url"])
def blobs(request: pytest.FixtureRequest) -> BlobStore:
    return blobs_at(request.getfixturevalue(request.param))


async def in_chunks(content: bytes, *, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
    if then is not None:
        raise then


async def read(blobs: BlobStore, key: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in blobs.open(key, start, end)])


async def keys(blobs: BlobStore) -> list[str]:
    return sorted([key async for key in blobs.keys_older_than(-60)])


@pytest.mark.parametrize("size", [0, 1, WRITE_BYTES, PART_BYTES - 1, PART_BYTES, len(LARGE)])
async def test_a_blob_comes_back_as_it_was_written(blobs: BlobStore, size: int) -> None:
    content = LARGE[:size]

    assert await blobs.write("file-1", in_chunks(content)) == size

    assert await blobs.size("file-1") == size
    assert await read(blobs, "file-1", 0, size) == content
    assert await keys(blobs) == ["file-1"]


async def test_content_may_come_in_pieces_of_any_size(blobs: BlobStore) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"", b"a", LARGE, b"", b"z"):
            yield piece

    assert await blobs.write("file-1", pieces()) == len(LARGE) + 2

    assert await read(blobs, "file-1", 0, len(LARGE) + 2) == b"a" + LARGE + b"z"


@pytest.mark.parametrize(("start", "end"), [(0, 1), (5, 5), (7_000_000, 9_000_000), (len(LARGE) - 1, len(LARGE))])
async def test_a_range_is_read_alone(blobs: BlobStore, start: int, end: int) -> None:
    await blobs.write("file-1", in_chunks(LARGE))

    assert await read(blobs, "file-1", start, end) == LARGE[start:end]


@pytest.mark.parametrize(("start", "end"), [(0, 6), (5, 6), (9, 12)])
async def test_more_than_there_is_cannot_be_read(blobs: BlobStore, start: int, end: int) -> None:
    await blobs.write("file-1", in_chunks(b"hello"))

    with pytest.raises(EOFError, match="'file-1'"):
        await read(blobs, "file-1", start, end)


async def test_a_reader_may_stop_early(blobs: BlobStore) -> None:
    await blobs.write("file-1", in_chunks(LARGE))

    reading = aiter(blobs.open("file-1", 0, len(LARGE)))

    assert LARGE.startswith(await anext(reading))
    await reading.aclose()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # a generator's


async def test_what_is_not_there_is_missed_by_readers_only(blobs: BlobStore) -> None:
    assert await blobs.size("file-1") is None
    assert await keys(blobs) == []
    await blobs.delete("file-1")
    with pytest.raises(FileNotFoundError):
        await read(blobs, "file-1", 0, 1)
    with pytest.raises(FileNotFoundError):
        async with blobs.local_copy("file-1"):
            pass


async def test_a_deleted_blob_is_gone(blobs: BlobStore) -> None:
    await blobs.write("file-1", in_chunks(b"hello"))

    await blobs.delete("file-1")

    assert await blobs.size("file-1") is None
    assert await keys(blobs) == []


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, len(LARGE)])
async def test_of_content_that_breaks_off_nothing_is_kept(blobs: BlobStore, size: int) -> None:
    with pytest.raises(Broken):
        await blobs.write("file-1", in_chunks(LARGE[:size], then=Broken()))

    assert await blobs.size("file-1") is None
    assert await keys(blobs) == []


@pytest.mark.parametrize("size", [0, 1, len(LARGE)])
async def test_of_a_writing_that_is_cancelled_nothing_is_kept(blobs: BlobStore, size: int) -> None:
    reached = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in in_chunks(LARGE[:size]):
            yield chunk
        reached.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write("file-1", stalling()))
    await asyncio.wait_for(reached.wait(), SECONDS)
    unfinished = await blobs.size("file-1")
    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await writing
    assert unfinished is await blobs.size("file-1") is None
    assert await keys(blobs) == []


@pytest.mark.parametrize("chunks", [1, 100, CHUNKS])
async def test_a_cancellation_at_any_moment_leaves_all_or_nothing(blobs: BlobStore, chunks: int) -> None:
    passed = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal passed
        async for chunk in in_chunks(LARGE):
            yield chunk
            passed += 1
            asyncio.get_running_loop().call_soon(cancel_at[passed == chunks])

    writing = asyncio.create_task(blobs.write("file-1", counted()))
    cancel_at = {True: writing.cancel, False: lambda: False}

    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await keys(blobs) == []


async def test_the_young_and_the_old_are_told_apart(blobs: BlobStore) -> None:
    for key in ("file-1", "part_2"):
        await blobs.write(key, in_chunks(b"hello"))

    assert await keys(blobs) == ["file-1", "part_2"]
    assert [key async for key in blobs.keys_older_than(60)] == []


async def test_a_blob_can_be_read_as_a_local_file(blobs: BlobStore) -> None:
    await blobs.write("file-1", in_chunks(LARGE))

    async with blobs.local_copy("file-1") as path:
        assert path.read_bytes() == LARGE

    assert await blobs.size("file-1") == len(LARGE)


@pytest.mark.parametrize("key", ["", "../file-1", "a/b", "/etc/passwd", "a.draft", ".", "ключ"])
async def test_a_key_cannot_lead_elsewhere(blobs: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        await blobs.write(key, in_chunks(b"x"))
    with pytest.raises(ValueError, match="is no key"):
        await blobs.size(key)
    with pytest.raises(ValueError, match="is no key"):
        await blobs.delete(key)
    with pytest.raises(ValueError, match="is no key"):
        await read(blobs, key, 0, 1)


async def test_a_store_that_is_there_passes_its_check(blobs: BlobStore) -> None:
    await blobs.check()


async def test_a_full_disk_is_said_to_be_full(directory: str) -> None:
    draft = Path(directory) / "-1" / "file-1.draft"
    draft.parent.mkdir(parents=True)
    draft.symlink_to("/dev/full")

    with pytest.raises(StorageUnavailable, match="is full"):
        await blobs_at(directory).write("file-1", in_chunks(b"hello"))

    assert await keys(blobs_at(directory)) == []


async def test_a_directory_that_cannot_be_one_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(StorageUnavailable, match="log says why"):
        await blobs_at(file).write("file-1", in_chunks(b"hello"))


async def test_a_copy_stays_when_the_blob_goes(blobs: BlobStore) -> None:
    await blobs.write("part-1", in_chunks(LARGE))

    await blobs.copy("part-1", "file-1")
    await blobs.delete("part-1")

    assert await read(blobs, "file-1", 0, len(LARGE)) == LARGE
    with pytest.raises(FileNotFoundError):
        await blobs.copy("part-1", "file-2")
