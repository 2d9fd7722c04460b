"""A file that is sent again is the same by its content, not by how the form was put on the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.api.idempotency.keyed_requests import KEYED, SECONDS, code, is_replayed, query
from tests.conftest import KEY
from tests.servers import Server

FILES = "/v1/files"


def form(boundary: str, content: bytes) -> bytes:
    start = f"--{boundary}\r\nContent-Disposition: form-data; "
    purpose = f'{start}name="purpose"\r\n\r\nassistants\r\n'
    file = f'{start}name="file"; filename="a.txt"\r\n\r\n'
    return (purpose + file).encode() + content + f"\r\n--{boundary}--\r\n".encode()


async def send_form(http: httpx.AsyncClient, content: bytes, *, boundary: str, piece_bytes: int) -> httpx.Response:
    """Upload a file in pieces of some size."""
    body = form(boundary, content)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), piece_bytes):
            yield body[start : start + piece_bytes]

    kind = f"multipart/form-data; boundary={boundary}"
    return await http.post(FILES, content=pieces(), headers=KEYED | {"Content-Type": kind})


@pytest.mark.parametrize("piece_bytes", [1, 7, 100_000])
@pytest.mark.parametrize("boundary", ["----form-3-----", "7MA4YWxkTrZu0gW"])
async def test_an_upload_is_the_same_in_other_pieces_and_with_another_boundary(
    http: httpx.AsyncClient, boundary: str, piece_bytes: int
) -> None:
    content = b"--7MA4YWxkTrZu0g--\r\n----form-3---\r\n" * 3
    first = await send_form(http, content, boundary="----form-3-----4-----form", piece_bytes=50)

    second = await send_form(http, content, boundary=boundary, piece_bytes=piece_bytes)

    assert first.status_code == 200
    assert (second.content, is_replayed(second)) == (first.content, True)
    assert len((await http.get(FILES)).json()["data"]) == 1


@pytest.mark.parametrize("content", [b"hellO", b"hell", b"hello" * 100_000])
async def test_another_file_with_a_used_key_is_refused(http: httpx.AsyncClient, content: bytes) -> None:
    await send_form(http, b"hello", boundary="one", piece_bytes=1000)

    answer = await send_form(http, content, boundary="two", piece_bytes=1000)

    assert code(answer) == (400, "idempotency_key_reused")
    assert len((await http.get(FILES)).json()["data"]) == 1


async def test_an_upload_that_broke_off_can_be_sent_again(server: Server, settings: dict[str, Any]) -> None:
    body = form("one", b"hello" * 1000)
    head = (
        f"POST {FILES} HTTP/1.1\r\nHost: quiver\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: order-66\r\n"
        f"Content-Type: multipart/form-data; boundary=one\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode() + body[:2000])
    await until_claimed(settings["database_url"])
    writer.close()

    async with httpx.AsyncClient(base_url=server.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        answer = await until_not_under_way(http, b"hello" * 1000)

    assert (answer.status_code, answer.json()["bytes"]) == (200, 5000)


async def until_claimed(database: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not await query(database, "SELECT FROM idempotency_keys"):  # noqa: ASYNC110  # nobody would tell
            await asyncio.sleep(0.01)


async def until_not_under_way(http: httpx.AsyncClient, content: bytes) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        answer = await send_form(http, content, boundary="two", piece_bytes=1000)
        while answer.status_code == 409:
            await asyncio.sleep(0.01)
            answer = await send_form(http, content, boundary="two", piece_bytes=1000)
    return answer
