"""The whole of it, as real processes: embedder with the real model, LiteLLM proxy on our configuration, API."""

import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.up.embedded_postgres import EmbeddedPostgres
from tests.conftest import KEY, new_database
from tests.otlp import Collector
from tests.processes import free_port, running
from tests.servers import Server

ROOT = Path(__file__).parents[2]
MASTER_KEY = "sk-master-test-0123456789"
SECONDS = 60.0

TEXTS = {
    "Items may be sent back within thirty days for a full refund.": {"topic": "returns", "year": 2024},
    "Parcels leave our warehouse in the morning and arrive after two days.": {"topic": "delivery", "year": 2024},
    "The bakery opens at six; the bread is still warm then.": {"topic": "bread", "year": 2023},
    "Our engineers are on call on weekends, too.": {"topic": "support", "year": 2023},
}
QUESTION = "How do I get my money back?"
ANSWER = next(iter(TEXTS))


class ChatModel:
    """A chat model at the network's edge: OpenAI's answer, and a memory of what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.server = Server(Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])]))

    async def _complete(self, request: Request) -> Response:
        self.requests.append(await request.json())
        message = {"role": "assistant", "content": "Within thirty days."}
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "chat",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )


@dataclass(frozen=True)
class Stack:
    api_url: str
    proxy_url: str
    embedder_url: str
    chat: ChatModel
    collector: Collector  # of the traces of the API, the worker and the embedder
    stores: dict[str, str]  # by the provider that the proxy knows them under

    @cached_property
    def quiver(self) -> OpenAI:
        return OpenAI(base_url=f"{self.api_url}/v1", api_key=KEY, timeout=SECONDS)

    @cached_property
    def proxy(self) -> OpenAI:
        return OpenAI(base_url=f"{self.proxy_url}/v1", api_key=MASTER_KEY, timeout=SECONDS)


@pytest.fixture(scope="session")
async def stack_database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    async with new_database(postgres, template) as url:
        yield url


@pytest.fixture(scope="session")
def model_cache(pytestconfig: pytest.Config) -> str:
    """Where exported models are kept from one start to the next: to export one takes half a minute."""
    assert pytestconfig.cache is not None  # pytest's own plugin, which nobody switches off
    return str(pytestconfig.cache.mkdir("models"))


@pytest.fixture(scope="session")
def stack(stack_database: str, tmp_path_factory: pytest.TempPathFactory, model_cache: str) -> Iterator[Stack]:
    """Everything running, with one filled store for each of the proxy's ways to reach us."""
    directory = tmp_path_factory.mktemp("stack")
    api_port, proxy_port, embedder_port = free_port(), free_port(), free_port()
    api_url, proxy_url, embedder_url = (f"http://127.0.0.1:{port}" for port in (api_port, proxy_port, embedder_port))
    chat = ChatModel()
    chat.server.start()
    collector = Collector()
    collector.start()
    tracing = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.base_url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    api_env = {
        "DATABASE_URL": stack_database,
        "SERVER_API_KEY": KEY,
        "PORT": str(api_port),
        "EMBEDDING__BASE_URL": proxy_url,
        "EMBEDDING__API_KEY": MASTER_KEY,
        "FILES_DIR": str(directory / "files"),
        **tracing,
    }
    with (
        running(
            [sys.executable, "-m", "embedder"],
            env={"EMBEDDER_PORT": str(embedder_port), "EMBEDDER_CACHE_DIR": model_cache, **tracing},
            health=f"{embedder_url}/health",
            log=directory / "embedder.log",
        ),
        running(
            [sys.executable, "-m", "api.cli", "api"],
            env=api_env,
            health=f"{api_url}/health",
            log=directory / "api.log",
        ),
        running([sys.executable, "-m", "api.cli", "worker"], env=api_env, health=None, log=directory / "worker.log"),
    ):
        quiver = OpenAI(base_url=f"{api_url}/v1", api_key=KEY)
        stores = {name: quiver.vector_stores.create(name=name).id for name in ("pg_vector", "openai", "unregistered")}
        proxy_env = {
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "OTEL_EXPORTER": "otlp_http",
            "OTEL_ENDPOINT": f"{collector.base_url}/v1/traces",
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "NO_CONTENT",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "EMBEDDER_BASE_URL": f"{embedder_url}/v1",
            "QUIVER_BASE_URL": f"{api_url}/v1",
            "QUIVER_API_KEY": KEY,
            "PG_VECTOR_API_BASE": api_url,
            "PG_VECTOR_API_KEY": KEY,
            "QUIVER_PG_VECTOR_STORE_ID": stores["pg_vector"],
            "QUIVER_OPENAI_VECTOR_STORE_ID": stores["openai"],
        }
        litellm = str(Path(sys.executable).with_name("litellm"))
        with running(
            [litellm, "--config", str(_config(directory, chat)), "--host", "127.0.0.1", "--port", str(proxy_port)],
            env=proxy_env,
            health=f"{proxy_url}/health/liveliness",
            log=directory / "proxy.log",
        ):
            for store in stores.values():
                _fill(quiver, store)
            whole = Stack(api_url, proxy_url, embedder_url, chat, collector, stores)
            with quiver, whole.quiver, whole.proxy:
                yield whole
    chat.server.stop()
    collector.stop()


def _config(directory: Path, chat: ChatModel) -> Path:
    """Our configuration of the proxy as it is, and one chat model beside."""
    config = yaml.safe_load((ROOT / "litellm_config.yaml").read_text())
    params = {"model": "openai/chat", "api_base": f"{chat.server.base_url}/v1", "api_key": "none"}
    config["litellm_settings"]["callbacks"] = ["otel"]  # as docs/operations.md has it
    config["model_list"].append({"model_name": "chat", "litellm_params": params})
    path = directory / "litellm_config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _fill(quiver: OpenAI, store: str) -> None:
    embeddings = [{"content": text, "metadata": metadata} for text, metadata in TEXTS.items()]
    quiver.post(f"/vector_stores/{store}/embeddings/batch", body={"embeddings": embeddings}, cast_to=object)
