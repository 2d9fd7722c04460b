import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from starlette.applications import Starlette

from embedder import engines
from embedder.engines import Engine, ModelSpec, Text
from embedder.server import create_app
from embedder.settings import Settings
from tests.embedder.letter_engine import loader
from tests.servers import Server

DEADLINE_SECONDS = 30

Serve = Callable[..., AbstractContextManager[str]]
Load = Callable[..., Engine]


class HermeticSettings(Settings):
    """Settings that neither the environment nor a `.env` of the developer's can change."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@contextmanager
def served(app: Starlette) -> Generator[str]:
    server = Server(app)
    server.start()
    try:
        yield server.base_url
    finally:
        server.stop()


def app_of(engine: Engine, **settings: Any) -> Starlette:
    return create_app(HermeticSettings(**settings), load=loader(engine))


def vectors(engine: Engine, texts: Sequence[Text]) -> NDArray[np.float32]:
    rows = engine.run(engine.tokenize(texts))
    assert isinstance(rows, np.ndarray)
    return rows


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serve an engine as the model "letters", with some settings, on a real socket; its address is what one gets."""

    def serve(engine: Engine, **settings: Any) -> AbstractContextManager[str]:
        return served(app_of(engine, **{"served_name": "letters", **settings}))

    return serve


@pytest.fixture(scope="session")
def cache(pytestconfig: pytest.Config) -> Path:
    """Where exported models are kept, from one run of the tests to the next: to export one takes half a minute."""
    assert pytestconfig.cache is not None  # pytest's own plugin, which nobody switches off
    return pytestconfig.cache.mkdir("models")


@pytest.fixture(scope="session")
def minilm(cache: Path) -> Engine:
    """The bundled model, loaded once, as the server loads it."""
    return engines.load(ModelSpec(engines.BUNDLED_MODEL, normalize=False), cache=cache)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def load(tiny_cache: Path) -> Load:
    def load(source: Path | str, **spec: object) -> Engine:
        return engines.load(ModelSpec(str(source), **{"threads": 1, **spec}), cache=tiny_cache)  # pyright: ignore[reportArgumentType]  # a test's own keywords

    return load


@pytest.fixture(scope="session")
def address(serve: Serve, minilm: Engine) -> Iterator[str]:
    with serve(minilm, served_name=None, max_request_bytes=1_000_000) as address:
        yield address


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def http(address: str) -> Iterator[httpx.Client]:
    """The same server without the client's manners: whatever is sent arrives as it is."""
    with httpx.Client(base_url=address) as http:
        yield http


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait_until(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait_until
