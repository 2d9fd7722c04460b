"""The connection pool: opening it, handing out connections, and naming what goes wrong with them."""

import asyncio
import contextlib
import copy
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import psycopg
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.sparsevec import register_sparsevec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg import errors as pg
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import dict_row
from psycopg.types import TypeInfo
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from pydantic import SecretStr

from api.errors import DatabaseUnavailable, InvalidRequest
from api.field_mapping import ChunkTable
from api.observation import Stopwatch
from api.settings import Settings
from api.tables import chunk_table, scope
from api.tables.database_url import parse_url, uses_transaction_pooler
from api.tables.scope import EVERYTHING, NOTHING, Scope

Connection = scope.Connection

# A pool that cannot connect stops trying after this long and tries anew for the next request, so that a database that
# was away for an hour is found again within seconds and not after the hour-long pause a growing back-off reaches.
RECONNECT_SECONDS = 5

# Who would have to wait behind so many, for each connection that there may be, is refused at once: the wait would be in
# vain. With the pool as it is by default, that is four times as many as there may be searches.
MAX_WAITING_PER_CONNECTION = 100

# How long the pool may take to look through its connections after one of them broke.
CHECK_SECONDS = 2

# What was sent and not acknowledged for so long is lost: whoever dropped the connection did not say so.
UNACKNOWLEDGED_MILLISECONDS = 10_000

REGISTER: Final[Mapping[str, Callable[[Connection, TypeInfo], None]]] = {
    "vector": register_vector_info,
    "halfvec": register_halfvec_info,
    "sparsevec": register_sparsevec_info,
}

# pgvector's types and operators must be found, whatever schema they live in and whatever `?schema=` says.
SET_SEARCH_PATH = """
SELECT set_config('search_path', concat_ws(
    ', ', coalesce(quote_ident(%(schema)s), nullif(current_setting('search_path'), '')), quote_ident(n.nspname)), false)
FROM (SELECT 1) AS one
LEFT JOIN pg_extension AS e ON e.extname = 'vector'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
"""


class Packed(bytes):
    """A value in PostgreSQL's binary format; the statement says of what type."""


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> Packed:
        return obj


@dataclass
class _Catalogue:
    """What is known of the database by all who share its connections."""

    chunk_table: ChunkTable | None = None
    vector_types: dict[str, TypeInfo] = field(default_factory=dict[str, TypeInfo])
    lacks_vector_types: bool = False
    doubted_at: float = -math.inf  # when connections were last feared to be broken, by the monotonic clock


