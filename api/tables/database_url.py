"""Reading `DATABASE_URL`: PostgreSQL's address as Prisma writes it, with Prisma's own parameters taken out."""

from urllib.parse import unquote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.errors import ConfigurationError

# What Prisma reads from the query string and libpq does not know. `connect_timeout`, `sslmode`, `host`
# and `options` are libpq's own and stay.
PRISMA_PARAMETERS = frozenset(
    {
        "connection_limit",
        "max_connection_lifetime",
        "max_idle_connection_lifetime",
        "pgbouncer",
        "pool_timeout",
        "schema",
        "single_use_connections",
        "socket_timeout",
        "sslaccept",
        "sslidentity",
        "statement_cache_size",
    }
)


def parse_url(database_url: str) -> tuple[str, str | None]:
    """Split a database's address into libpq's connection string and the schema named by `?schema=`.

    Raises:
        ConfigurationError: it is not the address of a PostgreSQL database.
    """
    address, _, query = database_url.strip().partition("?")
    own: dict[str, str] = {}
    kept: list[str] = []
    for parameter in filter(None, query.split("&")):
        name, _, value = parameter.partition("=")
        if name in PRISMA_PARAMETERS:
            own[name] = unquote(value)
        else:
            kept.append(parameter)
    if own.get("sslaccept") == "strict":
        raise ConfigurationError(
            "DATABASE_URL has `sslaccept=strict`, which only Prisma reads; write `sslmode=verify-full`."
        )
    try:
        # libpq checks it and makes it one form; it also takes a list of keywords in place of an address.
        conninfo = make_conninfo("", **conninfo_to_dict("?".join(filter(None, [address, "&".join(kept)]))))
    except ProgrammingError as error:
        raise ConfigurationError(
            "DATABASE_URL is not the address of a PostgreSQL database; "
            "write postgresql://user:password@host:5432/database, with special characters percent-encoded."
        ) from error
    return conninfo, own.get("schema") or None


def uses_transaction_pooler(database_url: str) -> bool:
    """Whether the address says, as Prisma's do, that a pooler stands before the database that keeps no statements."""
    return "pgbouncer=true" in database_url.partition("?")[2].split("&")
