"""Files through the official client, and forms and ranges as no client sends them."""

import asyncio
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types import FileObject

from api.blobs import READ_BYTES, WRITE_BYTES
from api.resources import Resources
from api.services import files
from tests.conftest import KEY, Serve, make_settings, raw
from tests.lambda_environments import not_on_lambda
from tests.servers import Server
from tests.working import opened

FILES = "/v1/files"
BOUNDARY = "a-boundary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
SECONDS = 10


def part(head: str, content: str = "") -> str:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n"


PURPOSE = part('name="purpose"', "assistants")
FILE = part('name="file"; filename="a.txt"', "hello")
END = f"--{BOUNDARY}--\r\n"


@pytest.fixture
def blobs(settings: dict[str, Any]) -> Path:
    return settings["files_dir"]


async def upload(openai: AsyncOpenAI, name: str = "a.txt", content: bytes = b"hello") -> FileObject:
    return await openai.files.create(file=(name, content), purpose="assistants")


def kept(blobs: Path) -> list[str]:
    """The names of all files in the blob directory."""
    return sorted(path.name for path in blobs.rglob("*") if path.is_file())


def find(blobs: Path, name: str) -> Path:
    [path] = blobs.rglob(name)
    return path


async def expire(database: str, file: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE files SET expires_at = now() WHERE id = %s", (file,))


async def test_an_uploaded_file_has_openais_shape(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    file = await openai.files.create(file=("policies.md", b"# Returns"), purpose="assistants")

    answer = (await http.get(f"{FILES}/{file.id}")).json()
    assert re.fullmatch(r"file-[0-9a-f]{24}", file.id)
    assert abs(answer.pop("created_at") - time.time()) < SECONDS
    assert answer == {
        "id": file.id,
        "object": "file",
        "bytes": 9,
        "filename": "policies.md",
        "purpose": "assistants",
        "status": "processed",
    }
    assert await openai.files.retrieve(file.id) == file


async def test_a_file_comes_back_as_it_was_sent(openai: AsyncOpenAI) -> None:
    content = os.urandom(2 * WRITE_BYTES + 12_345) + b"\r\n--a-boundary\r\n\r\n--"

    file = await upload(openai, "random.bin", content)

    assert file.bytes == len(content)
    assert (await openai.files.content(file.id)).read() == content


async def test_an_empty_file_is_a_file(openai: AsyncOpenAI) -> None:
    file = await upload(openai, "empty.txt", b"")

    assert file.bytes == 0
    assert (await openai.files.content(file.id)).read() == b""


async def test_a_file_is_processed_at_once(openai: AsyncOpenAI) -> None:
    file = await upload(openai)

    assert (await openai.files.wait_for_processing(file.id)).status == "processed"


def test_the_synchronous_client_works_too(server: Server) -> None:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=KEY, max_retries=0) as client:
        file = client.files.create(file=("a.txt", b"hello"), purpose="user_data")

        assert client.files.content(file.id).text == "hello"
        assert [found.id for found in client.files.list()] == [file.id]
        assert client.files.wait_for_processing(file.id).status == "processed"
        assert client.files.delete(file.id).deleted


async def test_a_deleted_file_is_gone_with_its_bytes(openai: AsyncOpenAI, blobs: Path) -> None:
    file = await upload(openai)

    deleted = await openai.files.delete(file.id)

    assert deleted.to_dict() == {"id": file.id, "object": "file", "deleted": True}
    assert kept(blobs) == []
    with pytest.raises(NotFoundError, match=f"No such File object: {file.id}"):
        await openai.files.retrieve(file.id)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/file-1"), ("DELETE", "/file-1"), ("GET", "/file-1/content"), ("GET", "/..%2F..%2Fx")]
)
async def test_a_file_that_is_not_there_is_not_found(http: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, FILES + path)

    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_file_expires_after_the_seconds_it_was_given(openai: AsyncOpenAI) -> None:
    file = await openai.files.create(
        file=b"hello", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )

    assert file.expires_at == file.created_at + 3600


async def test_a_batch_file_expires_after_thirty_days(openai: AsyncOpenAI) -> None:
    file = await openai.files.create(file=b"{}", purpose="batch")

    assert file.expires_at == file.created_at + 30 * 86400


