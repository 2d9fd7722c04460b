"""Any table or query of a PostgreSQL database, read by a cursor in the order of a key, which is the position."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from typing import Any, Final, LiteralString, cast

import numpy as np
import orjson
import psycopg
from psycopg import sql
from psycopg.adapt import Buffer, Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads

from api.errors import ApiError, ConfigurationError
from api.migrate.fields import Fields, Kind, guess, read_index, read_json, read_time, with_attributes
from api.migrate.records import Batch, Record, StoreSettings, rows_of
from api.migrate.vectors import read_vector
from api.tables.database_url import parse_url
from api.vectors import Vector

FIRST_ROWS = 100  # tell how large the rows are
CONNECT_TIMEOUT_SECONDS = 10
KINDS: Final[Mapping[str, Kind]] = {
    "vector": "vector",
    "halfvec": "vector",
    "sparsevec": "vector",
    "_float4": "numbers",
    "_float8": "numbers",
    "_numeric": "numbers",
    "json": "json",
    "jsonb": "json",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "int2": "number",
    "int4": "number",
    "int8": "number",
    "float4": "number",
    "float8": "number",
    "numeric": "number",
    "bool": "boolean",
    "timestamptz": "time",
    "timestamp": "time",
}

PREPARE = """
SELECT set_config('statement_timeout', '0', false),
       set_config('search_path', coalesce(quote_ident(%(schema)s::text), current_setting('search_path')), false)
"""

FIND_LOADED = "SELECT typname, oid FROM pg_type WHERE typname = ANY(%(names)s)"

LIST_TYPES = "SELECT oid, typname AS name FROM pg_type WHERE oid = ANY(%(oids)s)"

FIND_KEY = """
SELECT attname AS name FROM pg_index
JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
WHERE indrelid = to_regclass(%(table)s) AND indisprimary AND indnkeyatts = 1
"""

LIST_VECTOR_TABLES = """
SELECT DISTINCT format('%%I.%%I', nspname, relname) AS name FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid AND relkind IN ('r', 'p')
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE atttypid IN (SELECT oid FROM pg_type WHERE typname IN ('vector', 'halfvec', 'sparsevec'))
  AND NOT attisdropped AND NOT relispartition
