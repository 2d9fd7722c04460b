"""What Lambda's handlers make of events, in a process of their own as there, and the settings that they come by."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import httpx
import psycopg
import pytest
from openai import NotFoundError
from structlog.testing import capture_logs

from api import aws_secrets, wake
from api.aws_signature import signed_headers
from api.errors import ConfigurationError
from tests.api.synced_tables import ARTICLES, declare, execute
from tests.conftest import KEY, Serve, raw
from tests.fake_embedder import FakeEmbedder
from tests.processes import free_port, running

PROGRAM = """
import json, sys
from api.lambda_handler import handler
class Context:
    aws_request_id = "b5b2c1d4-0000-4000-8000-000000000000"
    def get_remaining_time_in_millis(self): return int(sys.argv[1])
for event in json.load(sys.stdin):
    print(json.dumps(handler(event, Context())))
"""
HEADERS = {"authorization": f"Bearer {KEY}", "host": "example.com"}
REGION = "eu-central-1"
LOCAL_TIME = 100_000


@pytest.fixture
def environment(database: str, embedder: FakeEmbedder, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database,
        "SERVER_API_KEY": KEY,
        "EMBEDDING__BASE_URL": embedder.base_url,
        "FILES_DIR": str(tmp_path / "blobs"),
        "PATH": os.environ["PATH"],
    }


async def invoke(environment: dict[str, str], *events: dict[str, Any], milliseconds: int = LOCAL_TIME) -> list[Any]:
    """The answers of one environment to events, one after the other."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(milliseconds)),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps(events).encode())
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]


def http_api(method: str, path: str, body: bytes | None = None, **headers: str) -> dict[str, Any]:
    """API Gateway's HTTP APIs, and function URLs."""
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"}
    event = {"version": "2.0", "rawPath": path, "rawQueryString": "limit=5", "headers": HEADERS | headers}
    event |= {"requestContext": {"http": http, "stage": "$default"}, "isBase64Encoded": body is not None}
    return event | ({} if body is None else {"body": base64.b64encode(body).decode()})


def rest_api(path: str) -> dict[str, Any]:
    event = {"resource": "/{proxy+}", "path": path, "httpMethod": "GET", "headers": HEADERS, "multiValueHeaders": None}
    event |= {"queryStringParameters": {"limit": "5"}, "multiValueQueryStringParameters": {"limit": ["5"]}}
    return event | {"requestContext": {"identity": {"sourceIp": "127.0.0.1"}}, "body": None, "isBase64Encoded": False}


def load_balancer(path: str) -> dict[str, Any]:
    event = {"requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing"}}, "path": path}
    event |= {"httpMethod": "GET", "queryStringParameters": {"limit": "5"}, "headers": HEADERS}
    return event | {"body": "", "isBase64Encoded": False}


def sqs(*ids: str) -> dict[str, Any]:
    return {"Records": [{"messageId": id, "eventSource": "aws:sqs", "body": "{}"} for id in ids]}


async def test_every_kind_of_request_is_answered_alike(environment: dict[str, str]) -> None:
    path = "/v1/vector_stores"

    answers = await invoke(environment, http_api("GET", path), rest_api(path), load_balancer(path))

    assert [answer["statusCode"] for answer in answers] == [200, 200, 200]
    assert [json.loads(answer["body"])["object"] for answer in answers] == ["list", "list", "list"]
    assert {answer["headers"]["x-request-id"] for answer in answers} == {"b5b2c1d4-0000-4000-8000-000000000000"}


async def test_an_answer_that_lambda_cannot_send_is_refused_with_a_reason(environment: dict[str, str]) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\n'
    form += (
        b'Content-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + bytes(5_000_000) + b"\r\n--b--\r\n"
    )
    upload = http_api("POST", "/v1/files", form, **{"content-type": "multipart/form-data; boundary=b"})
    (created,) = await invoke(environment, upload)
    path = f"/v1/files/{json.loads(created['body'])['id']}/content"

    (refused,) = await invoke(environment, http_api("GET", path))
    (kept_back,) = await invoke(environment | {"MAX_ANSWER_BYTES": "100000000"}, http_api("GET", path))
    (part,) = await invoke(environment, http_api("GET", path, range="bytes=0-3999999"))

    for answer in (refused, kept_back):
        assert (answer["statusCode"], json.loads(answer["body"])["error"]["code"]) == (413, "answer_too_large")
    assert (part["statusCode"], len(base64.b64decode(part["body"]))) == (206, 4_000_000)