class Database:
    """PostgreSQL as the services see it: everything in it, or what is `within` a scope.

    Connections are in autocommit; `transaction` opens one.
    """

    scope: Scope = EVERYTHING

    def __init__(self, settings: Settings, address: SecretStr | None = None) -> None:
        """Reach it by `DATABASE_URL`, or by another address."""
        address = address or settings.database_url
        assert address is not None  # whoever starts a part has checked
        url = address.get_secret_value()
        self._conninfo, self._schema = parse_url(url)
        self._fields = settings.db_fields
        self._answer_seconds = settings.database_answer_seconds
        self._catalogue = _Catalogue()
        self._connecting: dict[str, Any] = {
            "autocommit": True,
            "row_factory": dict_row,
            "application_name": "quiver",
            **({} if "tcp_user_timeout" in self._conninfo else {"tcp_user_timeout": UNACKNOWLEDGED_MILLISECONDS}),
            "prepare_threshold": None if uses_transaction_pooler(url) else 5,
        }
        self._pool = AsyncConnectionPool[Connection](
            self._conninfo,
            connection_class=Connection,
            kwargs=self._connecting,
            min_size=1,
            max_size=settings.database_pool_size,
            max_waiting=MAX_WAITING_PER_CONNECTION * settings.database_pool_size,
            timeout=settings.database_timeout_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            configure=self._configure,
            open=False,
        )

    async def open(self) -> None:
        """Start connecting, without waiting: a database that is away makes requests fail, not the start."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close()

    async def check_connections(self) -> None:
        """Replace those of the pool's idle connections that broke while nobody looked.

        Others are looked at when they are next used: one may just be opened, and join the pool later.
        """
        self._catalogue.doubted_at = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):  # wait_for of Python 3.11 may lose a cancellation
                await self._pool.check()

    def pool_stats(self) -> dict[str, int]:
        """psycopg_pool's own numbers; a counter that is still zero may be missing."""
        return self._pool.get_stats()

    def within(self, scope: Scope) -> "Database":
        """The same database, with the same connections, of which only what the scope allows can be seen."""
        database = copy.copy(self)
        database.scope = scope
        return database

    @contextlib.asynccontextmanager
    async def connection(self, *, is_long: bool = False) -> AsyncGenerator[Connection]:
        """A connection from the pool, for as long as a request may take; a long one takes the time it needs.

        Raises:
            DatabaseUnavailable: there is none in time, it broke or takes too long, or the database is not migrated.
            InvalidRequest: PostgreSQL cannot store a value that was sent.
        """
        is_broken = False
        try:
            async with asyncio.timeout(None if is_long else self._answer_seconds):
                with Stopwatch("sql"):  # the wait for a connection included
                    # Not the pool's own context manager, which would end a transaction: there is none outside ours.
                    connection = await self._sound_connection()
                    connection.scope = self.scope
                    try:
                        if self.scope.tenant and await scope.is_policed(connection):
                            async with connection.transaction():
                                await scope.set_policy(connection)
                                yield connection
                        else:
                            yield connection
                    finally:
                        connection.scope = NOTHING
                        is_broken = connection.broken
                        await self._pool.putconn(connection)
        except (PoolTimeout, PoolClosed, TooManyRequests) as error:
            raise DatabaseUnavailable("The database cannot be reached, or is too busy; try again shortly.") from error
        except TimeoutError as error:
            raise DatabaseUnavailable("The database does not answer in time; try again shortly.") from error
        except psycopg.Error as error:
            if is_broken:  # one broken connection usually means that all are: find out before the next request does
                await self.check_connections()
                raise DatabaseUnavailable("The database went away; try again shortly.") from error
            raise _named(error) from error

    @contextlib.asynccontextmanager
    async def transaction(self, *, is_long: bool = False) -> AsyncGenerator[Connection]:
        async with self.connection(is_long=is_long) as connection, connection.transaction():
            yield connection

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncGenerator[Connection]:
        """A connection of its own, for work that takes its time and settings that nobody else is to have.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or went away.
        """
        try:
            async with await Connection.connect(self._conninfo, **self._connecting) as connection:
                await self._configure(connection)
                connection.scope = self.scope
                yield connection
        except psycopg.Error as error:
            raise _named(error) from error

    async def chunk_table(self) -> ChunkTable:
        """The mapped table of chunks, looked up once.

        Raises:
            ConfigurationError: the mapping does not fit the table.
            DatabaseUnavailable: the table cannot be looked up.
        """
        catalogue = self._catalogue
        if catalogue.chunk_table is None:
            async with self.connection() as connection:
                found = await chunk_table.get(connection, self._fields)
            if catalogue.lacks_vector_types:  # these connections are older than the first migration
                catalogue.lacks_vector_types = False
                await self._pool.drain()
            catalogue.chunk_table = found
        return catalogue.chunk_table

    async def _sound_connection(self) -> Connection:
        """One of the pool's, looked at if it may be as old as the last doubt."""
        while True:
            connection = await self._pool.getconn()
            if connection.sound_at >= self._catalogue.doubted_at:
                return connection
            try:
                await self._pool.check_connection(connection)
            except BaseException as error:
                await self._pool.putconn(connection)  # which replaces it
                if not isinstance(error, psycopg.Error):
                    raise
            else:
                connection.sound_at = time.monotonic()
                return connection

    async def _configure(self, connection: Connection) -> None:
        set_json_loads(_load_json, connection)
        set_json_dumps(orjson.dumps, connection)
        connection.adapters.register_dumper(Packed, _PackedDumper)
        if self._schema is not None or await TypeInfo.fetch(connection, "halfvec") is None:
            await connection.execute(SET_SEARCH_PATH, {"schema": self._schema})
        for name, register in REGISTER.items():
            info = self._catalogue.vector_types.get(name) or await TypeInfo.fetch(connection, name)
            if info is None:
                self._catalogue.lacks_vector_types = True
                continue
            self._catalogue.vector_types[name] = info
            register(connection, info)


def _load_json(data: str | bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:  # jsonb holds numbers that no float does; the slower reader makes them infinite
        return json.loads(data)


def _named(error: psycopg.Error) -> Exception:
    """What PostgreSQL refused, as an error of ours; the error itself when it is a mistake of our own."""
    match error:
        case pg.UndefinedTable() | pg.UndefinedColumn() | pg.UndefinedObject() | pg.InvalidSchemaName():
            return DatabaseUnavailable(
                "The database lacks Quiver's tables; run `quiver db migrate`.", code="database_not_migrated"
            )
        case pg.DataError() | pg.ProgramLimitExceeded():
            return InvalidRequest("PostgreSQL cannot store or compare a value of this request.")
        case pg.DeadlockDetected() | pg.SerializationFailure():
            return DatabaseUnavailable("Two requests were in each other's way; try again.", code="database_conflict")
        case pg.InsufficientPrivilege() | pg.ReadOnlySqlTransaction():
            return DatabaseUnavailable(
                "The database does not let Quiver do this; its operator must give the user of DATABASE_URL the right.",
                code="database_refused",
            )
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return DatabaseUnavailable("The database cannot do this at the moment; try again shortly.")
        case _:
            return error
