"""Blobs as files of a directory: written beside their place, made durable, and moved there."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

import structlog

from api.blobs.store import KEY, check_key, to_its_end
from api.errors import ConfigurationError, StorageUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

WRITE_BYTES = 1024 * 1024  # gathered before a thread is asked to write them: a hop costs as much as 64 KiB
READ_BYTES = 256 * 1024
DRAFT_SUFFIX = ".draft"


class BlobDirectory:
    """Blobs as files of a directory that only its owner reads, spread over subdirectories by the end of the key.

    Keys begin with the time, so their ends are what is spread evenly.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    async def check(self) -> None:
        if await on_disk(self._root.exists) and not await on_disk(self._root.is_dir):
            raise ConfigurationError(f"FILES_DIR={str(self._root)!r} is not a directory; name one.")

    async def write(self, key: str, content: AsyncIterable[bytes]) -> int:
        path = self._path(key)
        file = await on_disk(_create, path)
        is_kept = False
        try:
            size = 0
            gathered: list[bytes] = []
            gathered_bytes = 0
            async for chunk in content:
                gathered.append(chunk)
                gathered_bytes += len(chunk)
                size += len(chunk)
                if gathered_bytes >= WRITE_BYTES:
                    await on_disk(file.writelines, gathered)
                    gathered, gathered_bytes = [], 0
            await on_disk(_keep, file, gathered, path)
            is_kept = True
            return size
        finally:
            if not is_kept:
                await on_disk(_discard, file, path)

    async def open(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        with self._path(key).open("rb") as file:  # in a thread, it would stay open if the caller went away meanwhile
            await on_disk(file.seek, start)
            left = end - start
            while left > 0:
                chunk = await on_disk(file.read, min(left, READ_BYTES))
                if not chunk:
                    raise EOFError(f"Blob {key!r} is shorter than {end} bytes.")
                left -= len(chunk)
                yield chunk

    @asynccontextmanager
    async def local_copy(self, key: str) -> AsyncGenerator[Path]:
        path = self._path(key)
        if not await on_disk(path.is_file):
            raise FileNotFoundError(f"There is no blob {key!r}.")
        yield path

    async def copy(self, key: str, to: str) -> None:
        await self.write(to, self.open(key, 0, (await on_disk(self._path(key).stat)).st_size))

    async def signed_url(self, method: str, key: str, *, seconds: float) -> None:
        return None

    async def delete(self, key: str) -> None:
        await on_disk(_unlink, self._path(key))

    async def size(self, key: str) -> int | None:
        try:
            return (await on_disk(self._path(key).stat)).st_size
        except FileNotFoundError:
            return None

    async def keys_older_than(self, seconds: float) -> AsyncIterator[str]:
        before = time.time() - seconds
        for directory in await on_disk(_subdirectories, self._root):
            for key in await on_disk(_keys_before, directory, before):
                yield key

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)[-2:] / key


async def on_disk(function: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call what waits for the disk in a thread, and tell the disk's failures from those of the content."""
    try:
        return await to_its_end(asyncio.to_thread(function, *args, **named))
    except FileNotFoundError:
        raise
    except OSError as error:
        log.error("storage_failed", error=str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "The server's storage for files is full; its operator must make room."
        else:
            message = "The server cannot use its storage for files; its log says why."
        raise StorageUnavailable(message) from error


def _draft(path: Path) -> Path:
    return path.with_name(path.name + DRAFT_SUFFIX)


def _create(path: Path) -> BinaryIO:
    directory = path.parent
    if not directory.is_dir():
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(directory.parent)
    return os.fdopen(os.open(_draft(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _keep(file: BinaryIO, rest: list[bytes], path: Path) -> None:
    with file:
        file.writelines(rest)
        file.flush()
        os.fsync(file.fileno())
    _draft(path).replace(path)
    _sync_directory(path.parent)


def _discard(file: BinaryIO, path: Path) -> None:
    with suppress(OSError):  # what a full disk did not take, it does not take now
        file.close()
    _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    _draft(path).unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _subdirectories(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def _keys_before(directory: Path, before: float) -> list[str]:
    keys: set[str] = set()
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # deleted since it was listed
            if path.stat().st_mtime < before:
                keys.add(path.name.removesuffix(DRAFT_SUFFIX))
    return sorted(key for key in keys if KEY.fullmatch(key))
