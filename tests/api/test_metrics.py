"""What an operator sees of the API and the worker: `/metrics`, and the line that each request leaves in the log."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from tests.conftest import KEY, Serve, raw
from tests.fake_embedder import FakeEmbedder
from tests.processes import free_port, running
from tests.working import worker_process

SEARCH = "/vector_stores/{vector_store_id}/search"


async def numbers(
    http: httpx.AsyncClient, url: str = "/metrics"
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition, by name and labels."""
    answer = await http.get(url)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def searched(openai: AsyncOpenAI, question: str) -> str:
    store = (await openai.vector_stores.create(name="s")).id
    chunk = {"content": "text", "embedding": [1.0, 0.0, 0.0]}
    await raw(openai).post(f"/v1/vector_stores/{store}/embeddings", json=chunk)
    await openai.vector_stores.search(store, query=question)
    return store


async def test_requests_are_counted_by_route_and_status(http: httpx.AsyncClient) -> None:
    await http.get("/v1/vector_stores/vs_1")
    await http.get("/vector_stores/vs_2")
    await http.get("/v1/nowhere/at/all")
    await http.request("INVENTED", "/v1/elsewhere")

    counted = await numbers(http)
    store = {"method": "GET", "route": "/vector_stores/{vector_store_id}", "status": "404"}
    assert counted[labelled("quiver_requests_total", **store)] == 2
    assert counted[labelled("quiver_requests_total", method="GET", route="other", status="404")] == 1
    assert counted[labelled("quiver_requests_total", method="other", route="other", status="404")] == 1
    assert counted[labelled("quiver_request_seconds_count", route="/vector_stores/{vector_store_id}")] == 2


async def test_a_search_tells_where_its_time_went(openai: AsyncOpenAI, embedder: FakeEmbedder) -> None:
    await searched(openai, "question")

    counted = await numbers(raw(openai))
    stages = {
        stage: counted[labelled("quiver_stage_seconds_count", route=SEARCH, stage=stage)] for stage in ("embed", "sql")
    }
    assert stages == {"embed": 1, "sql": 1}


async def test_the_log_line_of_a_search_has_its_store_and_stages_and_neither_key_nor_text(openai: AsyncOpenAI) -> None:
    with capture_logs() as lines:
        store = await searched(openai, "a question that nobody may read")

    line = next(line for line in lines if line.get("path", "").endswith("/search"))
    assert line["vector_store_id"] == store
    assert line["sql_milliseconds"] > 0
    assert line["embed_milliseconds"] > 0
    assert "nobody may read" not in json.dumps(lines, default=str)
    assert KEY not in json.dumps(lines, default=str)


