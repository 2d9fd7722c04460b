"""The tests of files and uploads that only look through the front door, run once more with the bytes in S3."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError

from api.app import create_app
from tests.api.test_files import (
    test_a_file_comes_back_as_it_was_sent,
    test_a_range_behind_the_end_is_refused,
    test_a_range_far_into_a_large_file_is_right,
    test_a_range_is_answered_with_just_that,
    test_an_empty_file_is_a_file,
    test_an_upload_that_says_it_is_too_large_is_not_read,
    test_expired_files_are_swept_with_their_bytes,
    test_the_synchronous_client_works_too,
)
from tests.api.test_uploads import (
    test_a_part_is_named_once_and_is_the_uploads_own,
    test_completing_again_answers_as_before,
    test_the_clients_own_chunks_come_back_as_one_file,
)
from tests.conftest import KEY, make_settings
from tests.s3 import S3
from tests.servers import Server

__all__ = [
    "test_a_file_comes_back_as_it_was_sent",
    "test_a_part_is_named_once_and_is_the_uploads_own",
    "test_a_range_behind_the_end_is_refused",
    "test_a_range_far_into_a_large_file_is_right",
    "test_a_range_is_answered_with_just_that",
    "test_an_empty_file_is_a_file",
    "test_an_upload_that_says_it_is_too_large_is_not_read",
    "test_completing_again_answers_as_before",
    "test_expired_files_are_swept_with_their_bytes",
    "test_the_clients_own_chunks_come_back_as_one_file",
    "test_the_synchronous_client_works_too",
]

SECONDS = 20
MOST_BYTES = 100_000
LARGE = os.urandom(MOST_BYTES + 1)


@pytest.fixture
def settings(settings: dict[str, Any], bucket_url: str) -> dict[str, Any]:
    return settings | {"files_dir": bucket_url}


async def until(is_so: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + SECONDS
    while not await asyncio.to_thread(is_so):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_a_deleted_file_leaves_the_bucket(openai: AsyncOpenAI, s3: S3, bucket: str) -> None:
    file = await openai.files.create(file=("a.txt", b"hello"), purpose="assistants")
    kept = s3.keys(bucket)

    await openai.files.delete(file.id)

    assert kept == [f"a/prefix/{file.id}"]
    assert s3.keys(bucket) == []


async def test_of_an_upload_that_is_completed_only_the_file_is_kept(openai: AsyncOpenAI, s3: S3, bucket: str) -> None:
    upload = await openai.uploads.upload_file_chunked(
        file=b"first, second",
        filename="a.txt",
        bytes=13,
        mime_type="text/plain",
        purpose="user_data",
        part_size=5,
    )

    assert upload.file is not None
    assert s3.keys(bucket) == [f"a/prefix/{upload.file.id}"]


async def test_a_client_that_goes_away_leaves_nothing_in_the_bucket(server: Server, s3: S3, bucket: str) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: quiver\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 90000000\r\n"
    field = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{field}".encode())
    writer.write(os.urandom(9_000_000))
    await writer.drain()
    await until(lambda: s3.unfinished(bucket) != [])

    writer.close()

    await until(lambda: s3.unfinished(bucket) == [])
    assert s3.keys(bucket) == []
    async with httpx.AsyncClient(base_url=server.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        assert (await http.get("/v1/files")).json()["data"] == []


async def announce(openai: AsyncOpenAI, content: bytes) -> tuple[str, dict[str, Any]]:
    upload = await openai.uploads.create(
        filename="a.bin", purpose="user_data", bytes=len(content), mime_type="application/octet-stream"
    )
    body = {"bytes": len(content)}
    return upload.id, await openai.post(f"/uploads/{upload.id}/presigned_parts", body=body, cast_to=dict[str, Any])


async def test_a_part_can_go_straight_to_the_bucket(openai: AsyncOpenAI, s3: S3, bucket: str) -> None:
    upload_id, part = await announce(openai, LARGE)
    async with httpx.AsyncClient() as client:
        (await client.request(part["method"], part["url"], content=LARGE)).raise_for_status()

    completed = await openai.uploads.complete(upload_id, part_ids=[part["id"]])

    assert completed.file is not None
    assert (await openai.files.content(completed.file.id)).read() == LARGE
    assert s3.keys(bucket) == [f"a/prefix/{completed.file.id}"]


async def test_a_part_that_went_straight_to_the_bucket_can_be_one_of_several(openai: AsyncOpenAI) -> None:
    upload = await openai.uploads.create(filename="a.txt", purpose="assistants", bytes=9, mime_type="text/plain")
    url = f"/uploads/{upload.id}/presigned_parts"
    straight = await openai.post(url, body={"bytes": 4}, cast_to=dict[str, Any])
    through = await openai.uploads.parts.create(upload.id, data=b"first")
    async with httpx.AsyncClient() as client:
        (await client.put(straight["url"], content=b"last")).raise_for_status()

    completed = await openai.uploads.complete(upload.id, part_ids=[through.id, straight["id"]])

    assert completed.file is not None
    assert (await openai.files.content(completed.file.id)).read() == b"firstlast"


@pytest.mark.parametrize("sent", [None, LARGE[1:], LARGE + b"x"])
async def test_a_part_must_have_come_to_the_bucket_as_announced(openai: AsyncOpenAI, sent: bytes | None) -> None:
    upload_id, part = await announce(openai, LARGE)
    async with httpx.AsyncClient() as client:
        for content in [] if sent is None else [sent]:
            (await client.put(part["url"], content=content)).raise_for_status()

    with pytest.raises(BadRequestError, match="were announced"):
        await openai.uploads.complete(upload_id, part_ids=[part["id"]])


@pytest.fixture
def modest(settings: dict[str, Any]) -> Iterator[Server]:
    """A server whose answers are small, as Lambda's must be."""
    server = Server(create_app(make_settings(**settings | {"max_answer_bytes": MOST_BYTES})))
    server.start()
    yield server
    server.stop()


async def test_what_is_too_large_for_an_answer_is_read_in_the_bucket(modest: Server, s3: S3) -> None:
    async with AsyncOpenAI(base_url=f"{modest.base_url}/v1", api_key=KEY) as openai:
        file = await openai.files.create(file=("large.bin", LARGE), purpose="user_data")
        content = await openai.files.content(file.id)
        part = await openai.files.content(file.id, extra_headers={"Range": "bytes=0-9"})

    assert content.read() == LARGE
    assert [answer.status_code for answer in content.response.history] == [307]
    assert str(content.response.url).startswith(s3.endpoint)
    assert (part.read(), part.response.history) == (LARGE[:10], [])
