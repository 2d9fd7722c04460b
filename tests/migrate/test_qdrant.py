"""A Qdrant server, of which the scroll API's real shapes stand here."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from api.errors import ConfigurationError
from api.migrate.http import ServiceRefused
from tests.migrate.running import chunks, migrate, query, rejects, vector
from tests.servers import Server

KEY = "qdrant-key"


class Qdrant:
    """Points in the order of their ids, numbers before UUIDs; `failures` are answered first."""

    def __init__(self) -> None:
        self.collections: dict[str, list[dict[str, Any]]] = {}
        self.failures: list[int] = []
        self.limits: list[int] = []

    async def list_collections(self, request: Request) -> Response:
        if request.headers.get("api-key") != KEY:
            return JSONResponse({"status": {"error": "Must provide an API key"}, "time": 0.0}, 403)
        return answer({"collections": [{"name": name} for name in self.collections]})

    async def count(self, request: Request) -> Response:
        return answer({"count": len(self.collections[request.path_params["name"]])})

    async def scroll(self, request: Request) -> Response:
        if self.failures:
            return Response(status_code=self.failures.pop())
        body = await request.json()
        self.limits.append(body["limit"])
        points = self.collections[request.path_params["name"]]
        ids = [point["id"] for point in points]
        start = 0 if body["offset"] is None else ids.index(body["offset"])
        stop = start + min(body["limit"], 100)
        return answer({"points": points[start:stop], "next_page_offset": [*ids, None][min(stop, len(ids))]})


def answer(result: dict[str, Any]) -> Response:
    return JSONResponse({"result": result, "status": "ok", "time": 0.0})


@pytest.fixture
def qdrant() -> Qdrant:
    return Qdrant()


@pytest.fixture
def url(qdrant: Qdrant) -> Iterator[str]:
    routes = [
        Route("/collections", qdrant.list_collections),
        Route("/collections/{name}/points/count", qdrant.count, methods=["POST"]),
        Route("/collections/{name}/points/scroll", qdrant.scroll, methods=["POST"]),
    ]
    server = Server(Starlette(routes=routes))
    server.start()
    yield server.base_url
    server.stop()


def points(count: int) -> list[dict[str, Any]]:
    ids = [*range(count // 2), *(str(UUID(int=i)) for i in range(count // 2, count))]
    return [
        {"id": id, "payload": {"text": f"text {i}", "tags": ["a"], "n": i}, "vector": vector(i)}
        for i, id in enumerate(ids)
    ]


async def test_a_collection_is_migrated_with_its_payload(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str
) -> None:
    qdrant.collections = {"docs": points(450)}
    qdrant.failures = [503]

    assert await migrate(settings, url, kind="qdrant", source_key=KEY)

    rows = {row["id"]: row for row in await chunks(database)}
    assert len(rows) == 450
    assert (rows["7"]["content"], rows["7"]["metadata"]) == ("text 7", {"tags": ["a"], "n": 7})
    assert rows[str(UUID(int=300))]["content"] == "text 300"


async def test_what_langchain_put_into_qdrant_is_understood(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str
) -> None:
    payload = {"page_content": "text", "metadata": {"source": "a.pdf"}}
    qdrant.collections = {"docs": [{"id": 1, "payload": payload, "vector": vector(1)}]}

    assert await migrate(settings, url, kind="qdrant", source_key=KEY, metadata="metadata")

    (row,) = await chunks(database)
    assert (row["content"], row["metadata"]) == ("text", {"source": "a.pdf"})


async def test_of_several_vectors_one_must_be_named(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str
) -> None:
    vectors = {"big": [1.0, 2.0], "small": vector(3), "words": {"indices": [1], "values": [0.5]}}
    qdrant.collections = {"docs": [{"id": 1, "payload": {"text": "text"}, "vector": vectors}]}

    with pytest.raises(ConfigurationError, match="the vectors 'big', 'small'; name one with --vector"):
        await migrate(settings, url, kind="qdrant", source_key=KEY)
    assert await migrate(settings, url, kind="qdrant", source_key=KEY, vector="small")

    assert [len(row["numbers"]) for row in await chunks(database)] == [8]


async def test_points_without_a_text_are_written_down(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str
) -> None:
    qdrant.collections = {"docs": [*points(3), {"id": str(UUID(int=9)), "payload": None, "vector": vector(9)}]}

    assert await migrate(settings, url, kind="qdrant", source_key=KEY)

    assert [row["reason"] for row in rejects(settings)] == ["it has no text"]
    assert len(await query(database, "SELECT id FROM embeddings")) == 3


async def test_a_key_that_qdrant_refuses_is_said_so(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ServiceRefused, match=r"HTTP 403.*Must provide an API key"):
        await migrate(settings, url, kind="qdrant")