ORDER BY name
"""

COUNT = "SELECT count(*) FROM {relation}"

DESCRIBE = "SELECT * FROM {relation} LIMIT 0"

READ = "SELECT {columns} FROM {relation} WHERE {condition} ORDER BY {key}"

# In the order of `Record`.
ROLES: Final = (
    "id",
    "content",
    "vector",
    "metadata",
    "created_at",
    "file_id",
    "filename",
    "chunk_index",
    "chunking_strategy",
)


class SourceUnavailable(ApiError):
    """What is migrated cannot be read, or not any more; the migration goes on from there when it is started again."""

    default_code = "source_unavailable"


@dataclasses.dataclass(frozen=True)
class Column:
    name: str
    type: str
    dimension: int | None  # of a vector, where its type has one

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.type, "other")


class PostgresRows:
    """A table or query whose columns are known."""

    def __init__(
        self,
        url: str,
        relation: sql.Composable,
        *,
        shown: str,
        fields: Fields,
        key: str,
        is_primary: bool,
        columns: Sequence[Column],
        store: StoreSettings,
    ) -> None:
        self._url = url
        self._relation = relation
        self._fields = fields
        self._key = key
        self._is_primary = is_primary
        self._types = {column.name: column.type for column in columns}
        self.store = store
        self.shown = shown
        self.left_out: frozenset[str] = frozenset()  # of the metadata: what only the program that wrote it needs

    @property
    def identity(self) -> str:
        conninfo = conninfo_to_dict(parse_url(self._url)[0])
        place = [conninfo.get(name) for name in ("host", "port", "dbname")]
        return f"{place} {self._relation.as_string(None)} {self._key}"

    @property
    def reading(self) -> dict[str, str]:
        shown = self._fields.shown
        return shown if self._key == self._fields.id else {**shown, "in the order of": self._key}

    @property
    def has_vectors(self) -> bool:
        return self._fields.vector is not None

    async def count(self) -> int | None:
        async with connected(self._url) as connection:
            row = await (await connection.execute(sql.SQL(COUNT).format(relation=self._relation), {})).fetchone()
        assert row is not None  # an aggregate always has one
        return row[0]

    async def read(self, position: Any = None) -> AsyncGenerator[Batch]:
        after, same = position or (None, 0)
        condition = sql.SQL("TRUE") if position is None else self._behind(after)
        statement = sql.SQL(READ).format(
            columns=sql.SQL(", ").join(self._selected()),
            relation=self._relation,
            condition=condition,
            key=sql.Identifier(self._key.replace("%", "%%")),
        )
        async with _Reader(self._url).executed(statement, {"after": after}) as fetch:
            if same:
                await fetch(same)  # that have been read
            rows_wanted = FIRST_ROWS
            while rows := await fetch(rows_wanted):
                keys = [row[0] for row in rows]
                trailing = next((n for n, key in enumerate(reversed(keys)) if key != keys[-1]), len(keys))
                same = trailing + (same if trailing == len(keys) and keys[-1] == after else 0)
                after = keys[-1]
                records = [self._record(row) for row in rows]
                yield Batch(records, [after, same])
                rows_wanted = rows_of(_bytes(records) // len(records))

    def _behind(self, after: str | None) -> sql.Composable:
        key = sql.Identifier(self._key.replace("%", "%%"))
        if after is None:  # the rows without a key come last
            return sql.SQL("{} IS NULL").format(key)
        behind = sql.SQL("{} >= %(after)s").format(key)  # a text, which PostgreSQL takes for the key's own type
        return behind if self._is_primary else sql.SQL("({} OR {} IS NULL)").format(behind, key)

    def _selected(self) -> list[sql.Composable]:
        def column(name: str | None) -> sql.Composable:
            if name is None:
                return sql.SQL("NULL::text")
            selected = sql.Identifier(name.replace("%", "%%"))
            is_bytes = self._types[name] == "bytea" and name == self._fields.id
            if is_bytes or _is_unknown(self._types[name]):
                return sql.SQL("{}::text AS {}").format(
                    selected, sql.Identifier(f"quiver_{name[:40]}".replace("%", "%%"))
                )
            match self._types[name]:
                case "sparsevec":
                    return sql.SQL("{}::vector").format(selected)
                case "_numeric":
                    return sql.SQL("{}::float8[]").format(selected)
                case _:
                    return selected

        named = [*(getattr(self._fields, role) for role in ROLES), *self._fields.attributes]
        # Under a name of its own: ORDER BY would take one of the key's for the text.
        key = sql.SQL("{}::text AS quiver_position").format(sql.Identifier(self._key.replace("%", "%%")))
        return [key, *map(column, named)]

    def _record(self, row: TupleRow) -> Record:
        _, id, content, vector, metadata, created_at, file_id, filename, chunk_index, strategy, *rest = row
        numbers, index, flaw = None, None, None
        try:
            numbers = read_vector(vector)
            index = read_index(chunk_index)
        except ValueError as error:
            flaw = str(error)
        metadata = read_json(metadata)
        if self.left_out and isinstance(metadata, dict):
            given = cast("dict[str, Any]", metadata)
            metadata = {name: value for name, value in given.items() if name not in self.left_out}
        if self._fields.attributes and (metadata is None or isinstance(metadata, dict)):
            attributes = dict(zip(self._fields.attributes, rest, strict=True))
            metadata = with_attributes(cast("dict[str, Any] | None", metadata), attributes)
        return Record(
            None if id is None else str(id),
            None if content is None else str(content),
            numbers,
            metadata,
            None if created_at is None else read_time(created_at),
            file_id or None,
            filename or None,
            index,
            read_json(strategy),
            flaw,
        )


async def open_rows(
    url: str,
    relation: sql.Composable,
    *,
    what: str,
    wanted: Fields,
    key: str | None = None,
    store: StoreSettings | None = None,
    table: str | None = None,
) -> PostgresRows:
    """Look at a table or a query and decide what is what.

    Raises:
        ConfigurationError: it cannot be read, or nothing says in what order.
    """
    async with connected(url) as connection:
        columns = await _describe(connection, relation)
        kinds: dict[str, Kind] = {column.name: column.kind for column in columns}
        primary = None if table is None else await _primary_key(connection, table)
        if wanted.id is None and primary is not None:
            wanted = dataclasses.replace(wanted, id=primary)
    fields = guess(kinds, wanted, what=what)
    key = key or fields.id
    if key is None or fields.id is None:
        raise ConfigurationError(
            f"{what} has no column that looks like an id; name one with --id. A query may make one: "
            "row_number() OVER (ORDER BY something) AS id, if that is the same at every run."
        )
    if key not in kinds:
        raise ConfigurationError(f"{what} has no field {key!r}; it has {', '.join(map(repr, kinds))}.")
    host = conninfo_to_dict(parse_url(url)[0])
    shown = f"{what} of PostgreSQL {host.get('dbname') or ''} at {host.get('host') or 'localhost'}"
    return PostgresRows(
        url,
        relation,
        shown=shown,
        fields=fields,
        key=key,
        is_primary=key == primary,
        columns=columns,
        store=store or StoreSettings(name=what),
    )


def table_relation(name: str) -> sql.Composable:
    """A table as it is written: `name`, or `schema.name`; quotes as in SQL keep dots together."""
    return sql.Identifier(*(part.replace("%", "%%") for part in split_name(name)))


def query_relation(query: str) -> sql.Composable:
    statement = cast("LiteralString", query.strip().rstrip(";").replace("%", "%%"))  # the user's own, on their database
    return sql.SQL("({}\n) AS source").format(sql.SQL(statement))


async def list_vector_tables(url: str) -> list[str]:
    async with connected(url) as connection:
        return [row[0] for row in await (await connection.execute(LIST_VECTOR_TABLES, {})).fetchall()]


class _Reader:
    """A cursor that a thread of its own reads: to wait in C costs a fraction of what waiting in an event loop does."""

    def __init__(self, url: str) -> None:
        self._conninfo, self._schema = parse_url(url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="source")

    @asynccontextmanager
    async def executed(
        self, statement: sql.Composed, params: dict[str, Any]
    ) -> AsyncGenerator[Callable[[int], Awaitable[list[TupleRow]]]]:
        """What fetches the next rows of a statement.

        Raises:
            ConfigurationError: the statement or the address is wrong.
            SourceUnavailable: there is no connection, or it broke.
        """
        loop = asyncio.get_running_loop()
        with _named_errors():
            stack = ExitStack()
            try:
                connection = await loop.run_in_executor(self._thread, self._connect)
                stack.enter_context(closing(connection))
                cursor = stack.enter_context(closing(connection.cursor(name="quiver_migrate")))
                await loop.run_in_executor(self._thread, partial(cursor.execute, statement, params, binary=True))
                yield partial(loop.run_in_executor, self._thread, cursor.fetchmany)
            finally:  # behind a fetch that may be under way
                await asyncio.shield(loop.run_in_executor(self._thread, stack.close))
                self._thread.shutdown(wait=False)

    def _connect(self) -> psycopg.Connection[TupleRow]:
        parameters: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **conninfo_to_dict(self._conninfo)}
        with _refused_connections():
            connection = psycopg.connect(prepare_threshold=None, **parameters)
        connection.set_read_only(True)
        connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        connection.execute(PREPARE, {"schema": self._schema})
        set_json_loads(orjson.loads, connection)
        for name, oid in connection.execute(FIND_LOADED, {"names": list(LOADERS)}).fetchall():
            connection.adapters.register_loader(oid, LOADERS[name])
        return connection


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[psycopg.AsyncConnection[TupleRow]]:
    """A connection that only reads, in one transaction.

    Raises:
        ConfigurationError: the statement or the address is wrong.
        SourceUnavailable: there is no connection, or it broke.
    """
    conninfo, schema = parse_url(url)
    parameters: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **conninfo_to_dict(conninfo)}
    with _named_errors():
        with _refused_connections():
            connection = await psycopg.AsyncConnection.connect(prepare_threshold=None, **parameters)
        async with connection:
            await connection.set_read_only(True)
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.execute(PREPARE, {"schema": schema})
            yield connection


class _SingleLoader(Loader):
    """pgvector's `vector`: dimension, a number without meaning, then float4 in network order."""

    format = Format.BINARY

    def load(self, data: Buffer) -> Vector:
        return np.frombuffer(bytes(data), dtype=">f4", offset=4)