async def test_an_expired_file_is_not_found(openai: AsyncOpenAI, http: httpx.AsyncClient, database: str) -> None:
    file = await upload(openai)
    await expire(database, file.id)

    answers = [
        await http.get(f"{FILES}/{file.id}"),
        await http.get(f"{FILES}/{file.id}/content"),
        await http.delete(f"{FILES}/{file.id}"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert (await openai.files.list()).data == []


async def test_files_are_listed_newest_first_and_paged_by_the_client(openai: AsyncOpenAI) -> None:
    made = [(await upload(openai, f"{i}.txt")).id for i in range(5)]

    page = await openai.files.list(limit=3)

    assert [file.id for file in page.data] == made[::-1][:3]
    assert page.has_more
    assert [file.id async for file in openai.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in openai.files.list(limit=2, order="asc")] == made


async def test_a_list_can_be_of_one_purpose(openai: AsyncOpenAI) -> None:
    await upload(openai)
    vision = await openai.files.create(file=b"\x89PNG", purpose="vision")

    assert [file.id for file in (await openai.files.list(purpose="vision")).data] == [vision.id]
    assert (await openai.files.list(purpose="evals")).data == []


async def test_paging_survives_that_the_cursor_is_deleted(openai: AsyncOpenAI) -> None:
    made = [(await upload(openai)).id for _ in range(3)]
    await openai.files.delete(made[1])

    assert [file.id for file in (await openai.files.list(order="asc", after=made[1])).data] == made[2:]


async def test_an_unknown_cursor_is_refused(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="'nonsense'"):
        await openai.files.list(after="nonsense")


@pytest.mark.parametrize(("limit", "status"), [(0, 400), (1, 200), (10_000, 200), (10_001, 400)])
async def test_a_list_has_up_to_ten_thousand_files(http: httpx.AsyncClient, limit: int, status: int) -> None:
    assert (await http.get(FILES, params={"limit": limit})).status_code == status


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("Résumé 履歴書 👩‍💻.pdf", "Résumé 履歴書 👩‍💻.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\notes.txt", "notes.txt"),
        ("line\nbreak\x00.txt", "linebreak.txt"),
        ("..", "file"),
        ("dir/", "file"),
        ("a" * 300 + ".md", "a" * 252 + ".md"),
        ("a" * 300, "a" * 255),
    ],
)
def test_a_filename_is_shown_without_paths_and_control_characters(sent: str, shown: str) -> None:
    assert files.display_name(sent) == shown


async def test_a_name_in_any_script_survives_upload_and_download(openai: AsyncOpenAI) -> None:
    file = await upload(openai, "../履歴書 “1”;=.md")

    disposition = (await openai.files.content(file.id)).response.headers["content-disposition"]

    assert file.filename == "履歴書 “1”;=.md"
    assert disposition == ("attachment; filename*=UTF-8''%E5%B1%A5%E6%AD%B4%E6%9B%B8%20%E2%80%9C1%E2%80%9D%3B%3D.md")


async def test_a_name_that_is_not_utf8_is_latin1(http: httpx.AsyncClient) -> None:
    body = PURPOSE + part('name="file"; filename="caf\xe9.txt"', "x") + END

    answer = await http.post(FILES, content=body.encode("latin-1"), headers=FORM)

    assert answer.json()["filename"] == "café.txt"


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.txt", "text/plain"),
        ("a.html", "text/html"),
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
async def test_a_download_says_what_it_is_and_is_never_shown(openai: AsyncOpenAI, name: str, media_type: str) -> None:
    file = await upload(openai, name)

    headers = (await openai.files.content(file.id)).response.headers

    assert headers["content-type"] == media_type
    assert headers["content-disposition"] == f'attachment; filename="{name}"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["accept-ranges"] == "bytes"
    assert headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("asked", "content", "content_range"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=2-5", b"2345", "bytes 2-5/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=7-99", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
    ],
)
async def test_a_range_is_answered_with_just_that(
    openai: AsyncOpenAI, http: httpx.AsyncClient, asked: str, content: bytes, content_range: str
) -> None:
    file = await upload(openai, content=b"0123456789")

    answer = await http.get(f"{FILES}/{file.id}/content", headers={"Range": asked})

    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
