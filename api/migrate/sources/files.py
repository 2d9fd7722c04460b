"""What the sources that are files have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.migrate.records import StoreSettings


def file_identity(path: Path) -> str:
    """The file as it is: another one, or the same with other contents, is another migration."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def read_store(described: Mapping[str, Any]) -> StoreSettings:
    """The store as `quiver export` describes it."""
    expires_after = described.get("expires_after")
    return StoreSettings(
        name=described.get("name"),
        description=described.get("description"),
        metadata=described.get("metadata"),
        expires_after_days=expires_after and expires_after.get("days"),
        embedding_model=described.get("embedding_model"),
    )