class _HalfLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> Vector:
        return np.frombuffer(bytes(data), dtype=">f2", offset=4).astype(np.float32)


class _FloatArrayLoader(Loader):
    """`real[]` and `double precision[]`: a header, then each number behind its length; -1 is the length of a NULL."""

    format = Format.BINARY
    number = ">f4"

    def load(self, data: Buffer) -> Vector | list[None]:
        raw = bytes(data)
        dimensions = int.from_bytes(raw[:4], "big")
        if dimensions == 0:
            return np.empty(0, dtype=np.float32)
        item = np.dtype([("length", ">i4"), ("number", self.number)])
        body = raw[12 + 8 * dimensions :]
        if dimensions > 1 or len(body) != item.itemsize * int.from_bytes(raw[12:16], "big"):
            return [None]  # a matrix, or a NULL among the numbers: no vector, and refused as one that is not finite
        with np.errstate(over="ignore"):
            return np.frombuffer(body, dtype=item)["number"].astype(np.float32)


class _DoubleArrayLoader(_FloatArrayLoader):
    number = ">f8"


# How columns arrive; what is not named here is as psycopg has it.
LOADERS: Final = {
    "vector": _SingleLoader,
    "halfvec": _HalfLoader,
    "_float4": _FloatArrayLoader,
    "_float8": _DoubleArrayLoader,
}


