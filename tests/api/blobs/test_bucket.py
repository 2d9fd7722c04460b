"""What S3 alone can do: fail in part, keep parts, be away, be misconfigured."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.blobs import BlobStore, blobs_at
from api.errors import ConfigurationError, StorageUnavailable
from tests.conftest import Serve, make_settings, raw
from tests.processes import free_port
from tests.s3 import PAGE_KEYS, S3

PART_BYTES = 8 * 1024 * 1024
LARGE = os.urandom(2 * PART_BYTES + 1_000_000)
ALWAYS = 1000
SECONDS = 20


@pytest.fixture
def blobs(bucket_url: str) -> BlobStore:
    return blobs_at(bucket_url)


@pytest.fixture
def away(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of an S3 that does not answer."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    return bucket_url


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


async def test_keys_lie_below_the_prefix(blobs: BlobStore, s3: S3, bucket: str) -> None:
    await blobs.write("file-1", in_chunks(b"hello"))

    assert s3.keys(bucket) == ["a/prefix/file-1"]


async def test_a_bucket_may_hold_what_is_not_ours(blobs: BlobStore, s3: S3, bucket: str) -> None:
    for key in (
        "file-other",
        "a/file-other",
        "a/prefix/deeper/file-other",
        "a/prefix/file.txt",
        "a/prefix-2/file-other",
    ):
        s3.put(bucket, key, b"x")

    assert [key async for key in blobs.keys_older_than(-60)] == []


async def test_a_bucket_needs_no_prefix(s3: S3, bucket: str) -> None:
    await blobs_at(f"s3://{bucket}").write("file-1", in_chunks(b"hello"))
    await blobs_at(f"s3://{bucket}/").write("file-2", in_chunks(b"hello"))

    assert s3.keys(bucket) == ["file-1", "file-2"]


async def test_more_keys_than_one_answer_holds_are_all_found(blobs: BlobStore, s3: S3, bucket: str) -> None:
    made = [f"file-{number:02}" for number in range(2 * PAGE_KEYS + 1)]
    for key in made:
        s3.put(bucket, f"a/prefix/{key}", b"")

    assert [key async for key in blobs.keys_older_than(-60)] == made


async def test_a_request_that_fails_once_is_made_again(blobs: BlobStore, s3: S3, bucket: str) -> None:
    for request in ("POST .*uploads", "PUT .*partNumber=2", "POST .*uploadId", "HEAD ", "GET .*file-1", "DELETE "):
        s3.fail(request, status=503, code="SlowDown")

    assert await blobs.write("file-1", in_chunks(LARGE)) == len(LARGE)
    assert await blobs.size("file-1") == len(LARGE)
    assert b"".join([chunk async for chunk in blobs.open("file-1", 0, len(LARGE))]) == LARGE
    await blobs.delete("file-1")

    assert [failure.times for failure in s3.failures] == [0] * 6
    assert s3.keys(bucket) == []


@pytest.mark.parametrize("failing", ["POST .*uploads", "PUT .*partNumber=1", "PUT .*partNumber=2", "POST .*uploadId"])
async def test_a_part_that_cannot_be_sent_leaves_none(blobs: BlobStore, s3: S3, bucket: str, failing: str) -> None:
    s3.fail(failing, status=500, code="InternalError", times=ALWAYS)

    with pytest.raises(StorageUnavailable):
        await blobs.write("file-1", in_chunks(LARGE))

    assert s3.keys(bucket) == s3.unfinished(bucket) == []


async def test_a_cancelled_writing_leaves_no_parts(blobs: BlobStore, s3: S3, bucket: str) -> None:
    sent = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for chunk in in_chunks(LARGE):
            yield chunk
        sent.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(blobs.write("file-1", stalling()))
    await asyncio.wait_for(sent.wait(), SECONDS)
    unfinished = await asyncio.to_thread(s3.unfinished, bucket)
    writing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await writing
    assert unfinished == ["a/prefix/file-1"]
    assert s3.keys(bucket) == s3.unfinished(bucket) == []


async def test_a_local_copy_is_there_as_long_as_it_is_needed(blobs: BlobStore) -> None:
    await blobs.write("file-1", in_chunks(b"hello"))

    async with blobs.local_copy("file-1") as path:
        assert path.exists()

    assert not path.exists()


async def test_an_s3_that_is_away_is_unavailable(away: str) -> None:
    blobs = blobs_at(away)

    for call in (blobs.check(), blobs.size("file-1"), blobs.delete("file-1"), blobs.write("file-1", in_chunks(LARGE))):
        with pytest.raises(StorageUnavailable):
            await call


async def test_callers_are_told_to_come_back(serve: Serve, settings: dict[str, Any], away: str) -> None:
    async with serve(**settings | {"files_dir": away}) as client:
        answer = await raw(client).post("/v1/files", files={"file": ("a.txt", b"hello")}, data={"purpose": "vision"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert answer.headers["Retry-After"] == "5"


async def test_a_download_is_refused_while_s3_is_away(
    serve: Serve, settings: dict[str, Any], s3: S3, bucket_url: str
) -> None:
    async with serve(**settings | {"files_dir": bucket_url}) as client:
        file = await client.files.create(file=("a.txt", b"hello"), purpose="vision")
        s3.fail("HEAD ", status=503, code="SlowDown", times=ALWAYS)

        answer = await raw(client).get(f"/v1/files/{file.id}/content")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")


async def test_a_bucket_that_does_not_exist_is_a_matter_of_configuration(s3: S3) -> None:
    blobs = blobs_at("s3://no-such-bucket")

    with pytest.raises(ConfigurationError, match="'no-such-bucket', and S3 answers NoSuchBucket"):
        await blobs.check()
    with pytest.raises(StorageUnavailable):
        await blobs.write("file-1", in_chunks(b"hello"))


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
async def test_credentials_that_are_refused_are_too(blobs: BlobStore, s3: S3, code: str) -> None:
    s3.fail("GET ", status=403, code=code)

    with pytest.raises(ConfigurationError, match=code):
        await blobs.check()


@pytest.mark.parametrize("place", ["s3://", "s3:///a", "s3://Bucket", "s3://bucket/a b", "gs://bucket", "file:///a"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ValidationError, match="must be a directory or s3://BUCKET/PREFIX"):
        make_settings(files_dir=place)


@pytest.mark.parametrize("place", ["s3://bucket", "s3://my.bucket-1/", "s3://bucket/a/b_c-1.d/", "~/files", Path("/a")])
def test_a_place_stays_as_it_is_written(place: str | Path) -> None:
    assert make_settings(files_dir=place).files_dir == place


def test_without_its_library_s3_says_what_to_install() -> None:
    program = "import sys; sys.modules['obstore'] = None; from api.blobs import blobs_at; blobs_at({!r})"

    done = [
        subprocess.run([sys.executable, "-c", program.format(place)], capture_output=True, text=True, check=False)
        for place in ("/a/directory", "s3://bucket")
    ]

    assert [process.returncode for process in done] == [0, 1]
    assert "ConfigurationError: FILES_DIR is 's3://bucket', and the library for S3 is not installed" in done[1].stderr


def test_the_api_does_not_load_what_only_s3_needs() -> None:
    program = "import sys, api.app, api.worker; sys.exit(any(name in sys.modules for name in ('obstore', 'boto3')))"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
