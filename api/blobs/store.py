"""What a store of blobs promises, wherever it keeps them."""

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")

# A key names a file of a directory or an object below a prefix, so it must not lead out of them.
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,127}")


class BlobStore(Protocol):
    """Every operation raises StorageUnavailable when the store is away, full, or refuses us."""

    async def check(self) -> None:
        """Look whether the store is there.

        Raises:
            ConfigurationError: it never will be, as it is configured.
            StorageUnavailable: it may come later.
        """
        ...

    async def write(self, key: str, content: AsyncIterable[bytes]) -> int:
        """Keep the content and return its size. If this raises or is cancelled, nothing is kept."""
        ...

    def open(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Read the bytes from `start` to before `end`.

        Raises:
            FileNotFoundError: there is no such blob.
            EOFError: it has fewer bytes.
        """
        ...

    def local_copy(self, key: str) -> AbstractAsyncContextManager[Path]:
        """The blob as a local file, for readers that want a path: only to be read, and only within the context.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        ...

    async def copy(self, key: str, to: str) -> None:
        """Keep the blob under another key as well; in a bucket, its bytes do not come by here.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        ...

    async def signed_url(self, method: Literal["GET", "PUT"], key: str, *, seconds: float) -> str | None:
        """An address where whoever has it may read or write the blob for so long; None if the store has none."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the blob, and what a crash left of its writing. One that is not there is fine."""
        ...

    async def size(self, key: str) -> int | None:
        """How many bytes there are; None if there is no such blob."""
        ...

    def keys_older_than(self, seconds: float) -> AsyncIterator[str]:
        """The keys of blobs last written to before then, half-written ones that can be seen included."""
        ...


def check_key(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of a blob.")
    return key


async def to_its_end(call: Awaitable[T]) -> T:
    """Wait for the call also when cancelled: nobody could undo what one that goes on alone does later."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at, so that it is not reported as forgotten
        raise
