"""Applies the Prisma Migrate history of `prisma/migrations` without Prisma, keeping Prisma's own books.

Each migration runs in one transaction together with its row in `_prisma_migrations`, under Prisma's
advisory lock, so that this and `prisma migrate deploy` can take turns on one database.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection, OperationalError, errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from api.errors import ConfigurationError, DatabaseUnavailable
from api.tables.database_url import parse_url

PRISMA_LOCK = 72707369  # Prisma Migrate's own; whoever migrates a database holds it
LOCK_TIMEOUT_SECONDS = 60  # the longest wait for another migration, or for a table in use

# Every statement on a table queues behind an ALTER TABLE that waits for it. So a migration waits but shortly, lets the
# others pass, and tries again: a server that goes on serving meanwhile is held up by no more than this.
QUEUE_SECONDS = 2
PAUSE_SECONDS = 1
CONNECT_TIMEOUT_SECONDS = 10  # unless DATABASE_URL has a `connect_timeout` of its own

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent / "prisma" / "migrations"
MIGRATIONS = _CHECKOUT if _CHECKOUT.is_dir() else _PACKAGE / "_migrations"  # the second: in a wheel

# As Prisma Migrate creates it.
CREATE_BOOKS = """
    CREATE TABLE IF NOT EXISTS _prisma_migrations (
        id                  varchar(36)  PRIMARY KEY NOT NULL,
        checksum            varchar(64)  NOT NULL,
        finished_at         timestamptz,
        migration_name      varchar(255) NOT NULL,
        logs                text,
        rolled_back_at      timestamptz,
        started_at          timestamptz  NOT NULL DEFAULT now(),
        applied_steps_count integer      NOT NULL DEFAULT 0
    )
"""

BOOKS_EXIST = """
    SELECT to_regclass(quote_ident(current_schema()) || '._prisma_migrations') IS NOT NULL
"""

# A migration that was rolled back is one that never ran.
READ_BOOKS = """
      SELECT migration_name, checksum, finished_at IS NOT NULL
        FROM _prisma_migrations
       WHERE rolled_back_at IS NULL
    ORDER BY migration_name
"""

# now() is the start of the transaction, clock_timestamp() the end of the migration.
RECORD = """
    INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at, applied_steps_count)
         VALUES (%(id)s, %(checksum)s, %(name)s, now(), clock_timestamp(), 1)
"""

# A role's statement_timeout is meant for its queries; building an index may take longer.
PREPARE_TRANSACTION = """
    SELECT set_config('statement_timeout', '0', true),
           set_config('lock_timeout', %(lock_timeout)s, true)
"""

TAKE_LOCK = """
    SELECT pg_advisory_xact_lock(%(lock)s)
"""

WAIT_SHORTLY = """
    SELECT set_config('lock_timeout', %(lock_timeout)s, true)
"""

# CREATE SCHEMA IF NOT EXISTS wants the right to create schemas even when there is nothing to create.
CREATE_SCHEMA = """
    DO $$
    BEGIN
        IF current_schema() IS NULL THEN
            EXECUTE format('CREATE SCHEMA %s', current_setting('search_path'));
        END IF;
    END;
    $$
"""

# For one transaction only: behind a transaction pooler a session's setting would reach other clients.
ENTER_SCHEMA = """
    SELECT set_config('search_path', quote_ident(%(schema)s), true)
"""


@dataclass(frozen=True)
class Migration:
    name: str
    script: bytes

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.script).hexdigest()


@dataclass(frozen=True)
class Status:
    """The names of the migrations a database has and of those it lacks, each in the order of the history.

    `newer` are those of a later Quiver, on top of all of ours: they only add, so that this one goes on working.
    """

    applied: list[str]
    pending: list[str]
    newer: list[str] = field(default_factory=list[str])


class _TableInUse(Exception):
    """A table that the migration changes was in use; it is rolled back and may be tried again."""


async def apply(
    database_url: str, *, directory: Path = MIGRATIONS, lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS
) -> list[str]:
    """Bring a database up to date; returns the names this call applied, none when there was nothing to do.

    A migration that fails is rolled back whole and leaves no trace; those before it stay.

    Raises:
        ConfigurationError: history and database contradict each other, or a migration cannot run there.
        DatabaseUnavailable: no connection, or it was lost.
    """
    history = read_history(directory)
    applied: list[str] = []
    async with _connect(database_url) as (connection, schema):
        deadline = time.monotonic() + lock_timeout_seconds
        while True:
            try:
                name = await _apply_next(connection, history, schema=schema, lock_timeout_seconds=lock_timeout_seconds)
            except _TableInUse as error:
                if time.monotonic() > deadline:
                    raise ConfigurationError(str(error)) from error
                await asyncio.sleep(min(PAUSE_SECONDS, lock_timeout_seconds))
                continue
            if name is None:
                return applied
            applied.append(name)
            deadline = time.monotonic() + lock_timeout_seconds


async def status(database_url: str, *, directory: Path = MIGRATIONS) -> Status:
    """Compare a database with the history; changes nothing, raises what `apply` raises."""
    async with _connect(database_url) as (connection, schema), connection.transaction():
        if schema is not None:
            await connection.execute(ENTER_SCHEMA, {"schema": schema})
        return await read_status(connection, directory=directory)


async def pending(database_url: str, *, directory: Path = MIGRATIONS) -> list[str]:
    return (await status(database_url, directory=directory)).pending


async def read_status(connection: AsyncConnection[Any], *, directory: Path = MIGRATIONS) -> Status:
    """What `status` tells, on a connection whose search path begins with Quiver's schema."""
    return await _compare(connection, read_history(directory))


