"""Whose rows a statement may see: the one place where the statements on tenants' tables get their condition.

A connection carries the scope of the request that it is handed out for. Every statement on one of the tables below has
`{visible}` among its conditions and gets here what stands for it; what belongs to a store or an upload is reached only
through that.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString, NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from api.tables import keyset
from api.tables.keyset import Position

DEFAULT_TENANT: Final = "default"  # what is made without a tenant belongs to it

Table = Literal["vector_stores", "files", "uploads", "api_keys"]

OF_TENANT: Final[Mapping[Table, LiteralString]] = {
    "vector_stores": "vector_stores.tenant = %(scope_tenant)s",
    "files": "files.tenant = %(scope_tenant)s",
    "uploads": "uploads.tenant = %(scope_tenant)s",
    "api_keys": "api_keys.tenant = %(scope_tenant)s",
}

# A key for some stores sees the files that it uploaded itself: the tenant's others may be in other stores.
OF_RESTRICTED_KEY: Final[Mapping[Table, LiteralString]] = {
    "vector_stores": "vector_stores.id = ANY(%(scope_vector_store_ids)s)",
    "files": "files.api_key_id = %(scope_api_key_id)s",
    "uploads": "uploads.api_key_id = %(scope_api_key_id)s",
    "api_keys": "api_keys.id = %(scope_api_key_id)s",
}

IS_POLICED = "SELECT row_security_active('vector_stores') AS is_policed"

# For this transaction only: behind a pooler, the next one on this connection may be another tenant's.
SET_TENANT = "SELECT set_config('quiver.tenant', %(tenant)s, true)"


class Kind(NamedTuple):
    """What scopes have in common that need the same conditions: statements are prepared for a kind."""

    has_tenant: bool
    is_restricted: bool


@dataclass(frozen=True)
class Scope:
    """What may be seen: a tenant's, or everything; of that, all or some stores only."""

    tenant: str | None = None
    vector_store_ids: tuple[str, ...] | None = None
    api_key_id: str | None = None

    @property
    def kind(self) -> Kind:
        return Kind(self.tenant is not None, self.vector_store_ids is not None)

    @property
    def params(self) -> dict[str, Any]:
        """What the conditions of its kind name."""
        if self.tenant is None:
            return {}
        return {
            "scope_tenant": self.tenant,
            "scope_vector_store_ids": None if self.vector_store_ids is None else list(self.vector_store_ids),
            "scope_api_key_id": self.api_key_id,
        }


@dataclass(frozen=True)
class Owner:
    """To whom something belongs that is inserted."""

    tenant: str
    api_key_id: str | None


EVERYTHING: Final = Scope()
NOTHING: Final = Scope(tenant="")  # no tenant has an empty name


class Connection(psycopg.AsyncConnection[DictRow]):
    """A connection that knows for whom it is used; `Database` says so whenever it hands one out."""

    scope: Scope = NOTHING
    sound_at: float = -math.inf  # when it was last looked at, by the monotonic clock
    is_policed: bool | None = None  # whether row-level security binds its role; None: not asked yet
    # That of its searches: one that repeats its statement knows the types already.
    searches: psycopg.AsyncRawCursor[Any] | None = None


def visible(connection: Connection, table: Table) -> tuple[sql.SQL, dict[str, Any]]:
    """The condition for the rows of a table that the connection may see, and its parameters.

    It names the table, which must have no alias in the statement.
    """
    return condition(table, connection.scope.kind), connection.scope.params


async def execute(
    connection: Connection, table: Table, statement: LiteralString, params: Mapping[str, Any]
) -> psycopg.AsyncCursor[DictRow]:
    """Execute a statement whose `{visible}` stands for the rows of the table that the connection may see."""
    query = _completed(statement, table, connection.scope.kind)
    return await connection.execute(query, {**params, **connection.scope.params})


async def list_between(
    connection: Connection,
    table: Table,
    statement: LiteralString,
    *,
    above: Position | None,
    below: Position | None,
    direction: Literal["asc", "desc"],
    limit: int,
) -> list[DictRow]:
    """The rows that the connection may see, strictly between two positions of the order (created_at, id).

    The statement has `{visible}` and `{condition}` among its conditions, `{direction}` in its order, and a limit.
    """
    between, positions = keyset.between(table, above=above, below=below)
    query = sql.SQL(statement).format(
        visible=condition(table, connection.scope.kind),
        condition=between,
        direction=sql.SQL("ASC" if direction == "asc" else "DESC"),
    )
    return await (await connection.execute(query, {**connection.scope.params, **positions, "limit": limit})).fetchall()


def owner(connection: Connection) -> Owner:
    """Whose it is that is made on the connection."""
    return Owner(connection.scope.tenant or DEFAULT_TENANT, connection.scope.api_key_id)


async def set_policy(connection: Connection) -> None:
    """Have the policies of row-level security know the tenant, until the transaction ends."""
    await connection.execute(SET_TENANT, {"tenant": connection.scope.tenant})


async def is_policed(connection: Connection) -> bool:
    """Whether policies bind the role that is connected; asked once for a connection."""
    if connection.is_policed is None:
        row = await (await connection.execute(IS_POLICED)).fetchone()
        assert row is not None  # a function's result always is a row
        connection.is_policed = row["is_policed"]
    return bool(connection.is_policed)


@functools.cache
def condition(table: Table, kind: Kind) -> sql.SQL:
    """What `{visible}` stands for in a statement of such scopes."""
    if not kind.has_tenant:
        return sql.SQL("TRUE")
    return sql.SQL(f"{OF_TENANT[table]} AND {OF_RESTRICTED_KEY[table]}" if kind.is_restricted else OF_TENANT[table])


@functools.cache
def _completed(statement: LiteralString, table: Table, kind: Kind) -> bytes:
    """One text for each kind of scope, so that prepared statements serve all tenants."""
    if "{visible}" not in statement:
        raise ValueError("a statement on a tenants' table has no {visible}")
    return sql.SQL(statement).format(visible=condition(table, kind)).as_bytes(None)
