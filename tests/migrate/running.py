"""A migration as the command runs it, in the process of the test, and what it made."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, LiteralString, cast

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from api.migrate import migration
from api.migrate.fields import Fields
from api.migrate.options import Options, SourceOptions
from api.tables.database_url import parse_url
from tests.conftest import make_settings

DIMENSION = 8


async def migrate(settings: dict[str, Any], place: str | Path, **options: Any) -> bool:
    """Migrate without being asked; options of the source and of the fields are told by their names."""
    fields = {name: options.pop(name) for name in list(options) if name in Fields.__dataclass_fields__}
    of_source = {name: options.pop(name) for name in list(options) if name in SourceOptions.__dataclass_fields__}
    source = SourceOptions(str(place), **of_source, fields=Fields(**fields))
    rejects = settings["files_dir"].parent / "rejects.jsonl"
    given: dict[str, Any] = {"rejects": rejects, "yes": True, **options}
    return await migration.run(Options(source, **given), make_settings(**settings))


async def query(url: str, statement: str, *params: Any) -> list[dict[str, Any]]:
    conninfo, _ = parse_url(url)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(sql.SQL(cast("LiteralString", statement)), params or None)
        return await cursor.fetchall() if cursor.description else []


async def chunks(database: str) -> list[dict[str, Any]]:
    """Every chunk of every store, in the order of the ids."""
    return await query(
        database, "SELECT *, embedding::vector::real[] AS numbers FROM embeddings ORDER BY vector_store_id, id"
    )


def vector(number: int, dimension: int = DIMENSION) -> list[float]:
    """A vector of its own for each number, of no particular length."""
    return [((number * 7919 + place * 104729) % 1000 - 499) / 250 for place in range(dimension)]


def write_lines(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def rejects(settings: dict[str, Any]) -> list[dict[str, Any]]:
    path = settings["files_dir"].parent / "rejects.jsonl"
    return read_lines(path) if path.exists() else []
