"""Where the bytes of files live, by key: a directory or a bucket. A blob is there whole and durable, or not at all."""

from pathlib import Path

from api.blobs.directory import READ_BYTES, WRITE_BYTES, BlobDirectory
from api.blobs.store import BlobStore
from api.errors import ConfigurationError

__all__ = ["READ_BYTES", "WRITE_BYTES", "BlobDirectory", "BlobStore", "blobs_at"]


def blobs_at(place: str | Path) -> BlobStore:
    """The blobs of a directory, or of a bucket if the place is `s3://BUCKET` or `s3://BUCKET/PREFIX`.

    Raises:
        ConfigurationError: what a bucket needs is not installed.
    """
    if not str(place).startswith("s3://"):
        return BlobDirectory(Path(place))
    try:
        from api.blobs.bucket import BlobBucket  # its library is an extra, and not loaded where no bucket is used
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"FILES_DIR is {place!r}, and the library for S3 is not installed: pip install 'quiver[s3]'."
        ) from error
    return BlobBucket(str(place))
