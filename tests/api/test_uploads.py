"""Uploads in parts through the official client: order, sizes, md5, cancelling and expiry."""

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types import Upload

from api.services import files, uploads
from tests.lambda_environments import not_on_lambda
from tests.working import opened

CONTENT = b"first, second"


@pytest.fixture
def blobs(settings: dict[str, Any]) -> Path:
    return settings["files_dir"]


async def create(openai: AsyncOpenAI, size: int = len(CONTENT)) -> Upload:
    return await openai.uploads.create(filename="a.md", purpose="assistants", bytes=size, mime_type="text/markdown")


async def add(openai: AsyncOpenAI, upload: Upload, data: bytes) -> str:
    return (await openai.uploads.parts.create(upload.id, data=data)).id


def kept(blobs: Path) -> list[Path]:
    return [path for path in blobs.rglob("*") if path.is_file()]


def age(path: Path, seconds: float) -> None:
    os.utime(path, (0, time.time() - seconds))


async def expire(database: str, upload: Upload) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE uploads SET expires_at = now() WHERE id = %s", (upload.id,))


async def test_an_upload_waits_for_its_parts_for_an_hour(openai: AsyncOpenAI) -> None:
    upload = await create(openai)

    assert upload.id.startswith("upload_")
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert (upload.bytes, upload.filename, upload.purpose) == (len(CONTENT), "a.md", "assistants")
    assert upload.expires_at == upload.created_at + 3600


async def test_a_part_has_openais_shape(openai: AsyncOpenAI) -> None:
    upload = await create(openai)

    part = await openai.uploads.parts.create(upload.id, data=b"first")

    assert part.id.startswith("part_")
    assert (part.object, part.upload_id) == ("upload.part", upload.id)


async def test_parts_are_put_together_in_the_order_named(openai: AsyncOpenAI, blobs: Path) -> None:
    upload = await create(openai)
    second, first = await asyncio.gather(add(openai, upload, b"second"), add(openai, upload, b"first, "))

    completed = await openai.uploads.complete(
        upload.id, part_ids=[first, second], md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    )

    assert completed.status == "completed" and completed.file is not None
    assert (completed.file.bytes, completed.file.filename) == (len(CONTENT), "a.md")
    assert (await openai.files.content(completed.file.id)).read() == CONTENT
    assert await openai.files.retrieve(completed.file.id) == completed.file
    assert [path.name for path in kept(blobs)] == [completed.file.id]


async def test_the_clients_own_chunks_come_back_as_one_file(openai: AsyncOpenAI) -> None:
    content = os.urandom(1_000_000)

    upload = await openai.uploads.upload_file_chunked(
        file=content,
        filename="random.bin",
        bytes=len(content),
        mime_type="application/octet-stream",
        purpose="user_data",
        part_size=300_000,
    )

    assert upload.file is not None
    assert (await openai.files.content(upload.file.id)).read() == content


async def test_completing_again_answers_as_before(openai: AsyncOpenAI) -> None:
    upload = await create(openai, 1)
    part = await add(openai, upload, b"x")

    first = await openai.uploads.complete(upload.id, part_ids=[part])

    assert await openai.uploads.complete(upload.id, part_ids=[part]) == first
    assert len((await openai.files.list()).data) == 1


async def test_of_two_completions_at_once_one_makes_the_file(openai: AsyncOpenAI, blobs: Path) -> None:
    upload = await create(openai, 1)
    part = await add(openai, upload, b"x")

    await asyncio.gather(
        *[openai.uploads.complete(upload.id, part_ids=[part]) for _ in range(4)], return_exceptions=True
    )

    assert len((await openai.files.list()).data) == 1
    assert len(kept(blobs)) == 1


async def test_the_file_of_an_upload_can_expire(openai: AsyncOpenAI) -> None:
    upload = await openai.uploads.create(
        filename="a",
        purpose="vision",
        bytes=1,
        mime_type="image/png",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )

    completed = await openai.uploads.complete(upload.id, part_ids=[await add(openai, upload, b"x")])

    assert completed.file is not None
    assert completed.file.expires_at == completed.file.created_at + 7200


async def test_parts_must_add_up_to_what_was_announced(openai: AsyncOpenAI, blobs: Path) -> None:
    upload = await create(openai)
    part = await add(openai, upload, b"first")

    with pytest.raises(BadRequestError, match="have 5 bytes together; the upload was to have 13"):
        await openai.uploads.complete(upload.id, part_ids=[part])
    assert len(kept(blobs)) == 1


async def test_a_wrong_md5_is_refused_and_the_upload_goes_on(openai: AsyncOpenAI, blobs: Path) -> None:
    upload = await create(openai, 1)
    part = await add(openai, upload, b"x")

    with pytest.raises(BadRequestError, match="md5"):
        await openai.uploads.complete(upload.id, part_ids=[part], md5="0" * 32)

    assert len(kept(blobs)) == 1
    assert (await openai.uploads.complete(upload.id, part_ids=[part])).status == "completed"


