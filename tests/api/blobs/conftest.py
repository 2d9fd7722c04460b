"""A directory and a bucket, each of its own for every test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.s3 import S3, running_s3


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running_s3(tmp_path_factory.mktemp("s3")) as s3:
        yield s3


@pytest.fixture
def s3(running: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """S3 where the environment says it is, with nothing to fail."""
    running.failures.clear()
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.endpoint)
    return running


@pytest.fixture
def bucket(s3: S3) -> str:
    name = f"bucket-{uuid4().hex}"
    s3.make_bucket(name)
    return name


@pytest.fixture
def bucket_url(bucket: str) -> str:
    return f"s3://{bucket}/a/prefix"


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "blobs")