async def test_the_queue_and_the_pool_are_shown(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    file = await openai.files.create(file=("a.txt", b"text"), purpose="assistants")
    await openai.vector_stores.create(file_ids=[file.id])

    counted = await numbers(http)
    assert counted[labelled("quiver_queue_jobs", queue="ingestion", status="todo")] == 1
    assert counted[labelled("quiver_pool_connections_max")] == 10
    assert counted[labelled("quiver_database_up")] == 1


async def test_without_a_database_the_metrics_say_so(serve: Serve, settings: dict[str, Any]) -> None:
    nowhere = {"database_url": "postgresql://nobody@127.0.0.1:9/none", "database_timeout_seconds": 0.2}

    async with serve(**settings | nowhere) as client:
        counted = await numbers(raw(client))

    assert counted[labelled("quiver_database_up")] == 0


@pytest.mark.parametrize(("is_public", "status"), [(False, 401), (True, 200)])
async def test_metrics_are_public_only_where_the_setting_says_so(
    serve: Serve, settings: dict[str, Any], is_public: bool, status: int
) -> None:
    async with serve(**settings, metrics_public=is_public) as client:
        answer = await raw(client).get("/metrics", headers={"Authorization": ""})
        others = await raw(client).get("/v1/vector_stores", headers={"Authorization": ""})

    assert (answer.status_code, others.status_code) == (status, 401)


@pytest.mark.parametrize(
    ("key", "status"), [({"role": "admin"}, 200), ({"role": "admin", "tenant": "acme"}, 403), ({"role": "read"}, 403)]
)
async def test_the_metrics_are_not_for_a_tenants_key(http: httpx.AsyncClient, key: dict[str, str], status: int) -> None:
    made = (await http.post("/v1/keys", json={"name": "prometheus", **key})).json()["value"]

    assert (await http.get("/metrics", headers={"Authorization": f"Bearer {made}"})).status_code == status


async def test_a_worker_answers_probes_and_counts_files_and_jobs(
    openai: AsyncOpenAI, settings: dict[str, Any], tmp_path: Path
) -> None:
    good = await openai.files.create(file=("a.txt", b"text"), purpose="assistants")
    bad = await openai.files.create(file=("a.pdf", b"%PDF-1.7 and nothing else"), purpose="assistants")
    port = free_port()
    environment = {
        "DATABASE_URL": settings["database_url"],
        "EMBEDDING__BASE_URL": settings["embedding"]["base_url"],
        "FILES_DIR": str(settings["files_dir"]),
        "WORKER_PORT": str(port),
    }

    async with (
        worker_process(environment, tmp_path) as worker,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        store = await openai.vector_stores.create()
        await openai.vector_stores.file_batches.create_and_poll(
            store.id, file_ids=[good.id, bad.id], poll_interval_ms=100
        )
        probes = [(await http.get(path)).status_code for path in ("/health", "/ready")]
        counted = await until_counted(http, labelled("quiver_jobs_total", task="ingest_file", outcome="succeeded"), 2)
        worker.send_signal(signal.SIGTERM)
        status = await asyncio.wait_for(worker.wait(), 30)

    assert (probes, status) == ([200, 200], 0)
    assert counted[labelled("quiver_files_ingested_total", outcome="completed")] == 1
    assert counted[labelled("quiver_files_ingested_total", outcome="failed")] == 1
    assert counted[labelled("quiver_chunks_ingested_total")] == 1
    assert counted[labelled("quiver_job_stage_seconds_count", task="ingest_file", stage="embed")] == 1


async def until_counted(http: httpx.AsyncClient, sample: Any, value: float) -> dict[Any, float]:
    async with asyncio.timeout(30):
        while (counted := await numbers(http)).get(sample, 0) < value:  # noqa: ASYNC110  # the worker counts
            await asyncio.sleep(0.05)
    return counted


async def test_the_logs_of_the_processes_are_json_and_have_neither_keys_nor_texts(
    settings: dict[str, Any], embedder: FakeEmbedder, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{(port := free_port())}"
    environment = {
        "DATABASE_URL": settings["database_url"],
        "SERVER_API_KEY": KEY,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "EMBEDDING__API_KEY": "sk-of-the-proxy",
        "FILES_DIR": str(settings["files_dir"]),
        "PORT": str(port),
        "LOG_LEVEL": "debug",
    }
    command = [sys.executable, "-m", "api.cli", "api"]
    with running(command, env=environment, health=f"{address}/health", log=tmp_path / "api.log"):
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
            key = (await client.post("/keys", body={"name": "a", "role": "write"}, cast_to=httpx.Response)).json()
            store = await use_everything(client.with_options(api_key=key["value"]))
        async with worker_process(environment, tmp_path), asyncio.timeout(30):
            while (tmp_path / "worker.log").read_text().count("file_ingested") < 1:  # noqa: ASYNC110  # it works
                await asyncio.sleep(0.05)

    log = (tmp_path / "api.log").read_text() + (tmp_path / "worker.log").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    search = next(line for line in lines if line.get("path", "").endswith("/search"))
    assert {"request_id", "method", "status", "milliseconds", "timestamp", "level"} <= search.keys()
    assert (search["vector_store_id"], search["api_key_id"]) == (store, key["id"])
    assert min(search["embed_milliseconds"], search["sql_milliseconds"]) > 0
    assert [secret for secret in (KEY, key["value"], "sk-of-the-proxy", "nobody") if secret in log] == []


async def use_everything(client: AsyncOpenAI) -> str:
    """Put texts in that nobody may read, and ask for them, in ways that succeed and that fail."""
    file = await client.files.create(file=("a.txt", b"A text that nobody may read."), purpose="assistants")
    store = (await client.vector_stores.create(file_ids=[file.id])).id
    url = f"/vector_stores/{store}/embeddings"
    await client.post(url, body={"content": "nobody may read it"}, cast_to=object)
    await client.vector_stores.search(store, query="nobody?")
    for body in ({"content": "nobody", "embedding": [1.0]}, {"content": "nobody", "colour": "nobody"}):
        with pytest.raises(BadRequestError):
            await client.post(url, body=body, cast_to=object)
    return store
