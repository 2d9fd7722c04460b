"""Files in vector stores: put in, listed, changed, read back, taken out; and the counts that go with them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from api.services import expiry, files
from tests.conftest import Serve
from tests.fake_embedder import FakeEmbedder
from tests.working import opened, work_off

Upload = Callable[..., Awaitable[str]]
STATIC_100 = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}


@pytest.fixture
def upload(openai: AsyncOpenAI) -> Upload:
    async def upload(text: str = "Quivers hold arrows.", name: str = "a.txt") -> str:
        return (await openai.files.create(file=(name, text.encode()), purpose="assistants")).id

    return upload


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


async def counts(openai: AsyncOpenAI, store: str) -> tuple[int, int, int, int, int]:
    """in_progress, completed, failed, cancelled, total"""
    found = (await openai.vector_stores.retrieve(store)).file_counts
    return found.in_progress, found.completed, found.failed, found.cancelled, found.total


async def test_a_file_waits_is_ingested_and_is_found(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload("Arrows are kept in a quiver.", "archery.md")
    attached = await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    before = await counts(openai, store)
    await work_off(settings)

    found = await openai.vector_stores.search(store, query="arrows quiver")
    ingested = await openai.vector_stores.files.retrieve(file, vector_store_id=store)

    assert (attached.status, attached.usage_bytes, attached.last_error) == ("in_progress", 0, None)
    assert (ingested.status, ingested.usage_bytes) == ("completed", len("Arrows are kept in a quiver."))
    assert (before, await counts(openai, store)) == ((1, 0, 0, 0, 1), (0, 1, 0, 0, 1))
    assert [(result.file_id, result.filename) for result in found.data] == [(file, "archery.md")]


async def test_a_store_with_a_waiting_file_is_in_progress(openai: AsyncOpenAI, upload: Upload, store: str) -> None:
    await openai.vector_stores.files.create(vector_store_id=store, file_id=await upload())

    assert (await openai.vector_stores.retrieve(store)).status == "in_progress"


async def test_the_automatic_chunking_strategy_is_reported_as_its_numbers(
    http: httpx.AsyncClient, upload: Upload, store: str
) -> None:
    path = f"/v1/vector_stores/{store}/files"
    auto = await http.post(path, json={"file_id": await upload(), "chunking_strategy": {"type": "auto"}})
    static = await http.post(path, json={"file_id": await upload(), "chunking_strategy": STATIC_100})

    assert auto.json()["chunking_strategy"]["static"] == {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400}
    assert static.json()["chunking_strategy"] == STATIC_100


async def test_a_waiting_answer_says_when_to_ask_again(
    openai: AsyncOpenAI, http: httpx.AsyncClient, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    attached = await http.post(f"/v1/vector_stores/{store}/files", json={"file_id": file})
    await work_off(settings)
    done = await http.get(f"/v1/vector_stores/{store}/files/{file}")

    assert int(attached.headers["openai-poll-after-ms"]) > 0
    assert "openai-poll-after-ms" not in done.headers


async def test_the_polling_helpers_come_to_an_end(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    polling = asyncio.create_task(openai.vector_stores.files.create_and_poll(file, vector_store_id=store))
    uploading = asyncio.create_task(
        openai.vector_stores.files.upload_and_poll(vector_store_id=store, file=("b.txt", b"Another text."))
    )
    async with asyncio.timeout(30):
        while not (polling.done() and uploading.done()):
            await work_off(settings)

    assert (polling.result().status, uploading.result().status) == ("completed", "completed")


async def test_content_gives_the_chunks_back_in_order(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    words = [f"word{number}" for number in range(2000)]
    file = await upload(" ".join(words))
    strategy: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file, chunking_strategy=strategy)
    await work_off(settings)

    content = await openai.vector_stores.files.content(file, vector_store_id=store)

    assert len(content.data) > 20
    assert " ".join(part.text or "" for part in content.data).split() == words


async def test_a_long_content_comes_in_pages(
    openai: AsyncOpenAI, http: httpx.AsyncClient, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    words = [f"w{number}" for number in range(40_000)]
    file = await upload(" ".join(words))
    strategy: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file, chunking_strategy=strategy)
    await work_off(settings)

    first = (await http.get(f"/v1/vector_stores/{store}/files/{file}/content")).json()
    second = (await http.get(f"/v1/vector_stores/{store}/files/{file}/content?page={first['next_page']}")).json()

    assert (first["has_more"], second["has_more"], second["next_page"]) == (True, False, None)
    assert " ".join(part["text"] for part in first["data"] + second["data"]).split() == words


async def test_attributes_reach_every_chunk_and_an_update_is_seen_at_once(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload("arrow " * 400)
    attributes: dict[str, str | float | bool] = {"year": 2024, "lang": "en"}
    await openai.vector_stores.files.create(
        vector_store_id=store,
        file_id=file,
        attributes=attributes,
        chunking_strategy=STATIC_100,  # pyright: ignore[reportArgumentType]  # a dict of the right shape
    )
    await work_off(settings)
    old: Any = {"type": "eq", "key": "year", "value": 2024}
    new: Any = {"type": "eq", "key": "year", "value": 2025}
    before = await openai.vector_stores.search(store, query="arrow", filters=old)
    updated = await openai.vector_stores.files.update(file, vector_store_id=store, attributes={"year": 2025})
    after = await openai.vector_stores.search(store, query="arrow", filters=new)

    assert len(before.data) == len(after.data) > 3
    assert updated.attributes == {"year": 2025} == after.data[0].attributes
    assert (await openai.vector_stores.search(store, query="arrow", filters=old)).data == []


async def test_attributes_that_are_changed_while_the_file_waits_are_those_of_its_chunks(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file, attributes={"version": 1})
    await openai.vector_stores.files.update(file, vector_store_id=store, attributes={"version": 2})
    await work_off(settings)

    assert (await openai.vector_stores.search(store, query="arrows")).data[0].attributes == {"version": 2}


async def test_a_file_is_taken_out_with_its_chunks_and_stays_a_file(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file, other = await upload("Arrows fly."), await upload("Bows bend.")
    for id in (file, other):
        await openai.vector_stores.files.create(vector_store_id=store, file_id=id)
    await work_off(settings)
    deleted = await openai.vector_stores.files.delete(file, vector_store_id=store)

    found = await openai.vector_stores.search(store, query="arrows")
    after = await openai.vector_stores.retrieve(store)

    assert (deleted.id, deleted.object, deleted.deleted) == (file, "vector_store.file.deleted", True)
    assert [result.file_id for result in found.data] == [other]
    assert (after.file_counts.completed, after.file_counts.total, after.usage_bytes) == (1, 1, len("Bows bend."))
    assert (await openai.files.retrieve(file)).id == file
    with pytest.raises(NotFoundError):
        await openai.vector_stores.files.retrieve(file, vector_store_id=store)


async def test_a_deleted_file_leaves_every_store(openai: AsyncOpenAI, upload: Upload, settings: dict[str, Any]) -> None:
    file = await upload()
    stores = [(await openai.vector_stores.create(file_ids=[file, await upload("More.")])).id for _ in range(3)]
    await work_off(settings)
    await openai.files.delete(file)

    for store in stores:
        assert await counts(openai, store) == (0, 1, 0, 0, 1)
        assert (await openai.vector_stores.retrieve(store)).usage_bytes == len("More.")
        assert file not in [result.file_id for result in (await openai.vector_stores.search(store, query="a")).data]


async def test_a_store_may_be_created_with_files(openai: AsyncOpenAI, upload: Upload, settings: dict[str, Any]) -> None:
    files = [await upload(f"Text {number}.") for number in range(3)]
    strategy: Any = STATIC_100
    created = await openai.vector_stores.create(file_ids=files, chunking_strategy=strategy)
    await work_off(settings)

    page = await openai.vector_stores.files.list(created.id, order="asc")

    assert (created.status, created.file_counts.in_progress) == ("in_progress", 3)
    assert sorted(file.id for file in page.data) == sorted(files)
    assert {file.status for file in page.data} == {"completed"}


async def test_a_store_with_an_unknown_file_is_not_created(openai: AsyncOpenAI, upload: Upload) -> None:
    with pytest.raises(NotFoundError, match="No such File object: file-nope"):
        await openai.vector_stores.create(file_ids=[await upload(), "file-nope"])

    assert (await openai.vector_stores.list()).data == []


async def test_to_attach_a_file_twice_is_to_attach_it_once(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any], embedder: FakeEmbedder
) -> None:
    file = await upload()
    first = await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    again = await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)
    after = await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)

    assert first == again
    assert after.status == "completed"
    assert (await counts(openai, store), embedder.texts) == ((0, 1, 0, 0, 1), ["Quivers hold arrows."])


async def test_a_file_may_be_cut_in_another_way_and_is_found_meanwhile(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    strategy: Any = STATIC_100
    file = await upload("arrow " * 400)
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)
    usage = (await openai.vector_stores.retrieve(store)).usage_bytes
    again = await openai.vector_stores.files.create(vector_store_id=store, file_id=file, chunking_strategy=strategy)
    meanwhile = await openai.vector_stores.search(store, query="arrow")
    await work_off(settings)

    cut = await openai.vector_stores.retrieve(store)

    assert (again.status, len(meanwhile.data)) == ("in_progress", 1)
    assert len((await openai.vector_stores.search(store, query="arrow")).data) > 3
    assert (cut.file_counts.completed, cut.file_counts.total) == (1, 1)
    assert cut.usage_bytes > usage  # neighbours overlap


async def test_files_are_listed_by_status_and_in_pages(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    done = [await upload(f"Text {number}.") for number in range(5)]
    for file in done:
        await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)
    waiting = await upload("Late.")
    await openai.vector_stores.files.create(vector_store_id=store, file_id=waiting)

    ascending = [file.id async for file in openai.vector_stores.files.list(store, order="asc", limit=2)]
    completed = [file.id async for file in openai.vector_stores.files.list(store, filter="completed", limit=2)]
    in_progress = await openai.vector_stores.files.list(store, filter="in_progress")

    assert ascending == [*done, waiting]
    assert completed == done[::-1]
    assert [file.id for file in in_progress.data] == [waiting]


async def test_a_loop_over_the_files_may_take_them_out(openai: AsyncOpenAI, upload: Upload, store: str) -> None:
    for number in range(7):
        await openai.vector_stores.files.create(vector_store_id=store, file_id=await upload(f"Text {number}."))

    async for file in openai.vector_stores.files.list(store, limit=2):
        await openai.vector_stores.files.delete(file.id, vector_store_id=store)

    assert await counts(openai, store) == (0, 0, 0, 0, 0)


async def test_what_is_not_there_is_named(
    openai: AsyncOpenAI, http: httpx.AsyncClient, upload: Upload, store: str
) -> None:
    file = await upload()
    missing = [
        await http.post(f"/v1/vector_stores/{store}/files", json={"file_id": "file-nope"}),
        await http.get(f"/v1/vector_stores/{store}/files/{file}"),
        await http.post(f"/v1/vector_stores/{store}/files/{file}", json={"attributes": {}}),
        await http.delete(f"/v1/vector_stores/{store}/files/{file}"),
        await http.get(f"/v1/vector_stores/{store}/files/{file}/content"),
    ]
    no_store = [
        await http.post("/v1/vector_stores/vs_nope/files", json={"file_id": file}),
        await http.get("/v1/vector_stores/vs_nope/files"),
        await http.get(f"/v1/vector_stores/vs_nope/files/{file}"),
    ]

    assert [answer.status_code for answer in (*missing, *no_store)] == [404] * 8
    assert {answer.json()["error"]["param"] for answer in missing} == {"file_id"}
    assert {answer.json()["error"]["param"] for answer in no_store} == {"vector_store_id"}


async def test_a_chunk_of_a_file_is_not_deleted_by_itself(
    openai: AsyncOpenAI, http: httpx.AsyncClient, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)
    chunk = (await http.get(f"/v1/vector_stores/{store}/embeddings")).json()["data"][0]
    refused = await http.delete(f"/v1/vector_stores/{store}/embeddings/{chunk['id']}")

    assert refused.status_code == 400
    assert file in refused.json()["error"]["message"]
    assert len((await openai.vector_stores.files.content(file, vector_store_id=store)).data) == 1


async def test_an_expired_store_takes_no_files(
    openai: AsyncOpenAI, http: httpx.AsyncClient, upload: Upload, database: str
) -> None:
    store = await openai.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1})
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vector_stores SET expires_at = now() - interval '1 second'")

    answer = await http.post(f"/v1/vector_stores/{store.id}/files", json={"file_id": await upload()})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "vector_store_expired")


async def test_what_an_expired_store_held_is_swept_and_its_files_stay(
    openai: AsyncOpenAI, upload: Upload, database: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    store = await openai.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 1}, file_ids=[file])
    await work_off(settings)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE vector_stores SET expires_at = now() - interval '1 second'")
        async with opened(settings) as resources:
            await expiry.sweep(resources)
        chunks = await (await connection.execute("SELECT FROM embeddings")).fetchall()

    assert chunks == []
    assert (await openai.vector_stores.files.list(store.id)).data == []
    assert (await openai.vector_stores.retrieve(store.id)).file_counts.total == 0
    assert (await openai.files.retrieve(file)).bytes > 0


async def test_an_expired_file_leaves_its_stores(
    openai: AsyncOpenAI, upload: Upload, store: str, database: str, settings: dict[str, Any]
) -> None:
    file = await upload()
    await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
    await work_off(settings)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("UPDATE files SET expires_at = now() - interval '1 second'")
    async with opened(settings) as resources:
        swept = await files.sweep_expired(resources)

    assert swept == [file]
    assert await counts(openai, store) == (0, 0, 0, 0, 0)
    assert (await openai.vector_stores.search(store, query="arrows")).data == []


async def test_a_table_that_cannot_tell_files_apart_takes_none(
    database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("ALTER TABLE embeddings DROP COLUMN chunk_index")

    async with serve(**settings) as openai:
        file = await openai.files.create(file=("a.txt", b"Text."), purpose="assistants")
        with pytest.raises(BadRequestError, match="chunk_index"):
            await openai.vector_stores.create(file_ids=[file.id])


async def test_counts_hold_while_everything_happens_at_once(
    openai: AsyncOpenAI, upload: Upload, store: str, settings: dict[str, Any]
) -> None:
    files = [await upload(f"Text number {number}.") for number in range(24)]
    await openai.vector_stores.file_batches.create(store, file_ids=files[:16])

    async def change() -> None:
        for file in files[:4]:
            await openai.vector_stores.files.delete(file, vector_store_id=store)
        for file in files[16:]:
            await openai.vector_stores.files.create(vector_store_id=store, file_id=file)
        for file in files[4:8]:
            await openai.files.delete(file)

    await asyncio.gather(work_off(settings), work_off(settings), change())
    await work_off(settings)
    listed = [file async for file in openai.vector_stores.files.list(store)]
    found = await openai.vector_stores.retrieve(store)

    assert sorted(file.id for file in listed) == sorted(files[8:])
    assert await counts(openai, store) == (0, 16, 0, 0, 16)
    assert found.usage_bytes == sum(file.usage_bytes for file in listed) > 0
