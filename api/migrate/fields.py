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
    "vector": (
        *("embedding", "vector", "embeddings", "vectors", "vec", "emb", "dense", "dense_vector", "embedding_vector"),
        *("text_embedding", "content_embedding", "text_vector", "content_vector", "values"),
    ),
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
SOLE_KINDS: Final[Mapping[str, Kind]] = {"vector": "numbers", "content": "text", "metadata": "json"}
VECTOR_ITEMS: Final = 8  # a shorter list of numbers is a vector by its name only
LEFT_OUT: Final = "left out"


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
    left_out: tuple[str, ...] = ()  # columns that go nowhere

    @property
    def named(self) -> dict[str, str]:
        """The columns that are read, by what they are taken for."""
        roles = {role: getattr(self, role) for role in NAMES}
        return {role: name for role, name in roles.items() if name is not None}

    @property
    def shown(self) -> dict[str, str]:
        shown = {"text" if role == "content" else role: name for role, name in self.named.items()}
        lists = {"attributes": self.attributes, LEFT_OUT: self.left_out}
        return shown | {what: ", ".join(names) for what, names in lists.items() if names}


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
    if wanted.ignores_vectors:
        found = replace(found, vector=None)
    read = {*found.named.values(), *found.attributes}
    read |= {name.partition(".")[0] for name in read if name not in columns}
    return replace(found, left_out=tuple(name for name in columns if name not in read))


def _likeliest(role: str, columns: Mapping[str, Kind], found: Fields) -> str | None:
    taken = {*found.named.values(), *found.attributes}
    free = {name: kind for name, kind in columns.items() if name not in taken}
    vectors = [name for name, kind in free.items() if kind == "vector"]
    if role == "vector" and len(vectors) == 1:
        return vectors[0]
    by_name = {name.lower(): name for name, kind in free.items() if kind in KINDS[role]}
    for name in NAMES[role]:
        if name in by_name:
            return by_name[name]
    others = {name for names in NAMES.values() for name in names}
    of_kind = [name for name, kind in free.items() if kind == SOLE_KINDS.get(role) and name.lower() not in others]
    return of_kind[0] if len(of_kind) == 1 else None


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
            some = items[:VECTOR_ITEMS]
            is_vector = len(some) == VECTOR_ITEMS and all(isinstance(item, int | float) for item in some)
            return "numbers" if is_vector and any(isinstance(item, float) for item in items) else "other"
        case _:
            return "other"


def read_record(row: Mapping[str, Any], fields: Fields, *, id: str | None = None) -> Record:
    """A row as a record; `id` is for sources whose rows have none."""
    vector, index, flaw = None, None, None
    try:
        vector = read_vector(_at(row, fields.vector))
        index = read_index(_at(row, fields.chunk_index))
    except ValueError as error:
        flaw = str(error)
    metadata = _metadata(row, fields)
    if isinstance(metadata, str):
        flaw = flaw or "the metadata is no JSON object"
    own_id, content = _at(row, fields.id), _at(row, fields.content)
    if isinstance(own_id, list | dict) or isinstance(content, list | dict):
        flaw = flaw or "the id or the text is a list or an object"
    return Record(
        id=id if own_id is None and fields.id is None else _text(own_id),
        content=_text(content),
        vector=vector,
        metadata=metadata,
        created_at=read_time(_at(row, fields.created_at)),
        file_id=_text(_at(row, fields.file_id)) or None,
        filename=_text(_at(row, fields.filename)) or None,
        chunk_index=index,
        chunking_strategy=read_json(_at(row, fields.chunking_strategy)),
        flaw=flaw,
    )


def read_index(value: Any) -> int | None:
    """The place of a chunk in its file.

    Raises:
        ValueError: it is no whole number.
    """
    if value is None or value == "":
        return None
    try:
        if (index := int(value)) == float(value):
            return index
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError("the chunk index is no whole number")


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
    metadata = read_json(_at(row, fields.metadata))
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


def read_json(value: Any) -> Any:
    """JSON as a value; a text that is none stays as it is."""
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