async def test_a_range_behind_the_end_is_refused(openai: AsyncOpenAI, http: httpx.AsyncClient, asked: str) -> None:
    file = await upload(openai, content=b"0123456789")

    answer = await http.get(f"{FILES}/{file.id}/content", headers={"Range": asked})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=5-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "lines=0-1"},
        {"Range": f"bytes={'9' * 5000}-"},
        {"Range": "bytes=0-1", "If-Range": '"something"'},
    ],
)
async def test_a_range_that_makes_no_sense_is_ignored(
    openai: AsyncOpenAI, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    file = await upload(openai, content=b"0123456789")

    answer = await http.get(f"{FILES}/{file.id}/content", headers=headers)

    assert (answer.status_code, answer.content) == (200, b"0123456789")


async def test_a_range_far_into_a_large_file_is_right(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    content = os.urandom(3 * READ_BYTES)
    file = await upload(openai, content=content)
    first, last = READ_BYTES - 7, 2 * READ_BYTES + 5

    answer = await http.get(f"{FILES}/{file.id}/content", headers={"Range": f"bytes={first}-{last}"})

    assert answer.content == content[first : last + 1]


BAD_FORMS = {
    "no file": (PURPOSE + END, "file", "missing_required_parameter"),
    "no purpose": (FILE + END, "purpose", "missing_required_parameter"),
    "nothing": (END, "purpose", "missing_required_parameter"),
    "other purpose": (FILE + part('name="purpose"', "poetry") + END, "purpose", "invalid_value"),
    "unknown field": (FILE + PURPOSE + part('name="colour"', "red") + END, "colour", "unknown_parameter"),
    "file that is none": (PURPOSE + part('name="file"', "a.txt") + END, "file", "invalid_value"),
    "two files": (PURPOSE + FILE + FILE + END, "file", "invalid_value"),
    "two purposes": (PURPOSE + FILE + PURPOSE + END, "purpose", "invalid_value"),
    "no seconds": (
        PURPOSE + FILE + part('name="expires_after[anchor]"', "created_at") + END,
        "expires_after.seconds",
        "missing_required_parameter",
    ),
    "too few seconds": (
        PURPOSE
        + FILE
        + part('name="expires_after[anchor]"', "created_at")
        + part('name="expires_after[seconds]"', "3599")
        + END,
        "expires_after.seconds",
        "integer_below_min_value",
    ),
    "flat and nested": (
        PURPOSE + part('name="expires_after"', "1") + part('name="expires_after[seconds]"', "3600") + FILE + END,
        "expires_after",
        "invalid_value",
    ),
    "long field": (FILE + part('name="purpose"', "p" * 5000) + END, "purpose", "invalid_value"),
    "many fields": (FILE + "".join(part(f'name="f{i}"') for i in range(21)) + END, None, "invalid_value"),
    "cut off": (PURPOSE + FILE[:-4], None, "invalid_form"),
    "without its end": (PURPOSE + FILE, None, "invalid_form"),
    "no name": (PURPOSE + FILE + part('filename="b.txt"') + END, None, "invalid_form"),
    "no form": ("hello", None, "invalid_form"),
    "empty": ("", None, "invalid_form"),
}


@pytest.mark.parametrize(("body", "param", "code"), BAD_FORMS.values(), ids=BAD_FORMS.keys())
async def test_a_bad_form_is_refused_and_leaves_nothing(
    http: httpx.AsyncClient, blobs: Path, body: str, param: str | None, code: str
) -> None:
    answer = await http.post(FILES, content=body, headers=FORM)

    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert kept(blobs) == []
    assert (await http.get(FILES)).json()["data"] == []


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=a"])
async def test_what_is_no_form_is_refused(http: httpx.AsyncClient, content_type: str) -> None:
    answer = await http.post(FILES, content=PURPOSE + FILE + END, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_content_type")


@not_on_lambda
async def test_fields_may_come_in_any_order_and_in_any_pieces(http: httpx.AsyncClient) -> None:
    body = (FILE + PURPOSE + END).encode()

    async def byte_by_byte() -> AsyncIterator[bytes]:
        for i in range(len(body)):
            yield body[i : i + 1]

    answer = await http.post(FILES, content=byte_by_byte(), headers=FORM)

    assert (answer.status_code, answer.json()["bytes"], answer.json()["filename"]) == (200, 5, "a.txt")


async def test_a_file_of_just_the_limit_is_taken(serve: Serve, settings: dict[str, Any], blobs: Path) -> None:
    async with serve(**settings | {"max_file_bytes": 5}) as client:
        assert (await upload(client, content=b"12345")).bytes == 5
        with pytest.raises(APIStatusError, match="5 bytes of MAX_FILE_BYTES") as refused:
            await upload(client, content=b"123456")

    assert refused.value.status_code == 413
    assert len(kept(blobs)) == 1


async def test_what_is_too_large_for_an_answer_is_read_in_ranges(serve: Serve, settings: dict[str, Any]) -> None:
    async with serve(**settings | {"max_answer_bytes": 3}) as openai:
        file = await upload(openai, content=b"hello")

        with pytest.raises(APIStatusError, match="ask for it in ranges") as refusal:
            await openai.files.content(file.id)
        part = await openai.files.content(file.id, extra_headers={"Range": "bytes=0-2"})

    assert (refusal.value.status_code, refusal.value.code) == (413, "answer_too_large")
    assert part.read() == b"hel"


@not_on_lambda
async def test_an_upload_that_says_it_is_too_large_is_not_read(serve: Serve, settings: dict[str, Any]) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with serve(**settings | {"max_file_bytes": 5}) as client:
        answer = await raw(client).post(FILES, content=unread(), headers=FORM | {"Content-Length": "1000000"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_client_that_goes_away_leaves_nothing(server: Server, blobs: Path) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST {FILES} HTTP/1.1\r\nHost: quiver\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 90000000\r\n"
    writer.write(f"{head}Content-Type: {FORM['Content-Type']}\r\n\r\n{PURPOSE}{FILE[:-2]}".encode())
    writer.write(os.urandom(2 * WRITE_BYTES))
    await writer.drain()
    await until(lambda: kept(blobs) != [])

    writer.close()

    await until(lambda: kept(blobs) == [])
    async with httpx.AsyncClient(base_url=server.base_url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        assert (await http.get(FILES)).json()["data"] == []


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_bytes_without_a_row_are_swept_after_an_hour(
    openai: AsyncOpenAI, settings: dict[str, Any], blobs: Path
) -> None:
    file = await upload(openai)
    async with opened(settings) as resources:
        for key in ("file-orphan", "file-young", "file-draft"):
            await resources.blobs.write(key, aiter_of(b"x"))
        (blobs / "ft" / "file-draft").rename(blobs / "ft" / "file-draft.draft")
        for name in (file.id, "file-orphan", "file-draft.draft"):
            os.utime(find(blobs, name), (0, time.time() - files.SWEEP_AFTER_SECONDS - 1))

        assert await files.sweep_blobs(resources) == 2

    assert kept(blobs) == sorted([file.id, "file-young"])


async def aiter_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_sweep_of_nothing_finds_nothing(settings: dict[str, Any]) -> None:
    async with opened(settings) as resources:
        assert await files.sweep_blobs(resources) == 0


async def test_without_its_row_an_upload_fails_and_its_bytes_wait_for_the_sweep(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str, blobs: Path
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("ALTER TABLE files ADD CONSTRAINT none CHECK (false)")

    answer = await http.post(FILES, content=PURPOSE + FILE + END, headers=FORM)

    assert answer.status_code == 500
    assert len(kept(blobs)) == 1
    assert (await openai.files.list()).data == []


async def test_a_file_whose_bytes_are_lost_says_so(openai: AsyncOpenAI, http: httpx.AsyncClient, blobs: Path) -> None:
    file = await upload(openai)
    find(blobs, file.id).unlink()

    answer = await http.get(f"{FILES}/{file.id}/content")

    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "content_missing")


async def test_bytes_are_for_the_owner_only(openai: AsyncOpenAI, blobs: Path) -> None:
    file = await upload(openai)

    path = blobs / file.id[-2:] / file.id

    assert [stat.S_IMODE(found.stat().st_mode) for found in (blobs, path.parent, path)] == [0o700, 0o700, 0o600]


async def test_a_key_cannot_lead_out_of_the_directory(settings: dict[str, Any]) -> None:
    async with opened(settings) as resources:
        for key in ("../x", "a/b", "", "..", ".hidden", "a.draft"):
            with pytest.raises(ValueError, match="no key of a blob"):
                await resources.blobs.size(key)


async def test_expired_files_are_swept_with_their_bytes(
    openai: AsyncOpenAI, settings: dict[str, Any], database: str
) -> None:
    kept, expired = [await openai.files.create(file=("a.txt", b"text"), purpose="assistants") for _ in range(2)]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE files SET expires_at = now() WHERE id = %s", (expired.id,))
    resources = Resources.of(make_settings(**settings))
    await resources.database.open()

    swept = await files.sweep_expired(resources)

    assert swept == [expired.id]
    assert await resources.blobs.size(expired.id) is None
    assert await resources.blobs.size(kept.id) == 4
    await resources.close()