def _is_unknown(type_name: str) -> bool:
    """Whether psycopg would give the bytes of a value as they travel: of an enumeration, `citext`, `xml`, …"""
    if type_name in LOADERS or type_name == "sparsevec" or type_name.startswith("_"):
        return False
    known = psycopg.adapters.types.get(type_name)
    return known is None or psycopg.adapters.get_loader(known.oid, Format.BINARY) is None


async def _describe(connection: psycopg.AsyncConnection[TupleRow], relation: sql.Composable) -> list[Column]:
    cursor = await connection.execute(sql.SQL(DESCRIBE).format(relation=relation), {})
    described, result = cursor.description or [], cursor.pgresult
    assert result is not None  # it has been executed
    oids = [column.type_code for column in described]
    rows = await (await connection.execute(LIST_TYPES, {"oids": oids})).fetchall()
    names: dict[int, str] = dict(rows)
    return [
        Column(column.name, names[column.type_code], result.fmod(number) if result.fmod(number) > 0 else None)
        for number, column in enumerate(described)
    ]


async def _primary_key(connection: psycopg.AsyncConnection[TupleRow], table: str) -> str | None:
    name = sql.Identifier(*split_name(table)).as_string(connection)
    row = await (await connection.execute(FIND_KEY, {"table": name})).fetchone()
    return None if row is None else row[0]


def split_name(name: str) -> list[str]:
    """The parts of a name as it is written in SQL, but that case and blanks need no quotes."""
    parts, quoted = [""], False
    for number, character in enumerate(name):
        if character == '"':
            quoted = not quoted
            if quoted and name[number - 1 : number] == '"':  # a doubled one is meant
                parts[-1] += character
        elif character == "." and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _bytes(records: Sequence[Record]) -> int:
    return sum(
        len(record.content or "") + (0 if record.vector is None else record.vector.nbytes) + 200 for record in records
    )


@contextmanager
def _refused_connections() -> Generator[None]:
    """A server that is away, a wrong password and a database that is not there: only the reason tells them apart."""
    try:
        yield
    except psycopg.OperationalError as error:
        reason = _first_line(error).rpartition("failed: ")[2].removeprefix("FATAL:").strip()
        raise SourceUnavailable(
            f"There is no connection to the source database: {reason}. Put that right and start the same command again."
        ) from error


@contextmanager
def _named_errors() -> Generator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise SourceUnavailable(
            f"The source database went away: {_first_line(error)}. Start the same command again to go on."
        ) from error
    except psycopg.Error as error:
        raise ConfigurationError(f"The source database refuses: {_first_line(error)}.") from error


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().splitlines()[0].rstrip(".")
