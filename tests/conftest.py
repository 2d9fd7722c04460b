"""A real PostgreSQL for all tests and a database of its own for each; a stand-in for the embedding service."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import structlog
from openai import AsyncOpenAI
from psycopg import sql
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from api.app import create_app
from api.settings import Settings
from api.tables import migrations
from api.up.embedded_postgres import DATABASE, EmbeddedPostgres
from tests import lambda_environments, openai_contract
from tests.fake_embedder import FakeEmbedder
from tests.servers import Server

KEY = "sk-quiver-test-0123456789"
TEMPLATE = "quiver_template"
LAMBDAS_AT_ONCE = 8

Serve = Callable[..., AbstractAsyncContextManager[AsyncOpenAI]]


class _HermeticSettings(Settings):
    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@pytest.fixture(scope="session", autouse=True)
def logging() -> None:
    """One line for each record, with plain tracebacks."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, renderer])


def make_settings(**values: Any) -> Settings:
    """Settings that neither the environment nor a `.env` of the developer's can change."""
    return _HermeticSettings(**values)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
async def template(postgres: EmbeddedPostgres) -> str:
    await _execute(postgres, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    await migrations.apply(_url(postgres, TEMPLATE))
    return TEMPLATE


@pytest.fixture
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The address of a migrated database that only this test uses."""
    async with new_database(postgres, template) as url:
        yield url


@pytest.fixture
async def empty_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The address of a database with nothing in it that only this test uses."""
    async with new_database(postgres, "template0") as url:
        yield url


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users of the system can reach, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def shared_embedder() -> Iterator[FakeEmbedder]:
    embedder = FakeEmbedder()
    embedder.start()
    yield embedder
    embedder.stop()


@pytest.fixture
def embedder(shared_embedder: FakeEmbedder) -> FakeEmbedder:
    """The embedding service, with nothing asked of it yet."""
    shared_embedder.reset()
    return shared_embedder


@pytest.fixture
def settings(database: str, embedder: FakeEmbedder, tmp_path: Path) -> dict[str, Any]:
    return {
        "database_url": database,
        "database_timeout_seconds": 2,
        "server_api_key": KEY,
        "embedding": {"base_url": embedder.base_url},
        "files_dir": tmp_path / "blobs",
    }


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Run the application with some settings; the `openai` client of it is what one gets."""
    if lambda_environments.PACKAGE:
        return partial(_serve_from_lambda, tmp_path)

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncGenerator[AsyncOpenAI]:
        app = create_app(make_settings(**settings))
        async with (
            app.router.lifespan_context(app),
            _client(httpx.ASGITransport(app, raise_app_exceptions=False)) as client,
        ):
            yield client

    return serve


@pytest.fixture
async def openai(serve: Serve, settings: dict[str, Any]) -> AsyncIterator[AsyncOpenAI]:
    async with serve(**settings) as client:
        yield client


@pytest.fixture
async def http(openai: AsyncOpenAI) -> httpx.AsyncClient:
    """The same application without the client's manners: whatever is sent arrives as it is."""
    return raw(openai)


@pytest.fixture
def server(settings: dict[str, Any]) -> Iterator[Server]:
    """The application behind a real socket."""
    server = Server(create_app(make_settings(**settings)))
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def _serve_from_lambda(directory: Path, **settings: Any) -> AsyncGenerator[AsyncOpenAI]:
    environment = lambda_environments.as_environment(settings)
    with lambda_environments.running_function(
        "api.lambda_handler.handler", environment, directory, concurrency=LAMBDAS_AT_ONCE
    ) as function:
        limits = httpx.Limits(max_connections=LAMBDAS_AT_ONCE)  # what is more is throttled there, and waits here
        async with _client(httpx.AsyncHTTPTransport(limits=limits), function.base_url) as client:
            yield client


def raw(openai: AsyncOpenAI) -> httpx.AsyncClient:
    """The HTTP client behind one of OpenAI's."""
    client: httpx.AsyncClient = openai._client  # pyright: ignore[reportPrivateUsage]  # the only way to it
    client.headers["Authorization"] = f"Bearer {KEY}"
    return client


def _client(transport: httpx.AsyncBaseTransport, base_url: str = "http://quiver") -> AsyncOpenAI:
    http = httpx.AsyncClient(
        transport=transport, base_url=base_url, timeout=60, event_hooks={"response": [openai_contract.verify]}
    )
    return AsyncOpenAI(base_url=f"{base_url}/v1", api_key=KEY, max_retries=0, http_client=http)


def _url(postgres: EmbeddedPostgres, name: str) -> str:
    return postgres.url.replace(f"/{DATABASE}?", f"/{name}?")


@asynccontextmanager
async def new_database(postgres: EmbeddedPostgres, template: str) -> AsyncGenerator[str]:
    name = f"test_{uuid4().hex}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    await _execute(postgres, sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
    yield _url(postgres, name)
    await _execute(postgres, sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


async def _execute(postgres: EmbeddedPostgres, statement: sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as connection:
        await connection.execute(statement)
