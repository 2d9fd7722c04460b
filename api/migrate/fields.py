"""Which column or field of a source is the id, the text, the vector: as it was said, else a guess that is shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Literal, cast

import orjson

from api.errors import ConfigurationError
from api.migrate.records import Record
from api.migrate.vectors import read_vector

Kind = Literal["text", "vector", "numbers", "json", "number", "boolean", "time", "other"]

# Names that people give, the likeliest first.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "id": ("id", "chunk_id", "node_id", "custom_id", "uuid", "_id", "embedding_id", "point_id", "doc_id", "key"),
    "content": ("content", "text", "document", "page_content", "chunk", "chunk_text", "body", "passage", "contents"),
    "vector": ("embedding", "vector", "embeddings", "vectors", "vec", "dense", "dense_vector", "values"),
    "metadata": ("metadata", "metadata_", "cmetadata", "attributes", "meta", "payload", "properties"),
    "created_at": ("created_at", "created", "inserted_at"),
    "file_id": ("file_id",),
    "filename": ("filename", "file_name"),
    "chunk_index": ("chunk_index",),
    "chunking_strategy": ("chunking_strategy",),
}
KINDS: Final[Mapping[str, tuple[Kind, ...]]] = {
    "id": ("text", "number", "other"),
    "content": ("text",),
    "vector": ("vector", "numbers", "json", "text", "other"),
    "metadata": ("json", "text"),
    "created_at": ("time", "text", "number"),
    "file_id": ("text",),
    "filename": ("text",),
    "chunk_index": ("number", "text"),
    "chunking_strategy": ("json", "text"),
}
OPTIONS: Final = {
    "id": "--id",
    "content": "--text",
    "vector": "--vector",
    "metadata": "--metadata",
    "created_at": "--created-at",
}
ATTRIBUTE_KINDS: Final = ("text", "number", "boolean")


@dataclass(frozen=True)
class Fields:
    """Names of columns or fields. None: there is none, or, before the guess, none was named."""

    id: str | None = None
    content: str | None = None
    vector: str | None = None
    metadata: str | None = None
    created_at: str | None = None
    file_id: str | None = None
    filename: str | None = None
    chunk_index: str | None = None
    chunking_strategy: str | None = None
    attributes: tuple[str, ...] = ()  # columns that go into the metadata one by one
    ignores_vectors: bool = False  # the texts are embedded anew

    @property
    def named(self) -> dict[str, str]:
        """The columns that are read, by what they are taken for."""
        roles = {role: getattr(self, role) for role in NAMES}
        return {role: name for role, name in roles.items() if name is not None}

    @property
    def shown(self) -> dict[str, str]:
        shown = {"text" if role == "content" else role: name for role, name in self.named.items()}
        return shown | ({"attributes": ", ".join(self.attributes)} if self.attributes else {})


def guess(columns: Mapping[str, Kind], wanted: Fields, *, what: str) -> Fields:
    """Fill in what was not named.

    Raises:
        ConfigurationError: a name is not there, or there is nothing to take for the text.
    """
    has_paths = any(kind == "json" for kind in columns.values())
    for name in (*wanted.named.values(), *wanted.attributes):
        if name not in columns and not (has_paths and "." in name and name.partition(".")[0] in columns):
            raise ConfigurationError(f"{what} has no field {name!r}; it has {', '.join(map(repr, columns))}.")
    found = wanted
    for role in ("vector", "content", "id", *NAMES):
        if getattr(found, role) is None and (name := _likeliest(role, columns, found)) is not None:
            found = replace(found, **{role: name})
    if found.content is None:
        raise ConfigurationError(
            f"Nothing in {what} looks like a text; name it with --text. It has {', '.join(map(repr, columns))}."
        )
    if found.metadata is None and not found.attributes:
        rest = [name for name, kind in columns.items() if kind in ATTRIBUTE_KINDS]
        found = replace(found, attributes=tuple(name for name in rest if name not in found.named.values()))
    return replace(found, vector=None) if wanted.ignores_vectors else found


def _likeliest(role: str, columns: Mapping[str, Kind], found: Fields) -> str | None:
    free = {name: kind for name, kind in columns.items() if name not in found.named.values()}
    vectors = [name for name, kind in free.items() if kind == "vector"]
    if role == "vector" and len(vectors) == 1:
        return vectors[0]
    by_name = {name.lower(): name for name, kind in free.items() if kind in KINDS[role]}
    for name in NAMES[role]:
        if name in by_name:
            return by_name[name]
    others = {name for names in NAMES.values() for name in names}
    of_kind = [name for name, kind in free.items() if kind == KINDS[role][0] and name.lower() not in others]
    return of_kind[0] if role in ("content", "metadata") and len(of_kind) == 1 else None


def kind_of(value: Any) -> Kind:
    """What the value of a field may be taken for."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case dict():
            return "json"
        case list():
            items = cast("list[Any]", value)
            return "numbers" if items and all(isinstance(item, int | float) for item in items[:8]) else "other"
        case _:
            return "other"


def read_record(row: Mapping[str, Any], fields: Fields, *, id: str | None = None) -> Record:
    """A row as a record; `id` is for sources whose rows have none."""
    try:
        vector, flaw = read_vector(_at(row, fields.vector)), None
    except ValueError as error:
        vector, flaw = None, str(error)
    metadata = _metadata(row, fields)
    if isinstance(metadata, str):
        flaw = flaw or "the metadata is no JSON object"
    own_id, content, index = _at(row, fields.id), _at(row, fields.content), _at(row, fields.chunk_index)
    return Record(
        id=id if own_id is None and fields.id is None else _text(own_id),
        content=_text(content),
        vector=vector,
        metadata=metadata,
        created_at=read_time(_at(row, fields.created_at)),
        file_id=_text(_at(row, fields.file_id)) or None,
        filename=_text(_at(row, fields.filename)) or None,
        chunk_index=None if index is None or index == "" else int(index),
        chunking_strategy=_json(_at(row, fields.chunking_strategy)),
        flaw=flaw,
    )


def read_time(value: Any) -> datetime | None:
    """A time as it is, as ISO 8601 or as seconds since 1970; None when it is none of these."""
    try:
        match value:
            case datetime():
                return value if value.tzinfo else value.replace(tzinfo=UTC)
            case str() if value:
                return read_time(datetime.fromisoformat(value))
            case int() | float() if not isinstance(value, bool) and math.isfinite(value):
                return datetime.fromtimestamp(value, UTC)
            case _:
                return None
    except (ValueError, OverflowError, OSError):
        return None


def _metadata(row: Mapping[str, Any], fields: Fields) -> Any:
    metadata = _json(_at(row, fields.metadata))
    if not fields.attributes:
        return metadata
    if metadata is not None and not isinstance(metadata, dict):
        return metadata
    return with_attributes(
        cast("dict[str, Any] | None", metadata), {name: _at(row, name) for name in fields.attributes}
    )


def with_attributes(metadata: dict[str, Any] | None, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with further values, in types that JSON has."""
    return {**(metadata or {}), **{name: _plain(value) for name, value in attributes.items() if value is not None}}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | list | dict):
        return cast("Any", value)
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value) if value.strip() else None
    except orjson.JSONDecodeError:
        return value


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _at(row: Mapping[str, Any], name: str | None) -> Any:
    """The value of a field; a name with dots leads into objects when there is no field of that very name."""
    if name is None:
        return None
    if name in row or "." not in name:
        return row.get(name)
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(part)
    return value
