"""Files: upload, list, retrieve, download, delete; and the sweep of bytes that are no file's."""

import unicodedata
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from api import ids
from api.errors import InternalError, NotFound, RequestTooLarge
from api.multipart import Part
from api.resources import Resources
from api.schemas.files import CreateFileRequest, FileDeleted, FileObject, FilePage, FileQuery
from api.services import attachments, idempotency, incoming, paging
from api.tables import files, scope, uploads
from api.tables.database import Connection
from api.tables.scope import Owner

MAX_FILENAME_LENGTH = 255

BATCH_FILES_EXPIRE_AFTER_SECONDS = 30 * 86400  # as OpenAI's do when nothing else is said

SWEEP_AFTER_SECONDS = 3600  # the row of bytes that were just written may be on its way
SWEEP_BATCH = 1000

CONTENT_URL_SECONDS = 900  # to begin reading; what has begun goes on


async def create(resources: Resources, form: AsyncIterator[Part]) -> FileObject:
    """Keep an uploaded file: its bytes first and, when they are durable, its row.

    Raises:
        InvalidRequest: the form is not one of a file.
        RequestTooLarge: the file is larger than `max_file_bytes`.
        pydantic.ValidationError: a field is missing, unknown or has a wrong value.
    """
    id = ids.new_ids("file", 1, separator="-")[0]
    async with AsyncExitStack() as undo:
        undo.push_async_callback(resources.blobs.delete, id)
        limit = resources.settings.max_file_bytes
        received = await incoming.receive(
            resources, form, file_field="file", key=id, too_large=file_too_large(limit), limit=limit
        )
        request = CreateFileRequest.model_validate(received.fields)
        if received.filename is None:
            raise incoming.missing("file")
        undo.pop_all()
    # From here on the bytes stay whatever happens: a connection that breaks may have committed the row before.
    # Without one, the sweep finds them.
    async with resources.database.transaction() as connection:
        file = await insert_on(
            connection,
            id,
            filename=display_name(received.filename),
            purpose=request.purpose,
            size=received.size,
            expires_after_seconds=request.expires_after and request.expires_after.seconds,
            owner=scope.owner(connection),
        )
        await idempotency.settle(resources, connection, file)
    return file


async def insert_on(
    connection: Connection,
    id: str,
    *,
    filename: str,
    purpose: str,
    size: int,
    expires_after_seconds: int | None,
    owner: Owner,
) -> FileObject:
    """Insert the row of a file whose bytes are in the blob store."""
    if expires_after_seconds is None and purpose == "batch":
        expires_after_seconds = BATCH_FILES_EXPIRE_AFTER_SECONDS
    values: dict[str, Any] = {
        "filename": filename,
        "purpose": purpose,
        "bytes": size,
        "expires_after_seconds": expires_after_seconds,
    }
    created_at = ids.created_at(id) or datetime.now(UTC)
    return await files.insert(connection, id=id, created_at=created_at, values=values, owner=owner)


async def list_page(resources: Resources, query: FileQuery) -> FilePage:
    """A page of files in the order of their creation, ties by id.

    Raises:
        InvalidRequest: a cursor is no file's id, and not that of a deleted one either.
    """
    async with resources.database.connection() as connection:
        after = await paging.position(connection, query.after, param="after", find=files.find_created_at)
        before = await paging.position(connection, query.before, param="before", find=files.find_created_at)
        above, below = paging.bounds(query, after, before)
        rows = await files.list_between(
            connection,
            above=above,
            below=below,
            purpose=query.purpose,
            direction=paging.direction(query),
            limit=query.limit + 1,
        )
    return paging.page(query, rows)


async def get(resources: Resources, id: str) -> FileObject:
    async with resources.database.connection() as connection:
        file = await files.find(connection, id)
    if file is None:
        raise no_such_file(id)
    return file


async def get_with_content(resources: Resources, id: str) -> FileObject:
    """The file, whose bytes are there to be read."""
    file = await get(resources, id)
    if await resources.blobs.size(id) != file["bytes"]:
        raise InternalError(
            f"The content of file {id!r} is not in the server's storage; check its FILES_DIR.", code="content_missing"
        )
    return file


def open_content(resources: Resources, id: str, *, start: int, end: int) -> AsyncIterator[bytes]:
    """Read the file's bytes from `start` to before `end`."""
    return resources.blobs.open(id, start, end)


async def content_url(resources: Resources, id: str, *, most_bytes: int) -> str:
    """An address of the file's bytes, which are more than an answer of ours may have.

    Raises:
        RequestTooLarge: they are in a directory.
    """
    url = await resources.blobs.signed_url("GET", id, seconds=CONTENT_URL_SECONDS)
    if url is None:
        raise RequestTooLarge(
            f"The server answers with at most {most_bytes} bytes of a file; ask for it in ranges, with the header "
            f"Range: bytes=0-{most_bytes - 1} and so on.",
            code="answer_too_large",
        )
    return url


async def delete(resources: Resources, id: str) -> FileDeleted:
    """Delete a file, and take it out of every store that has it."""
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        if not await files.delete(connection, id):
            raise no_such_file(id)
        await attachments.detach_everywhere(connection, table, id)
    await resources.blobs.delete(id)
    return {"id": id, "object": "file", "deleted": True}


async def sweep_expired(resources: Resources) -> list[str]:
    """Delete expired files, each in a transaction of its own, and answer with their ids."""
    table = await resources.database.chunk_table()
    async with resources.database.connection() as connection:
        expired = await files.list_expired(connection)
    swept: list[str] = []
    for id in expired:
        async with resources.database.transaction(is_long=True) as connection:
            if not await files.delete_expired(connection, id):
                continue
            await attachments.detach_everywhere(connection, table, id)
        await resources.blobs.delete(id)
        swept.append(id)
    return swept


async def sweep_blobs(resources: Resources) -> int:
    """Delete bytes without a row, and parts of uploads that never came to be, an hour after they were written.

    The answer is how many there were.
    """
    swept = 0
    batch: list[str] = []
    async for key in resources.blobs.keys_older_than(SWEEP_AFTER_SECONDS):
        batch.append(key)
        if len(batch) == SWEEP_BATCH:
            swept += await _sweep(resources, batch)
            batch = []
    return swept + await _sweep(resources, batch)


def file_too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The file is larger than the {limit} bytes of MAX_FILE_BYTES.", param="file")


def no_such_file(id: str) -> NotFound:
    return NotFound(f"No such File object: {id}", param="file_id")


def display_name(sent: str) -> str:
    """What a file is called, without the directories of the machine it came from and without control characters.

    It is shown and sent back, and is no name in any file system of ours.
    """
    last = sent.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")).strip()
    if shown in ("", ".", ".."):
        return "file"
    if len(shown) <= MAX_FILENAME_LENGTH:
        return shown
    stem, dot, extension = shown.rpartition(".")
    ending = dot + extension[:20] if stem else ""
    return shown[: MAX_FILENAME_LENGTH - len(ending)] + ending


async def _sweep(resources: Resources, keys: list[str]) -> int:
    async with resources.database.connection() as connection:
        existing = await files.list_existing(connection, keys) | await uploads.list_pending_parts(connection, keys)
    orphans = [key for key in keys if key not in existing]
    for key in orphans:
        await resources.blobs.delete(key)
    return len(orphans)
