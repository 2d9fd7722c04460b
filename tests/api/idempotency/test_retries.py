"""Of the same POST sent several times, one is carried out, whatever becomes of its answer."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from openai import AsyncOpenAI

from api.app import create_app
from tests.api.idempotency.keyed_requests import KEYED, STORES, create, is_replayed, names
from tests.conftest import KEY, make_settings
from tests.fake_embedder import FakeEmbedder


async def test_a_retry_gets_the_first_answer_and_makes_nothing(http: httpx.AsyncClient) -> None:
    first, second = await create(http), await create(http)

    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["content-type"] == first.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert (is_replayed(first), is_replayed(second)) == (False, True)
    assert await names(http) == ["a"]


async def test_fifty_creations_at_once_with_one_key_make_one_store(
    openai: AsyncOpenAI, http: httpx.AsyncClient
) -> None:
    patient = openai.with_options(max_retries=5)

    made = await asyncio.gather(*[patient.vector_stores.create(name="a", extra_headers=KEYED) for _ in range(50)])

    assert len({store.id for store in made}) == 1
    assert await names(http) == ["a"]


class LosesAnswers(httpx.AsyncBaseTransport):
    """A network on which a request arrives and its answer does not, every other time."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self.answers: list[httpx.Response] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.answers.append(await self._transport.handle_async_request(request))
        if len(self.answers) % 2:
            raise httpx.ReadError("connection lost", request=request)
        return self.answers[-1]


@asynccontextmanager
async def losing_answers(settings: dict[str, Any]) -> AsyncGenerator[AsyncOpenAI]:
    """The official client with the option that lets it send a key of its own."""
    app = create_app(make_settings(**settings))
    network = LosesAnswers(httpx.ASGITransport(app))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=network, base_url="http://quiver") as http,
        AsyncOpenAI(base_url="http://quiver/v1", api_key=KEY, max_retries=1, http_client=http) as client,
    ):
        client._idempotency_header = "Idempotency-Key"  # pyright: ignore[reportPrivateUsage]  # there is no other
        yield client


async def test_the_official_client_makes_up_for_a_lost_answer(
    settings: dict[str, Any], http: httpx.AsyncClient
) -> None:
    async with losing_answers(settings) as client:
        made = [await client.vector_stores.create(name=name) for name in "ab"]

    assert [store.name for store in made] == ["a", "b"]
    assert await names(http) == ["b", "a"]


async def test_the_official_client_makes_up_for_the_lost_answer_to_an_upload(
    settings: dict[str, Any], openai: AsyncOpenAI
) -> None:
    content = os.urandom(500_000)

    async with losing_answers(settings) as client:
        file = await client.files.create(file=("a.bin", content), purpose="assistants")

    assert [kept.id for kept in (await openai.files.list()).data] == [file.id]


async def test_a_retry_may_come_by_another_of_the_clients_bases(http: httpx.AsyncClient) -> None:
    first = await create(http)

    second = await http.post("/vector_stores", json={"name": "a"}, headers=KEYED)

    assert (second.content, is_replayed(second)) == (first.content, True)


async def test_a_search_is_answered_again_without_embedding(
    openai: AsyncOpenAI, http: httpx.AsyncClient, store: str, embedder: FakeEmbedder
) -> None:
    await http.post(f"{STORES}/{store}/embeddings", json={"content": "text"})
    embedder.reset()

    found = [(await openai.vector_stores.search(store, query="new", extra_headers=KEYED)).data for _ in range(2)]

    assert found[0] == found[1] and len(found[0]) == 1
    assert len(embedder.calls) <= 1


async def test_a_request_without_a_body_is_answered_again(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    upload = await openai.uploads.create(filename="a", purpose="vision", bytes=1, mime_type="image/png")

    answers = [await http.post(f"/v1/uploads/{upload.id}/cancel", headers=KEYED) for _ in range(2)]

    assert [answer.json()["status"] for answer in answers] == ["cancelled", "cancelled"]
    assert is_replayed(answers[1])
