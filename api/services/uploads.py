"""Uploads: files that arrive in parts, in any order and at once, and become one file when they are completed."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from api import ids
from api.errors import InvalidRequest, NotFound, RequestTooLarge
from api.multipart import Part
from api.resources import Resources
from api.schemas.uploads import (
    AddUploadPartRequest,
    CompleteUploadRequest,
    CreateUploadRequest,
    PresignedPart,
    PresignUploadPartRequest,
    Upload,
    UploadPart,
)
from api.services import files, idempotency, incoming
from api.tables import files as file_table
from api.tables import uploads
from api.tables.database import Connection

LIFETIME_SECONDS = 3600
MAX_PART_BYTES = 64 * 1024 * 1024
PRESIGNED = "part_put"  # begins the ids of parts whose bytes do not come by here


async def create(resources: Resources, request: CreateUploadRequest) -> Upload:
    id = ids.new_ids("upload", 1)[0]
    values: dict[str, Any] = {
        "filename": files.display_name(request.filename),
        "purpose": request.purpose,
        "bytes": request.bytes,
        "lifetime_seconds": LIFETIME_SECONDS,
        "expires_after_seconds": request.expires_after and request.expires_after.seconds,
    }
    async with resources.database.transaction() as connection:
        upload = await uploads.insert(connection, id=id, created_at=_created_at(id), values=values)
        await idempotency.settle(resources, connection, upload)
    return upload


async def add_part(resources: Resources, upload_id: str, form: AsyncIterator[Part]) -> UploadPart:
    """Keep a part: its bytes first and, when they are durable, its row.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it is not pending, or the form is not one of a part.
        RequestTooLarge: the part has more than `MAX_PART_BYTES`.
        pydantic.ValidationError: there is another field.
    """
    async with resources.database.connection() as connection:
        await _get_pending(connection, upload_id)
    id = ids.new_ids("part", 1)[0]
    async with AsyncExitStack() as undo:
        undo.push_async_callback(resources.blobs.delete, id)
        received = await incoming.receive(
            resources, form, file_field="data", key=id, too_large=part_too_large(), limit=MAX_PART_BYTES
        )
        AddUploadPartRequest.model_validate(received.fields)
        if received.filename is None:
            raise incoming.missing("data")
        undo.pop_all()
    async with resources.database.transaction() as connection:
        part = await uploads.insert_part(connection, upload_id, id=id, size=received.size, created_at=_created_at(id))
        if part is None:
            await resources.blobs.delete(id)
            raise _not_pending(await _get(connection, upload_id))
        await idempotency.settle(resources, connection, part)
    return part


async def presign_part(resources: Resources, upload_id: str, request: PresignUploadPartRequest) -> PresignedPart:
    """Announce a part that the caller sends to S3 itself, while the upload lasts.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it is not pending, or the files are not in S3.
    """
    async with resources.database.connection() as connection:
        upload = await _get_pending(connection, upload_id)
    id = ids.new_ids(PRESIGNED, 1)[0]
    seconds = max(upload["expires_at"] - time.time(), 1)
    url = await resources.blobs.signed_url("PUT", id, seconds=seconds)
    if url is None:
        raise InvalidRequest(
            "The server's files are not in S3, so that all parts come through it: POST /v1/uploads/{id}/parts.",
            code="not_supported",
        )
    async with resources.database.transaction() as connection:
        part = await uploads.insert_part(connection, upload_id, id=id, size=request.bytes, created_at=_created_at(id))
        if part is None:
            raise _not_pending(await _get(connection, upload_id))
        presigned: PresignedPart = {
            **part,
            "object": "upload.presigned_part",
            "expires_at": upload["expires_at"],
            "bytes": request.bytes,
            "method": "PUT",
            "url": url,
        }
        await idempotency.settle(resources, connection, presigned)
    return presigned


async def complete(resources: Resources, id: str, request: CompleteUploadRequest) -> Upload:
    """Put the parts together to a file, in the order in which they are named. Done again, it answers as before.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it is cancelled or expired, a part is not its own or named twice, or the bytes or their md5
            are not what was announced.
    """
    async with resources.database.connection() as connection:
        upload = await _get(connection, id)
        completed_file_id, expires_after_seconds, owner = await uploads.get_of_file(connection, id)
        if completed_file_id is not None:
            return {**upload, "file": await file_table.find(connection, completed_file_id)}
        upload = await _get_pending(connection, id)
        sizes = await uploads.list_parts(connection, id, request.part_ids)
    _check_parts(upload, request, sizes)
    await _require_sent(resources, sizes)
    file_id = ids.new_ids("file", 1, separator="-")[0]
    async with AsyncExitStack() as undo:
        undo.push_async_callback(resources.blobs.delete, file_id)
        await _join(resources, file_id, request, sizes)
        undo.pop_all()
    async with resources.database.transaction() as connection:
        completed = await uploads.complete(connection, id, file_id=file_id)
        if completed is None:
            await resources.blobs.delete(file_id)
            raise _not_pending(await _get(connection, id))
        file = await files.insert_on(
            connection,
            file_id,
            filename=upload["filename"],
            purpose=upload["purpose"],
            size=upload["bytes"],
            expires_after_seconds=expires_after_seconds,
            owner=owner,
        )
        parts = await uploads.delete_parts(connection, id)
        done: Upload = {**completed, "file": file}
        await idempotency.settle(resources, connection, done)
    await _delete_blobs(resources, parts)
    return done


async def cancel(resources: Resources, id: str) -> Upload:
    async with resources.database.transaction() as connection:
        upload = await uploads.cancel(connection, id)
        if upload is None:
            raise _not_pending(await _get(connection, id))
        parts = await uploads.delete_parts(connection, id)
        await idempotency.settle(resources, connection, upload)
    await _delete_blobs(resources, parts)
    return upload


def part_too_large() -> RequestTooLarge:
    return RequestTooLarge(f"A part has at most {MAX_PART_BYTES} bytes; send smaller ones.", param="data")


async def forget_ended(resources: Resources) -> None:
    """Forget uploads that ended more than a day ago; the sweep deletes bytes that they left."""
    async with resources.database.connection(is_long=True) as connection:
        await uploads.forget_ended(connection)


def _check_parts(upload: Upload, request: CompleteUploadRequest, sizes: dict[str, int]) -> None:
    for part_id in request.part_ids:
        if part_id not in sizes:
            raise InvalidRequest(f"{part_id!r} is no part of upload {upload['id']!r}.", param="part_ids")
    if len(sizes) != len(request.part_ids):
        raise InvalidRequest("A part is named more than once.", param="part_ids")
    total = sum(sizes.values())
    if total != upload["bytes"]:
        raise InvalidRequest(
            f"The parts have {total} bytes together; the upload was to have {upload['bytes']}.", param="part_ids"
        )


async def _require_sent(resources: Resources, sizes: dict[str, int]) -> None:
    """Look whether the parts that went to S3 by another way have come there."""
    for part_id, size in sizes.items():
        if part_id.startswith(PRESIGNED) and (there := await resources.blobs.size(part_id) or 0) != size:
            raise InvalidRequest(
                f"Part {part_id!r} has {there} bytes where {size} were announced; send them to its url.",
                param="part_ids",
            )


async def _join(resources: Resources, file_id: str, request: CompleteUploadRequest, sizes: dict[str, int]) -> None:
    """Make one blob of the parts; one part, whose md5 nobody wants, is a file without being read."""
    if len(request.part_ids) == 1 and request.md5 is None:
        await resources.blobs.copy(request.part_ids[0], file_id)
        return
    md5 = hashlib.md5(usedforsecurity=False)
    await resources.blobs.write(file_id, _joined(resources, request.part_ids, sizes, md5.update))
    if request.md5 is not None and request.md5.lower() != md5.hexdigest():
        raise InvalidRequest(
            f"The md5 of the parts is {md5.hexdigest()!r}, not {request.md5!r}: send them again.", param="md5"
        )


async def _joined(
    resources: Resources, part_ids: list[str], sizes: dict[str, int], watch: Callable[[bytes], None]
) -> AsyncIterator[bytes]:
    for part_id in part_ids:
        async for chunk in resources.blobs.open(part_id, 0, sizes[part_id]):
            watch(chunk)
            yield chunk


async def _get(connection: Connection, id: str) -> Upload:
    upload = await uploads.find(connection, id)
    if upload is None:
        raise NotFound(f"No upload found with id {id!r}.", param="upload_id")
    return upload


async def _get_pending(connection: Connection, id: str) -> Upload:
    upload = await _get(connection, id)
    if upload["status"] != "pending":
        raise _not_pending(upload)
    return upload


def _not_pending(upload: Upload) -> InvalidRequest:
    return InvalidRequest(
        f"Upload {upload['id']!r} is {upload['status']}; create another one.",
        param="upload_id",
        code=f"upload_{upload['status']}",
    )


async def _delete_blobs(resources: Resources, keys: list[str]) -> None:
    for key in keys:
        await resources.blobs.delete(key)


def _created_at(id: str) -> datetime:
    return ids.created_at(id) or datetime.now(UTC)