async def test_messages_are_taken_once_nothing_is_left(
    environment: dict[str, str], database: str, embedder: FakeEmbedder
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('ingestion', 'ingest_file', "
            '\'{"vector_store_id": "vs_gone", "file_id": "file-gone"}\')'
        )

    (too_late,) = await invoke(environment, sqs("a", "b"), milliseconds=5000)
    (done,) = await invoke(environment, sqs("a", "b"))

    assert too_late == {"left": 1, "batchItemFailures": [{"itemIdentifier": "b"}]}
    assert done == {"left": 0, "batchItemFailures": []}


async def test_an_event_brings_the_tables_up_to_date(environment: dict[str, str], empty_database: str) -> None:
    empty = environment | {"DATABASE_URL": empty_database}

    migrated, again = await invoke(empty, {"migrate": True}, {"migrate": True})
    (answer,) = await invoke(empty, http_api("GET", "/v1/vector_stores"))

    assert migrated["done"][0].endswith("_vector_stores") and again == {"done": []}
    assert answer["statusCode"] == 200


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[str]:
    """Secrets Manager and SQS, as moto has them."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, env={}, health=address, log=tmp_path / "moto.log"):
        yield address


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCESS_KEY_ID": "AKIDEXAMPLE",
        "SECRET_ACCESS_KEY": "secret",
        "SESSION_TOKEN": "token",
        "REGION": REGION,
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


def create_secret(endpoint: str, value: str) -> str:
    body = json.dumps({"Name": "quiver", "SecretString": value}).encode()
    target = "secretsmanager.CreateSecret"
    return call(endpoint, "secretsmanager", target, body)["ARN"]


def call(endpoint: str, service: str, target: str, body: bytes) -> dict[str, Any]:
    now = datetime.now(UTC)
    headers = signed_headers(endpoint, service=service, region=REGION, target=target, body=body, now=now)
    return httpx.post(endpoint, content=body, headers=headers).raise_for_status().json()


async def test_settings_come_out_of_a_secret_unless_the_environment_has_them(
    environment: dict[str, str], aws: str, credentials: None
) -> None:
    secret = {"DATABASE_URL": environment.pop("DATABASE_URL"), "SERVER_API_KEY": "another key that is long"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment |= {"QUIVER_SECRET_ARN": create_secret(aws, json.dumps(secret))}

    (answer,) = await invoke(
        environment | {"AWS_ENDPOINT_URL_SECRETS_MANAGER": aws}, http_api("GET", "/v1/vector_stores")
    )

    assert answer["statusCode"] == 200


@pytest.mark.parametrize("value", ["text", "[]", '{"PORT": 1}'])
def test_a_secret_that_is_no_object_of_texts_is_refused(
    aws: str, credentials: None, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws)

    with pytest.raises(ConfigurationError, match="JSON object of texts"):
        aws_secrets.read(create_secret(aws, value))


def test_a_secret_that_is_not_there_is_told_by_name(
    aws: str, credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws)

    with pytest.raises(ConfigurationError, match="ResourceNotFoundException"):
        aws_secrets.read(f"arn:aws:secretsmanager:{REGION}:123456789012:secret:none")
    with pytest.raises(ConfigurationError, match="QUIVER_SECRET_ARN must be the ARN"):
        aws_secrets.read("quiver")


def test_a_call_is_signed_as_aws_signs_it(credentials: None) -> None:
    endpoint, body, now = f"https://secretsmanager.{REGION}.amazonaws.com", b'{"SecretId": "x"}', datetime.now(UTC)
    target, service = aws_secrets.TARGET, aws_secrets.SERVICE
    ours = signed_headers(endpoint, service=service, region=REGION, target=target, body=body, now=now)
    unsigned = {name: ours[name] for name in ("content-type", "x-amz-target")}
    request: Any = botocore.awsrequest.AWSRequest("POST", f"{endpoint}/", unsigned, body)
    request.context["timestamp"] = ours["x-amz-date"]
    request.headers["X-Amz-Date"] = ours["x-amz-date"]
    request.headers["X-Amz-Security-Token"] = "token"
    keys = botocore.credentials.Credentials("AKIDEXAMPLE", "secret", "token")
    signer: Any = botocore.auth.SigV4Auth(keys, service, REGION)

    theirs = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)

    assert ours["authorization"].endswith(f"Signature={theirs}")


def create_queue(endpoint: str) -> str:
    return call(endpoint, "sqs", "AmazonSQS.CreateQueue", b'{"QueueName": "wake"}')["QueueUrl"]


def count_messages(endpoint: str, queue_url: str) -> int:
    body = json.dumps({"QueueUrl": queue_url, "AttributeNames": ["ApproximateNumberOfMessages"]}).encode()
    return int(call(endpoint, "sqs", "AmazonSQS.GetQueueAttributes", body)["Attributes"]["ApproximateNumberOfMessages"])


async def test_files_and_tables_that_come_in_wake_the_worker(
    aws: str, credentials: None, serve: Serve, settings: dict[str, Any], database: str
) -> None:
    queue_url = create_queue(aws)
    await execute(database, ARTICLES)
    async with serve(**settings, wake_queue_url=queue_url) as client:
        file = (await client.files.create(file=("a.txt", b"text"), purpose="assistants")).id
        store = (await client.vector_stores.create()).id
        with pytest.raises(NotFoundError):
            await client.vector_stores.files.create(store, file_id="file-none")
        before = count_messages(aws, queue_url)
        await client.vector_stores.create(file_ids=[file])
        await client.vector_stores.files.create(store, file_id=file)
        await client.vector_stores.file_batches.create(store, file_ids=[file])
        await declare(raw(client))

    assert (before, count_messages(aws, queue_url)) == (0, 4)


@pytest.mark.parametrize("has_credentials", [True, False])
async def test_a_worker_that_cannot_be_woken_fails_no_request(
    serve: Serve, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, has_credentials: bool
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")[: 2 * has_credentials]:
        monkeypatch.setenv(name, "x")
    async with serve(**settings, wake_queue_url="http://127.0.0.1:9/123456789012/wake") as client:
        file = (await client.files.create(file=("a.txt", b"text"), purpose="assistants")).id
        with capture_logs() as lines:
            store = await client.vector_stores.create(file_ids=[file])

    assert store.file_counts.in_progress == 1
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["wake_failed"]


def test_a_queue_is_called_in_its_region(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-west-2")

    assert wake.region_of("https://sqs.eu-central-1.amazonaws.com/123456789012/wake") == "eu-central-1"
    assert wake.region_of("http://127.0.0.1:5000/123456789012/wake") == "us-west-2"
