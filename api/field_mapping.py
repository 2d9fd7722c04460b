"""Which table holds the chunks and what its columns are called, checked against the table that is really there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from api.errors import ConfigurationError
from api.settings import DbFields
from api.tables.columns import Embeddings

# What each mapped column may be, by PostgreSQL's own type names, and how a message calls it.
_TEXT: Final = ("text", "varchar", "bpchar")
_ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "id": (*_TEXT, "uuid", "int4", "int8"),
    "vector_store_id": (*_TEXT, "uuid"),
    "content": _TEXT,
    "embedding": ("halfvec", "vector"),
    "metadata": ("jsonb", "json"),
    "created_at": ("timestamptz", "timestamp"),
}


@dataclass(frozen=True)
class Column:
    """A column as the database's catalogue describes it."""

    name: str
    type: str
    type_schema: str
    modifier: int  # of a vector type: its dimension, or -1
    is_nullable: bool
    has_default: bool
    is_generated: bool


@dataclass(frozen=True, eq=False)  # it is a key of caches, and looked up once
class ChunkTable:
    """The table of chunks as it was found, every mapped column of a usable type."""

    schema: str
    name: str
    id: Column
    vector_store_id: Column
    content: Column
    embedding: Column
    metadata: Column
    created_at: Column
    has_file_columns: bool
    has_seq: bool  # a number that rises with every insert, as keyword indexing needs it
    unfilled: tuple[str, ...]  # columns that must have a value and that nothing gives one: no row can be inserted

    @property
    def identifier(self) -> sql.Identifier:
        return identifier(self.schema, self.name)

    @property
    def dimension(self) -> int | None:
        """The one dimension that the column's type allows, None when each row may have its own."""
        return self.embedding.modifier if self.embedding.modifier > 0 else None

    @property
    def names(self) -> dict[str, sql.Identifier]:
        """The mapped columns as identifiers, by the name the code has for them."""
        return {role: identifier(getattr(self, role).name) for role in _ALLOWED}

    @property
    def metadata_as_jsonb(self) -> sql.Composed:
        return sql.SQL("({}::jsonb)" if self.metadata.type == "json" else "{}").format(identifier(self.metadata.name))

    @property
    def vector_type(self) -> sql.Identifier:
        return identifier(self.embedding.type_schema, self.embedding.type)


def identifier(*names: str) -> sql.Identifier:
    """A name as it stands in a statement with parameters, where psycopg takes a lone `%` for the start of one."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def table_name(fields: DbFields) -> str:
    return fields.table or Embeddings.TABLE


def resolve(fields: DbFields, *, schema: str, columns: Iterable[Column]) -> ChunkTable:
    """Match the configured names with the columns of the table.

    Raises:
        ConfigurationError: a column is missing, is mapped twice, or has a type it cannot have; all of it is named.
    """
    found = {column.name: column for column in columns}
    wanted = {
        "id": fields.id_field or Embeddings.ID,
        "vector_store_id": fields.vector_store_id_field or Embeddings.VECTOR_STORE_ID,
        "content": fields.content_field or Embeddings.CONTENT,
        "embedding": fields.embedding_field or Embeddings.EMBEDDING,
        "metadata": fields.metadata_field or Embeddings.METADATA,
        "created_at": fields.created_at_field or Embeddings.CREATED_AT,
    }
    table = f"{schema}.{table_name(fields)}"
    problems = [*_missing(wanted, found), *_mistyped(wanted, found), *_mapped_twice(wanted)]
    if problems:
        raise ConfigurationError(
            f"Table {table!r} does not fit the field mapping: {'; '.join(problems)}. "
            f"Its columns are {', '.join(map(repr, sorted(found)))}."
        )
    own = {Embeddings.FILE_ID: "text", Embeddings.FILENAME: "text", Embeddings.CHUNK_INDEX: "int4"}
    return ChunkTable(
        schema=schema,
        name=table_name(fields),
        has_file_columns=all(name in found and found[name].type == wanted_type for name, wanted_type in own.items()),
        has_seq=found[wanted["vector_store_id"]].type in ("text", "varchar")
        and Embeddings.SEQ in found
        and found[Embeddings.SEQ].type == "int8"
        and found[Embeddings.SEQ].has_default,
        unfilled=tuple(
            column.name
            for column in found.values()
            if not (column.is_nullable or column.has_default or column.is_generated)
            and column.name not in wanted.values()
        ),
        **{role: found[name] for role, name in wanted.items()},
    )


def _setting(role: str) -> str:
    return f"DB_FIELDS__{role.upper()}_FIELD"


def _missing(wanted: Mapping[str, str], found: Mapping[str, Column]) -> list[str]:
    return [f"there is no column {name!r} for {_setting(role)}" for role, name in wanted.items() if name not in found]


def _mistyped(wanted: Mapping[str, str], found: Mapping[str, Column]) -> list[str]:
    return [
        f"column {name!r} ({_setting(role)}) is {found[name].type}, not {' or '.join(_ALLOWED[role])}"
        for role, name in wanted.items()
        if name in found and found[name].type not in _ALLOWED[role]
    ] + [
        f"column {name!r} ({_setting(role)}) is generated, so that nothing can be written to it"
        for role, name in wanted.items()
        if name in found and found[name].is_generated
    ]


def _mapped_twice(wanted: Mapping[str, str]) -> list[str]:
    roles_by_name: dict[str, list[str]] = {}
    for role, name in wanted.items():
        roles_by_name.setdefault(name, []).append(_setting(role))
    return [
        f"column {name!r} is mapped by {' and '.join(roles)}" for name, roles in roles_by_name.items() if len(roles) > 1
    ]
