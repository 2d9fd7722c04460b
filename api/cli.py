"""The command `quiver`: every part of the service, alone or all together.

Imports stand inside the commands, so that each part runs with only its own packages installed.
"""

import asyncio
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from api import keys_cli, stores_cli, sync_cli
from api.errors import ApiError, ConfigurationError
from api.migrate import commands as transfer

if TYPE_CHECKING:
    from api.settings import Settings

FAILED = 1
MISCONFIGURED = 2

program = typer.Typer(
    name="quiver",
    help="OpenAI's /v1/vector_stores on your own PostgreSQL with pgvector.\n\n"
    "`quiver up` starts everything on this machine. Each part also runs alone, say in a container of its own: "
    "`quiver api`, `quiver worker`, `quiver embedder`.\n\n"
    "Settings come from the environment and from a file `.env` in the current directory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
database = typer.Typer(help="The tables: bring them up to date, or ask whether they are.", no_args_is_help=True)
program.add_typer(database, name="db")
program.add_typer(keys_cli.program, name="keys")
program.command("stores")(stores_cli.list_stores)
program.add_typer(sync_cli.program, name="sync")
for command in importlib.metadata.entry_points(group="quiver.commands"):  # `quiver models`: the embedder's, not ours
    program.add_typer(command.load(), name=command.name)


def main() -> None:
    """Run the command; what the user can put right is one sentence on standard error, without a traceback."""
    try:
        program()
    except (ConfigurationError, SettingsError) as error:
        sys.exit(_complain(str(error), MISCONFIGURED))
    except ValidationError as error:
        sys.exit(_complain(_explain_settings(error), MISCONFIGURED))
    except ApiError as error:
        sys.exit(_complain(error.message, FAILED))


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quiver {importlib.metadata.version('quiver')}")
        raise typer.Exit


@program.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    del version  # it has been shown


@program.command("migrate", help=transfer.migrate.__doc__)
@functools.wraps(transfer.migrate)
def migrate_rows(**options: Any) -> None:
    with _packages("`quiver migrate`", extra="api"):
        transfer.migrate(**options)


@program.command("export", help=transfer.export.__doc__)
@functools.wraps(transfer.export)
def export_store(**options: Any) -> None:
    with _packages("`quiver export`", extra="api"):
        transfer.export(**options)


@program.command()
def up() -> None:
    """Start everything: PostgreSQL, embedder, LiteLLM proxy, API and worker.

    Shows what it waits for, then the addresses and the key, then the parts' logs. Ctrl-C stops everything.

    A part that you have yourself is not started:

    - `DATABASE_URL`: a PostgreSQL with pgvector. Unset: one in `QUIVER_DATA_DIR`, which also holds the keys.
    - `EMBEDDER_BASE_URL`: an embedder for the LiteLLM proxy.
    - `EMBEDDING__BASE_URL`: a LiteLLM proxy, or any OpenAI-compatible server (then no embedder either).

    Ports: `PORT` (8000), `LITELLM_PORT` (4000), `EMBEDDER_PORT` (8001). Keys: `SERVER_API_KEY` and
    `LITELLM_MASTER_KEY`, made once when unset. Models: `LITELLM_CONFIG` (litellm_config.yaml).

    Examples: `quiver up`, or `PORT=9000 QUIVER_DATA_DIR=~/quiver quiver up`
    """
    with _packages("`quiver up`", extra="up"):
        from api.up import stack
    sys.exit(stack.up(_settings()))


@program.command()
def api() -> None:
    """Run the HTTP API alone.

    Needs `DATABASE_URL` (migrated: `quiver db migrate`), `SERVER_API_KEY`, and an embedding service at
    `EMBEDDING__BASE_URL` (with `EMBEDDING__API_KEY`). Listens on `HOST` (127.0.0.1) and `PORT` (8000).
    `GET /health` says that the process runs, `GET /ready` that it finds what it needs.

    Example: `DATABASE_URL=postgresql://me@db/quiver SERVER_API_KEY=… HOST=0.0.0.0 quiver api`
    """
    with _packages("The API", extra="api"):
        from api import server
        from api.access_log import configure_logging
    settings = _settings()
    configure_logging(settings)
    server.serve(settings)


@program.command()
def worker() -> None:
    """Run a worker alone: background jobs from the queue in PostgreSQL. Any number may run, on any machine.

    Needs `DATABASE_URL` (migrated), and the same `EMBEDDING__…` and `DB_FIELDS__…` settings as the API.

    Example: `DATABASE_URL=postgresql://me@db/quiver quiver worker`
    """
    with _packages("The worker", extra="api"):
        from api import worker
        from api.access_log import configure_logging
    settings = _settings()
    configure_logging(settings)
    asyncio.run(worker.run(settings))


@program.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def embedder(context: typer.Context) -> None:
    """Run the bundled embedder alone: an OpenAI-compatible `/v1/embeddings` on this machine's CPU.

    All arguments are its own: `quiver embedder --help`. Settings: `EMBEDDER_HOST`, `EMBEDDER_PORT`,
    `EMBEDDER_MODEL` and more.

    Example: `quiver embedder --port 8001`
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise _missing("The embedder", extra="embedder")
    os.execv(sys.executable, [sys.executable, "-m", "embedder", *context.args])  # noqa: S606  # it becomes the embedder


@database.command()
def migrate() -> None:
    """Bring the tables of `DATABASE_URL` up to date, and adopt vector stores that others left there.

    Does nothing when there is nothing to do. Understands a database of litellm-pgvector's. The history and the
    books are Prisma Migrate's, so `prisma migrate deploy` does the same.

    Example: `DATABASE_URL=postgresql://me@db/quiver quiver db migrate`
    """
    with _packages("The database command", extra="api"):
        from api.services import adoption
        from api.tables import migrations
    settings = _settings().past_the_pooler()
    url = _database_url(settings)

    async def bring_up_to_date() -> list[str]:
        applied = [f"Applied {name}" for name in await migrations.apply(url)]
        return applied + await adoption.adopt(settings)

    for line in asyncio.run(bring_up_to_date()) or ["Everything is up to date"]:
        typer.echo(line)


@database.command()
def status() -> None:
    """List the migrations that `DATABASE_URL` has and lacks. The exit status is 1 when it lacks any.

    Those of a later Quiver are listed as newer; this one works beside them, so that an upgrade can be rolled back.
    """
    with _packages("The database command", extra="api"):
        from api.tables import migrations
    found = asyncio.run(migrations.status(_database_url(_settings().past_the_pooler())))
    for name in found.applied:
        typer.echo(f"applied  {name}")
    for name in found.newer:
        typer.echo(f"newer    {name}")
    for name in found.pending:
        typer.echo(f"pending  {name}")
    if found.pending:
        typer.echo("Run `quiver db migrate` to apply what is pending.", err=True)
        raise typer.Exit(FAILED)


def _settings() -> "Settings":
    from api.settings import Settings

    return Settings()


def _database_url(settings: "Settings") -> str:
    if settings.database_url is None:
        raise ConfigurationError(
            "DATABASE_URL is not set: set it to postgresql://user:password@host:5432/database. "
            "(`quiver up` migrates a database of its own by itself.)"
        )
    return settings.database_url.get_secret_value()


@contextmanager
def _packages(what: str, *, extra: str) -> Generator[None]:
    """Turn a package that is not installed into the sentence that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"api", "embedder"}:
            raise
        raise _missing(what, extra=extra) from error


def _missing(what: str, *, extra: str) -> ConfigurationError:
    return ConfigurationError(f"{what} needs its own packages: pip install 'quiver[{extra}]'")


def _explain_settings(error: ValidationError) -> str:
    """Name each wrong setting as it is spelt in the environment; its value only when it is no secret."""
    problems: list[str] = []
    for problem in error.errors():
        name = "__".join(str(part) for part in problem["loc"]).upper()
        given: Any = problem["input"]
        shown = "" if "KEY" in name or "URL" in name or not isinstance(given, str) else f"={given!r}"
        problems.append(f"{name}{shown}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
    return f"A setting is wrong: {'; '.join(problems)}."


def _complain(message: str, status: int) -> int:
    typer.secho("Error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(message, err=True)
    return status


if __name__ == "__main__":
    main()
