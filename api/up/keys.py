"""The keys `quiver up` makes when none are configured: made once, kept in a file only its owner can read."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from api.errors import ConfigurationError

FILE_NAME = "keys.json"


def load_or_create(data_dir: Path, names: Iterable[str]) -> dict[str, str]:
    """Return a key for each name, making those the file lacks.

    Raises:
        ConfigurationError: the file cannot be read or written, or is not what we wrote.
    """
    path = data_dir / FILE_NAME
    try:
        keys = _read(path) if path.exists() else {}
        missing = [name for name in names if name not in keys]
        if missing:
            keys |= {name: f"sk-quiver-{secrets.token_urlsafe(24)}" for name in missing}
            _write(path, keys)
    except OSError as error:
        raise ConfigurationError(
            f"The keys in {str(path)!r} cannot be read or written ({error.strerror}): "
            "set QUIVER_DATA_DIR to a directory of yours, or SERVER_API_KEY and LITELLM_MASTER_KEY."
        ) from error
    return {name: keys[name] for name in names}


def _read(path: Path) -> dict[str, str]:
    try:
        content: object = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content.values()):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # json is of any type
        raise ConfigurationError(f"{str(path)!r} holds no keys: delete it, then Quiver makes new ones.")
    return cast("dict[str, str]", content)


def _write(path: Path, keys: dict[str, str]) -> None:
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    # Created with its final mode: the keys are at no moment readable by others.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(keys, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
