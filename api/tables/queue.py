"""The queue's connection: procrastinate's tables lie beside ours, in the same schema."""

import procrastinate
from psycopg import sql

from api.settings import Settings
from api.tables.database_url import parse_url


def connector(settings: Settings) -> procrastinate.PsycopgConnector:
    assert settings.database_url is not None  # whoever starts a part has checked
    conninfo, schema = parse_url(settings.database_url.get_secret_value())
    # libpq's options split at blanks; a backslash keeps one that belongs to the name.
    quoted = sql.Identifier(schema).as_string().replace("\\", "\\\\").replace(" ", "\\ ") if schema else None
    options = {"options": f"-c search_path={quoted}"} if quoted else {}
    return procrastinate.PsycopgConnector(
        conninfo=conninfo, kwargs={"application_name": "quiver-worker", **options}, min_size=1, max_size=6
    )
