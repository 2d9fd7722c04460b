"""What the sources that are files have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.migrate.fields import Fields
from api.migrate.records import StoreSettings


class FileOfRows:
    """What a file tells of itself before it is read; how its rows are read is each kind of file's own."""

    row = "row"  # what a row is called
    _path: Path
    _fields: Fields

    @property
    def shown(self) -> str:
        return str(self._path)

    @property
    def identity(self) -> str:
        return file_identity(self._path)

    @property
    def reading(self) -> dict[str, str]:
        return {"id": f"the number of the {self.row}", **self._fields.shown}

    @property
    def has_vectors(self) -> bool:
        return self._fields.vector is not None


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