async def test_a_part_is_named_once_and_is_the_uploads_own(openai: AsyncOpenAI) -> None:
    upload, other = await create(openai, 2), await create(openai)
    own, foreign = await add(openai, upload, b"x"), await add(openai, other, b"x")

    with pytest.raises(BadRequestError, match="more than once"):
        await openai.uploads.complete(upload.id, part_ids=[own, own])
    with pytest.raises(BadRequestError, match=f"'{foreign}' is no part"):
        await openai.uploads.complete(upload.id, part_ids=[own, foreign])


async def test_a_cancelled_upload_is_over_and_its_parts_are_gone(openai: AsyncOpenAI, blobs: Path) -> None:
    upload = await create(openai)
    part = await add(openai, upload, CONTENT)

    assert (await openai.uploads.cancel(upload.id)).status == "cancelled"

    assert kept(blobs) == []
    for attempt in (
        openai.uploads.complete(upload.id, part_ids=[part]),
        openai.uploads.parts.create(upload.id, data=b"x"),
        openai.uploads.cancel(upload.id),
    ):
        with pytest.raises(BadRequestError, match="is cancelled"):
            await attempt


async def test_an_expired_upload_takes_nothing_and_its_parts_are_swept(
    openai: AsyncOpenAI, settings: dict[str, Any], database: str, blobs: Path
) -> None:
    expired, pending = await create(openai), await create(openai)
    await add(openai, expired, b"first")
    waiting = await add(openai, pending, b"first")
    await expire(database, expired)
    for path in kept(blobs):
        age(path, files.SWEEP_AFTER_SECONDS + 1)

    with pytest.raises(BadRequestError, match="is expired"):
        await add(openai, expired, b"second")
    async with opened(settings) as resources:
        assert await files.sweep_blobs(resources) == 1

    assert [path.name for path in kept(blobs)] == [waiting]


@not_on_lambda
async def test_a_part_has_a_limit(openai: AsyncOpenAI, http: httpx.AsyncClient, blobs: Path) -> None:
    upload = await create(openai, 70_000_000)

    answer = await http.post(f"/v1/uploads/{upload.id}/parts", files={"data": ("p", bytes(uploads.MAX_PART_BYTES + 1))})

    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "data")
    assert kept(blobs) == []


@pytest.mark.parametrize(
    "change",
    [{"bytes": 0}, {"bytes": 8 * 1024**3 + 1}, {"filename": ""}, {"purpose": "poetry"}, {"mime_type": None}, {"x": 1}],
)
async def test_a_bad_upload_is_refused(http: httpx.AsyncClient, change: dict[str, Any]) -> None:
    body = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"} | change

    answer = await http.post("/v1/uploads", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(change)))


@pytest.mark.parametrize(
    "form", [{"files": {"file": ("p", b"x")}}, {"files": {"data": ("p", b"x")}, "data": {"a": "b"}}]
)
async def test_a_part_is_data_and_nothing_else(
    openai: AsyncOpenAI, http: httpx.AsyncClient, blobs: Path, form: dict[str, Any]
) -> None:
    upload = await create(openai)

    answer = await http.post(f"/v1/uploads/{upload.id}/parts", **form)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_parameter")
    assert kept(blobs) == []


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/parts", {"files": {"data": ("p", b"x")}}),
        ("/presigned_parts", {"json": {"bytes": 1}}),
        ("/complete", {"json": {"part_ids": ["part_1"]}}),
        ("/cancel", {}),
    ],
)
async def test_an_upload_that_is_not_there_is_not_found(
    http: httpx.AsyncClient, path: str, content: dict[str, Any]
) -> None:
    answer = await http.post(f"/v1/uploads/upload_1{path}", **content)

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "upload_id")


async def test_an_upload_that_ended_long_ago_is_forgotten(
    openai: AsyncOpenAI, settings: dict[str, Any], database: str
) -> None:
    old = await openai.uploads.create(filename="a.txt", purpose="assistants", bytes=4, mime_type="text/plain")
    new = await openai.uploads.create(filename="b.txt", purpose="assistants", bytes=4, mime_type="text/plain")
    await openai.uploads.parts.create(old.id, data=b"text")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE uploads SET expires_at = now() - interval '2 days' WHERE id = %s", (old.id,))
        async with opened(settings) as resources:
            await uploads.forget_ended(resources)
        left = await (await connection.execute("SELECT id FROM uploads")).fetchall()
        parts = await (await connection.execute("SELECT id FROM upload_parts")).fetchall()

    assert (left, parts) == ([(new.id,)], [])


async def test_parts_of_files_in_a_directory_have_no_address(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    upload = await create(openai)

    answer = await http.post(f"/v1/uploads/{upload.id}/presigned_parts", json={"bytes": 1})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_supported")
