"""The connection pool: opening it, handing out connections, and naming what goes wrong with them."""

import contextlib
from collections.abc import AsyncGenerator

import orjson
import psycopg
from pgvector.psycopg.halfvec import register_halfvec_info
from pgvector.psycopg.vector import register_vector_info
from psycopg import errors as pg
from psycopg.rows import DictRow, dict_row
from psycopg.types import TypeInfo
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from api.errors import DatabaseUnavailable, InvalidRequest
from api.field_mapping import ChunkTable
from api.settings import Settings
from api.tables import chunk_table
from api.tables.database_url import parse_url

Connection = psycopg.AsyncConnection[DictRow]

# A pool that cannot connect stops trying after this long and tries anew for the next request, so that a database that
# was away for an hour is found again within seconds and not after the hour-long pause a growing back-off reaches.
RECONNECT_SECONDS = 5

# pgvector's types and operators must be found although `?schema=` puts our own schema first.
SET_SEARCH_PATH = """
SELECT set_config('search_path', concat_ws(', ', quote_ident(%(schema)s), quote_ident(n.nspname)), false)
FROM (SELECT 1) AS one
LEFT JOIN pg_extension AS e ON e.extname = 'vector'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
"""

_NOT_MIGRATED = (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedObject, pg.InvalidSchemaName)


class Database:
    """PostgreSQL as the services see it. Connections are in autocommit; `transaction` opens one."""

    def __init__(self, settings: Settings) -> None:
        assert settings.database_url is not None  # whoever starts a part has checked
        conninfo, self._schema = parse_url(settings.database_url.get_secret_value())
        self._fields = settings.db_fields
        self._chunk_table: ChunkTable | None = None
        self._vector_types: dict[str, TypeInfo] = {}
        self._pool = AsyncConnectionPool[Connection](
            conninfo,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={"autocommit": True, "row_factory": dict_row, "application_name": "quiver"},
            min_size=1,
            max_size=settings.database_pool_size,
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

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """A connection from the pool.

        Raises:
            DatabaseUnavailable: there is none in time, it broke, or the database is not migrated.
            InvalidRequest: PostgreSQL cannot store a value that was sent.
        """
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (PoolTimeout, PoolClosed) as error:
            raise DatabaseUnavailable("The database cannot be reached; try again shortly.") from error
        except _NOT_MIGRATED as error:
            raise DatabaseUnavailable(
                "The database lacks Quiver's tables; run `quiver db migrate`.", code="database_not_migrated"
            ) from error
        except (pg.DataError, pg.ProgramLimitExceeded) as error:
            raise InvalidRequest("PostgreSQL cannot store or compare a value of this request.") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            # One broken connection usually means that all of them are: find out before the next request does.
            await self._pool.check()
            raise DatabaseUnavailable("The database went away; try again shortly.") from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection]:
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def chunk_table(self) -> ChunkTable:
        """The mapped table of chunks, looked up once.

        Raises:
            ConfigurationError: the mapping does not fit the table.
            DatabaseUnavailable: the table cannot be looked up.
        """
        if self._chunk_table is None:
            async with self.connection() as connection:
                self._chunk_table = await chunk_table.get(connection, self._fields)
        return self._chunk_table

    async def _configure(self, connection: Connection) -> None:
        if self._schema is not None:
            await connection.execute(SET_SEARCH_PATH, {"schema": self._schema})
        set_json_loads(orjson.loads, connection)
        set_json_dumps(orjson.dumps, connection)
        for name, register in (("vector", register_vector_info), ("halfvec", register_halfvec_info)):
            info = self._vector_types.get(name) or await TypeInfo.fetch(connection, name)
            if info is not None:  # None before the first migration
                self._vector_types[name] = info
                register(connection, info)
