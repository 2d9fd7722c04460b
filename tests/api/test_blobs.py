"""What every blob store promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.blobs import BlobDirectory, BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobDirectory(tmp_path / "blobs")


async def aiter_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_blob_can_be_read_as_a_local_file(store: BlobStore) -> None:
    await store.write("file-1", aiter_of(b"first, ", b"second"))

    async with store.local_copy("file-1") as path:
        assert path.read_bytes() == b"first, second"

    assert await store.size("file-1") == 13


async def test_a_blob_that_is_not_there_has_no_local_file(store: BlobStore) -> None:
    with pytest.raises(FileNotFoundError, match="'file-1'"):
        async with store.local_copy("file-1"):
            pass
