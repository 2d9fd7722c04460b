"""The API's own description holds: whatever is sent, no answer is a failure of ours or one that is not described."""
# Schemathesis leaves the parameters of its types open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUntypedFunctionDecorator=false

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as examples
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance

from api.app import create_app
from api.up.embedded_postgres import EmbeddedPostgres
from tests.conftest import KEY, make_settings, new_database
from tests.fake_embedder import FakeEmbedder
from tests.servers import Server

description = schemathesis.openapi.from_dict(
    create_app(make_settings(database_url="postgresql://nowhere/none", server_api_key=KEY)).openapi()
)
Case = schemathesis.Case[Any]
EXCLUDED: list[Any] = [
    positive_data_acceptance,  # a schema cannot say that fields exclude each other, nor that a key was used before
    allow_header_conformance,  # `/embeddings/batch` can be read as well: there may be a chunk with the id `batch`
]
# What PostgreSQL or UTF-8 cannot hold, ways out of a path, and far too much.
JUNK = ["%00", "a%00b", "%ff", "%ed%a0%80", "%0a", "..%2f..%2fetc", "%25", "-1", "9" * 400, "a" * 5000]
bounded = examples(
    max_examples=6,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    async with new_database(postgres, template) as url:
        yield url


@pytest.fixture(scope="module")
async def call(
    database: str, shared_embedder: FakeEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Any]]:
    """How to call the application, which runs behind a real socket."""
    shared_embedder.reset()
    settings = make_settings(
        database_url=database,
        server_api_key=KEY,
        embedding={"base_url": shared_embedder.base_url},
        files_dir=tmp_path_factory.mktemp("blobs"),
    )
    server = Server(create_app(settings))
    server.start()
    yield {"base_url": server.base_url, "headers": {"Authorization": f"Bearer {KEY}"}}
    server.stop()


@pytest.fixture
def machine(call: dict[str, Any], database: str) -> type[APIStateMachine]:
    """Walks through the API with the ids that it finds in answers, from an empty database each time."""

    class Machine(description.as_state_machine()):
        def setup(self) -> None:
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("TRUNCATE vector_stores, files, uploads, idempotency_keys, api_keys, table_syncs")

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return call

        def validate_response(self, response: Any, case: Case, *_: Any, **__: Any) -> None:
            case.validate_response(response, excluded_checks=EXCLUDED, transport_kwargs=call)

    return Machine


@pytest.fixture
def existing(call: dict[str, Any], database: str) -> dict[str, str]:
    """The ids of a store, of one of everything in it, and of a sync of a table."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS articles (id int PRIMARY KEY, body text)")
    with httpx.Client(base_url=f"{call['base_url']}/v1", headers=call["headers"]) as http:
        store = http.post("/vector_stores", json={}).json()["id"]
        form = {"file": ("a.txt", b"text"), "purpose": (None, b"assistants")}
        file = http.post("/files", files=form).json()["id"]
        batch = http.post(f"/vector_stores/{store}/file_batches", json={"file_ids": [file]}).json()["id"]
        chunk = http.post(f"/vector_stores/{store}/embeddings", json={"content": "text"}).json()["id"]
        announced = {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}
        upload = http.post("/uploads", json=announced).json()["id"]
        key = http.post("/keys", json={"name": "a", "role": "read"}).json()["id"]
        sync = http.post("/table_syncs", json={"table": "articles", "text_columns": ["body"]}).json()["id"]
    return {
        "vector_store_id": store,
        "file_id": file,
        "batch_id": batch,
        "embedding_id": chunk,
        "upload_id": upload,
        "key_id": key,
        "table_sync_id": sync,
    }


def requests_with(junk: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation with junk for its ids, and once more with junk for each of its query's fields."""
    for path, operations in description.raw_schema["paths"].items():
        for method, operation in operations.items():
            url = re.sub(r"{\w+}", junk, path)
            parameters = operation.get("parameters", [])
            queries = [f"?{parameter['name']}={junk}" for parameter in parameters if parameter["in"] == "query"]
            yield from ((method, url + query, operation["responses"]) for query in ("", *queries))


def aimed(case: Case, existing: dict[str, str]) -> Case:
    """The case with ids that exist instead of zeros, which stand there when it is about something else."""
    for name, value in case.path_parameters.items():
        case.path_parameters[name] = existing[name] if value == "0" else value
    return case


@description.parametrize()
@bounded
def test_every_answer_is_described(case: Case, call: dict[str, Any], existing: dict[str, str]) -> None:
    aimed(case, existing).call_and_validate(**call, excluded_checks=EXCLUDED)


def test_every_answer_to_requests_that_follow_each_other_is_described(machine: type[APIStateMachine]) -> None:
    machine.run(settings=examples(bounded, max_examples=15, stateful_step_count=6))


@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_a_url_gets_an_answer_that_is_described(call: dict[str, Any], junk: str) -> None:
    with httpx.Client(base_url=call["base_url"], headers=call["headers"]) as http:
        answers = [(http.request(method, url), described) for method, url, described in requests_with(junk)]

    unexpected = [answer.url for answer, described in answers if str(answer.status_code) not in described]
    assert unexpected == []
    assert {answer.status_code for answer, _ in answers} <= {200, 400, 404}


def test_every_failure_that_is_described_has_the_envelope() -> None:
    failures = [
        response["content"]["application/json"]["schema"]
        for path, operations in description.raw_schema["paths"].items()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400 and path != "/ready"
    ]

    assert len(failures) > 100
    assert all(schema == {"$ref": "#/components/schemas/Envelope"} for schema in failures)
