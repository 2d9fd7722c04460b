"""A stand-in for S3: moto as a process of its own, behind an edge at which single requests can be made to fail."""

import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.processes import free_port, running
from tests.servers import Server

PAGE_KEYS = 5  # in one answer, where S3 itself has a thousand
METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]
OF_THE_CONNECTION = {"connection", "transfer-encoding", "server", "date"}


@dataclass
class Failure:
    request: str  # a regular expression that the method and the address fit
    status: int
    code: str
    times: int


class S3:
    """What is asked goes on to moto, but for `failures`; buckets are looked into without our own code."""

    def __init__(self, moto: str) -> None:
        self.moto = moto
        self.failures: list[Failure] = []
        self._client = httpx.Client(base_url=moto)
        self._server = Server(Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)]))
        self._server.start()

    @property
    def endpoint(self) -> str:
        return self._server.base_url

    def fail(self, request: str, *, status: int, code: str, times: int = 1) -> None:
        self.failures.append(Failure(request, status, code, times))

    def make_bucket(self, name: str) -> None:
        self._client.put(f"/{name}").raise_for_status()

    def keys(self, bucket: str) -> list[str]:
        return re.findall("<Key>(.*?)</Key>", self._client.get(f"/{bucket}?list-type=2&max-keys=1000").text)

    def unfinished(self, bucket: str) -> list[str]:
        """The keys of uploads in parts that are neither completed nor aborted."""
        return re.findall("<Key>(.*?)</Key>", self._client.get(f"/{bucket}?uploads").text)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self._client.put(f"/{bucket}/{key}", content=content).raise_for_status()

    def stop(self) -> None:
        self._server.stop()
        self._client.close()

    async def _answer(self, request: Request) -> Response:
        path = f"{request.url.path}?{request.url.query}"
        content = await request.body()
        for failure in self.failures:
            if failure.times > 0 and re.search(failure.request, f"{request.method} {path}"):
                failure.times -= 1
                return Response(f"<Error><Code>{failure.code}</Code></Error>", failure.status)
        async with httpx.AsyncClient(base_url=self.moto, timeout=30) as moto:
            answer = await moto.request(request.method, path, content=content, headers=request.headers.raw)
        headers = {name: value for name, value in answer.headers.items() if name not in OF_THE_CONNECTION}
        return Response(answer.content, answer.status_code, headers)


@contextmanager
def running_s3(directory: Path) -> Generator[S3]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, env={"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_KEYS)}, health=address, log=directory / "moto.log"):
        s3 = S3(address)
        yield s3
        s3.stop()
