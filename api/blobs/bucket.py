"""Blobs as objects of a bucket of S3, or of whatever speaks its protocol: whole when S3 says so, streamed both ways."""

import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from api.blobs.directory import READ_BYTES, on_disk
from api.blobs.store import KEY, check_key, to_its_end
from api.errors import ConfigurationError, StorageUnavailable

if TYPE_CHECKING:
    from obstore import AsyncWritableFile, ListStream, ObjectMeta  # not there when the program runs

log: structlog.stdlib.BoundLogger = structlog.get_logger()

PART_BYTES = 8 * 1024 * 1024  # S3 takes 10,000 parts, so 80 GiB; a smaller blob is sent in one request
PARTS_AT_ONCE = 2  # with the one being filled, an upload holds 24 MiB
CONNECT_SECONDS = 3
SILENCE_SECONDS = 30  # of S3 in the middle of a request
REQUEST_HOURS = 24  # a slow reader of a large file may take its time
MAX_RETRIES = 3
RETRY_SECONDS = 15
LIST_KEYS = 1000  # what one answer of S3 has at most

# S3's codes that no waiting changes.
MISCONFIGURED = frozenset(
    {
        "AccessDenied",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidBucketName",
        "NoSuchBucket",
        "PermanentRedirect",
        "SignatureDoesNotMatch",
    }
)
CODE = re.compile(r"<Code>(\w+)</Code>")


class BlobBucket:
    """Objects below a prefix. Where S3 is and who we are comes from AWS's own environment variables and roles."""

    def __init__(self, url: str) -> None:
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._store = S3Store(
            self._bucket,
            prefix=prefix.strip("/") or None,
            disable_bulk_delete=True,  # not everything that speaks S3 has it, and we delete one at a time
            client_options={
                "allow_http": True,  # AWS_ENDPOINT_URL_S3 says which
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=SILENCE_SECONDS),
                "timeout": timedelta(hours=REQUEST_HOURS),
            },
            retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
        )

    async def check(self) -> None:
        try:
            await anext(self._list(), None)
        except BaseError as error:
            code = _code(error)
            if code in MISCONFIGURED:
                raise ConfigurationError(
                    f"FILES_DIR names the bucket {self._bucket!r}, and S3 answers {code}: check its name, its policy, "
                    "AWS_REGION, AWS_ENDPOINT_URL_S3 and the credentials."
                ) from error
            raise self._unavailable(error) from error

    async def write(self, key: str, content: AsyncIterable[bytes]) -> int:
        writer = obstore.open_writer_async(
            self._store, check_key(key), buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
        size = 0
        try:
            async for chunk in content:
                await self._send(writer.write(chunk))
                size += len(chunk)
            await self._send(writer.close())
        except BaseException:
            await to_its_end(self._discard(key, writer))
            raise
        return size

    async def open(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        left = end - start
        if left <= 0:  # no range of HTTP's is empty
            return
        with self._failures(key):
            found = await obstore.get_async(self._store, check_key(key), options={"range": (start, end)})
            async for chunk in found.stream(min_chunk_size=READ_BYTES):
                left -= len(chunk)
                yield chunk
        if left:
            raise EOFError(f"Blob {key!r} is shorter than {end} bytes.")

    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncGenerator[Path]:
        size = await self.size(key)
        if size is None:
            raise FileNotFoundError(f"There is no blob {key!r}.")
        file = await on_disk(tempfile.NamedTemporaryFile, prefix="quiver-")
        try:
            async for chunk in self.open(key, 0, size):
                await on_disk(file.write, chunk)
            await on_disk(file.flush)
            yield Path(file.name)
        finally:
            await on_disk(file.close)

    async def copy(self, key: str, to: str) -> None:
        with self._failures(key):
            await obstore.copy_async(self._store, check_key(key), check_key(to))

    async def signed_url(self, method: Literal["GET", "PUT"], key: str, *, seconds: float) -> str:
        with self._failures(key):
            return await obstore.sign_async(self._store, method, check_key(key), timedelta(seconds=seconds))

    async def delete(self, key: str) -> None:
        with self._failures(key), suppress(FileNotFoundError):
            await obstore.delete_async(self._store, check_key(key))

    async def size(self, key: str) -> int | None:
        try:
            with self._failures(key):
                return (await obstore.head_async(self._store, check_key(key)))["size"]
        except FileNotFoundError:
            return None

    async def keys_older_than(self, seconds: float) -> AsyncIterator[str]:
        before = datetime.now(UTC) - timedelta(seconds=seconds)
        with self._failures():
            async for found in self._list():
                for blob in found:
                    if blob["last_modified"] < before and KEY.fullmatch(blob["path"]):
                        yield blob["path"]

    def _list(self) -> "ListStream[Sequence[ObjectMeta]]":
        return obstore.list(self._store, chunk_size=LIST_KEYS)  # pyright: ignore[reportUnknownMemberType]  # of Arrow

    async def _send(self, call: Awaitable[object]) -> None:
        try:
            await to_its_end(call)
        except (BaseError, OSError) as error:  # FileNotFoundError, too: it is the bucket that is not there
            raise self._unavailable(error) from error

    async def _discard(self, key: str, writer: "AsyncWritableFile") -> None:
        """Abort the upload; if its end was sent, delete what may have come of it.

        If S3 does not answer, a blob is left to the sweep and parts of one to the lifecycle rules of the bucket.
        """
        with suppress(BaseError, OSError):
            if await writer.closed():
                await obstore.delete_async(self._store, key)
            else:
                await writer.__aexit__(BaseException, None, None)  # pyright: ignore[reportUnknownMemberType]  # no types

    @contextmanager
    def _failures(self, key: str | None = None) -> Generator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            if _code(error) == "InvalidRange":
                raise EOFError(f"Blob {key!r} is shorter than what was asked of it.") from error
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        # The first line is what happened; S3's own words and the library's inner workings follow.
        log.error("storage_failed", bucket=self._bucket, s3_code=_code(error), error=str(error).partition("\n")[0])
        return StorageUnavailable("The server's storage for files is away; try again, or ask its operator.")


def _code(error: Exception) -> str | None:
    found = CODE.search(str(error))
    return found and found.group(1)
