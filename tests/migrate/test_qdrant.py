"""A Qdrant server, of which the scroll API's real shapes stand here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
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
        self.recovered: list[dict[str, str]] = []

    async def list_collections(self, request: Request) -> Response:
        if request.headers.get("api-key") != KEY:
            return JSONResponse({"status": {"error": "Must provide an API key"}, "time": 0.0}, 403)
        return answer({"collections": [{"name": name} for name in self.collections]})

    async def count(self, request: Request) -> Response:
        return answer({"count": len(self.collections[request.path_params["name"]])})

    async def recover(self, request: Request) -> Response:
        """Of a snapshot the form is Qdrant's own; here it is the points as JSON."""
        async with request.form() as form:
            uploaded = form["snapshot"]
            assert isinstance(uploaded, UploadFile)
            content = await uploaded.read()
        if not content.startswith(b"["):
            return JSONResponse({"status": {"error": "Wrong input: failed to read archive"}, "time": 0.0}, 400)
        self.recovered.append(dict(request.query_params))
        self.collections[request.path_params["name"]] = orjson.loads(content)
        return answer(True)

    async def delete(self, request: Request) -> Response:
        return answer(self.collections.pop(request.path_params["name"], None) is not None)

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


def answer(result: dict[str, Any] | bool) -> Response:
    return JSONResponse({"result": result, "status": "ok", "time": 0.0})


@pytest.fixture
def qdrant() -> Qdrant:
    return Qdrant()


@pytest.fixture
def url(qdrant: Qdrant) -> Iterator[str]:
    routes = [
        Route("/collections", qdrant.list_collections),
        Route("/collections/{name}", qdrant.delete, methods=["DELETE"]),
        Route("/collections/{name}/snapshots/upload", qdrant.recover, methods=["POST"]),
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


async def test_a_snapshot_is_recovered_for_as_long_as_it_is_read(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    snapshot = tmp_path / "my-docs-559032209313046-2025-11-03-13-20-11.snapshot"
    snapshot.write_bytes(orjson.dumps(points(450)))

    assert await migrate(settings, url, snapshot=snapshot)

    assert len(await chunks(database)) == 450
    assert qdrant.recovered == [{"priority": "snapshot", "wait": "true"}]
    assert qdrant.collections == {}
    assert [store["name"] for store in await query(database, "SELECT name FROM vector_stores")] == ["my-docs"]


async def test_a_snapshot_goes_on_where_it_was_whichever_server_recovers_it(
    qdrant: Qdrant, url: str, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    snapshot = tmp_path / "docs.snapshot"
    snapshot.write_bytes(orjson.dumps(points(450)))
    assert await migrate(settings, url, snapshot=snapshot)
    await query(database, "DELETE FROM embeddings WHERE id = '3'")
    await query(database, "UPDATE migration_checkpoints SET position = '100'")

    await migrate(settings, url.replace("127.0.0.1", "localhost"), snapshot=snapshot, verifies=False)

    (checkpoint,) = await query(database, "SELECT rows_written, rows_skipped FROM migration_checkpoints")
    assert checkpoint == {"rows_written": 450, "rows_skipped": 350}


async def test_a_snapshot_that_qdrant_refuses_is_said_so_and_leaves_nothing(
    qdrant: Qdrant, url: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "docs.snapshot").write_bytes(b"none")

    with pytest.raises(ServiceRefused, match=r"HTTP 400.*failed to read archive"):
        await migrate(settings, url, snapshot=tmp_path / "docs.snapshot")
    with pytest.raises(ConfigurationError, match="A Qdrant server recovers what --snapshot names"):
        await migrate(settings, tmp_path / "rows.jsonl", snapshot=tmp_path / "docs.snapshot")

    assert qdrant.collections == {}