def read_history(directory: Path = MIGRATIONS) -> list[Migration]:
    """Read every migration, in the order of their names, which is the order they apply in."""
    if not directory.is_dir():
        raise ConfigurationError(f"This installation lacks the migrations: there is no directory {directory}.")
    history: list[Migration] = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        script = folder / "migration.sql"
        if not script.is_file():
            raise ConfigurationError(
                f"Migration {folder.name!r} has no migration.sql; restore the file or remove {folder}."
            )
        history.append(Migration(name=folder.name, script=script.read_bytes()))
    return history


async def _apply_next(
    connection: AsyncConnection[Any],
    history: Sequence[Migration],
    *,
    schema: str | None,
    lock_timeout_seconds: float,
) -> str | None:
    """Apply the first pending migration, if any, in one transaction that holds Prisma's lock."""
    async with connection.transaction():
        lock_timeout = f"{lock_timeout_seconds * 1000:.0f}ms"
        await connection.execute(PREPARE_TRANSACTION, {"lock_timeout": lock_timeout})
        try:
            await connection.execute(TAKE_LOCK, {"lock": PRISMA_LOCK})
        except errors.LockNotAvailable as error:
            raise ConfigurationError(
                f"Another migration of this database has been running for over {lock_timeout_seconds:g} "
                "seconds; try again when it has ended."
            ) from error
        if schema is not None:
            await connection.execute(ENTER_SCHEMA, {"schema": schema})
            await connection.execute(CREATE_SCHEMA)
        await connection.execute(CREATE_BOOKS)
        behind = (await _compare(connection, history)).pending
        if not behind:
            return None
        migration = next(migration for migration in history if migration.name == behind[0])
        shortly = f"{min(QUEUE_SECONDS, lock_timeout_seconds) * 1000:.0f}ms"
        await connection.execute(WAIT_SHORTLY, {"lock_timeout": shortly})
        await _run(connection, migration)
        await connection.execute(
            RECORD, {"id": str(uuid.uuid4()), "checksum": migration.checksum, "name": migration.name}
        )
    return migration.name


async def _run(connection: AsyncConnection[Any], migration: Migration) -> None:
    try:
        await connection.execute(migration.script)
    except psycopg.Error as error:
        if connection.broken:
            raise
        message = f"Migration {migration.name!r} failed and was rolled back: {_explain(error)}"
        if isinstance(error, errors.LockNotAvailable):
            raise _TableInUse(message) from error
        raise ConfigurationError(message) from error


def _explain(error: psycopg.Error) -> str:
    reason = error.diag.message_primary or str(error)
    match error:
        case errors.FeatureNotSupported() if "vector" in reason:
            return "the PostgreSQL server lacks pgvector; install it on that machine, then try again."
        case errors.InsufficientPrivilege() if "vector" in reason:
            return "this user may not do it; let an administrator run CREATE EXTENSION vector, then try again."
        case errors.UndefinedObject() if "halfvec" in reason:
            return "pgvector is older than 0.7; update it, run ALTER EXTENSION vector UPDATE, then try again."
        case errors.LockNotAvailable():
            return "another session held a table all the while; end its transaction, then try again."
        case _:
            return f"{reason}."


async def _compare(connection: AsyncConnection[Any], history: Sequence[Migration]) -> Status:
    """Hold the database's books against the history; refuses what neither tool could continue from."""
    checksums = {migration.name: migration.checksum for migration in history}
    applied: set[str] = set()
    unknown: list[str] = []
    for name, checksum, is_finished in await _read_books(connection):
        if not is_finished:
            raise ConfigurationError(
                f"Migration {name!r} failed earlier, under Prisma; repair what it left, then run "
                f"`prisma migrate resolve --rolled-back {name}` (to run it again) or `--applied {name}`."
            )
        if name not in checksums:
            unknown.append(name)
            continue
        if checksum != checksums[name]:
            raise ConfigurationError(
                f"Migration {name!r} was edited after it was applied; restore its migration.sql and put the "
                "change into a new migration."
            )
        applied.add(name)
    pending = [name for name in checksums if name not in applied]
    newest = max(checksums, default="")
    if strange := unknown if pending else [name for name in unknown if name < newest]:
        raise ConfigurationError(
            f"The database has a migration this Quiver does not know, {strange[0]!r}: update Quiver, or, if "
            "another application keeps its tables here, give Quiver a schema of its own with "
            "`?schema=quiver` in DATABASE_URL."
        )
    return Status(applied=[name for name in checksums if name in applied], pending=pending, newer=unknown)


async def _read_books(connection: AsyncConnection[Any]) -> list[tuple[str, str, bool]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        exists = await (await cursor.execute(BOOKS_EXIST)).fetchone()
        assert exists is not None  # a SELECT without FROM returns one row
        if not exists[0]:
            return []
        return await (await cursor.execute(READ_BOOKS)).fetchall()


@asynccontextmanager
async def _connect(database_url: str) -> AsyncGenerator[tuple[AsyncConnection[Any], str | None]]:
    """A connection outside any pool, because transactions here are long, and the schema to work in."""
    conninfo, schema = parse_url(database_url)
    parameters: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **conninfo_to_dict(conninfo)}
    try:
        async with await AsyncConnection.connect(autocommit=True, prepare_threshold=None, **parameters) as connection:
            yield connection, schema
    except OperationalError as error:
        raise DatabaseUnavailable(
            "The database cannot be reached, or hung up; check DATABASE_URL and that the server runs."
        ) from error
