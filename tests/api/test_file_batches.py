"""File batches: many files put into a store at once, counted, listed and cancelled together."""

import asyncio
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.working import work_off


@pytest.fixture
async def store(openai: AsyncOpenAI) -> str:
    return (await openai.vector_stores.create()).id


async def upload(openai: AsyncOpenAI, count: int) -> list[str]:
    async def one(number: int) -> str:
        content = f"Text number {number}.".encode()
        return (await openai.files.create(file=(f"{number}.txt", content), purpose="assistants")).id

    return [await one(number) for number in range(count)]


async def test_a_batch_counts_its_files_until_all_are_done(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any]
) -> None:
    files = await upload(openai, 5)
    batch = await openai.vector_stores.file_batches.create(store, file_ids=files)
    await work_off(settings)
    done = await openai.vector_stores.file_batches.retrieve(batch.id, vector_store_id=store)

    listed = [file.id async for file in openai.vector_stores.file_batches.list_files(batch.id, vector_store_id=store)]

    assert (batch.status, batch.file_counts.in_progress, batch.file_counts.total) == ("in_progress", 5, 5)
    assert (done.status, done.file_counts.completed, done.file_counts.total) == ("completed", 5, 5)
    assert sorted(listed) == sorted(files)


async def test_a_batch_takes_two_thousand_files(openai: AsyncOpenAI, http: httpx.AsyncClient, store: str) -> None:
    file = (await upload(openai, 1))[0]
    names = [f"file-{number}" for number in range(2001)]
    full = await http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": [file] * 2000})
    fuller = await http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": names})

    assert (full.status_code, full.json()["file_counts"]["total"]) == (200, 1)
    assert (fuller.status_code, fuller.json()["error"]["code"]) == (400, "array_above_max_length")


async def test_each_file_of_a_batch_may_have_attributes_and_a_strategy_of_its_own(
    openai: AsyncOpenAI, http: httpx.AsyncClient, store: str, settings: dict[str, Any]
) -> None:
    first, second = await upload(openai, 2)
    static = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 100}}
    named = [{"file_id": first, "attributes": {"n": 1}}, {"file_id": second, "chunking_strategy": static}]
    body = {"files": named, "attributes": {"n": 3}}
    await http.post(f"/v1/vector_stores/{store}/file_batches", json=body)
    await work_off(settings)

    one = await openai.vector_stores.files.retrieve(first, vector_store_id=store)
    two = (await http.get(f"/v1/vector_stores/{store}/files/{second}")).json()

    assert (one.attributes, two["attributes"], two["chunking_strategy"]) == ({"n": 1}, None, static)


async def test_the_attributes_of_file_ids_are_everyones(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any]
) -> None:
    files = await upload(openai, 2)
    await openai.vector_stores.file_batches.create(store, file_ids=files, attributes={"shelf": "a"})
    await work_off(settings)

    found = await openai.vector_stores.search(store, query="text", filters={"type": "eq", "key": "shelf", "value": "a"})

    assert sorted(result.file_id for result in found.data) == sorted(files)


@pytest.mark.parametrize(
    "body", [{}, {"file_ids": []}, {"files": []}, {"file_ids": ["a"], "files": [{"file_id": "b"}]}]
)
async def test_a_batch_names_its_files_in_one_way(http: httpx.AsyncClient, store: str, body: dict[str, Any]) -> None:
    assert (await http.post(f"/v1/vector_stores/{store}/file_batches", json=body)).status_code == 400


async def test_a_batch_with_an_unknown_file_puts_none_in(
    openai: AsyncOpenAI, http: httpx.AsyncClient, store: str
) -> None:
    files = await upload(openai, 2)
    answer = await http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": [*files, "file-nope"]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "file_ids")
    assert (await openai.vector_stores.files.list(store)).data == []


async def test_a_cancelled_batch_stops_what_has_not_been_done(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any]
) -> None:
    done = await upload(openai, 2)
    first = await openai.vector_stores.file_batches.create(store, file_ids=done)
    await work_off(settings)
    batch = await openai.vector_stores.file_batches.create(store, file_ids=await upload(openai, 3))
    cancelled = await openai.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    await work_off(settings)

    after = await openai.vector_stores.retrieve(store)
    same = await openai.vector_stores.file_batches.cancel(first.id, vector_store_id=store)

    assert (cancelled.status, cancelled.file_counts.cancelled) == ("cancelled", 3)
    assert (after.status, after.file_counts.completed, after.file_counts.cancelled) == ("completed", 2, 3)
    assert (same.status, same.file_counts.completed) == ("completed", 2)
    assert len((await openai.vector_stores.search(store, query="text")).data) == 2


async def test_a_cancelled_file_may_be_put_in_again(openai: AsyncOpenAI, store: str, settings: dict[str, Any]) -> None:
    files = await upload(openai, 2)
    batch = await openai.vector_stores.file_batches.create(store, file_ids=files)
    await openai.vector_stores.file_batches.cancel(batch.id, vector_store_id=store)
    again = await openai.vector_stores.file_batches.create(store, file_ids=files)
    await work_off(settings)

    done = await openai.vector_stores.file_batches.retrieve(again.id, vector_store_id=store)

    assert (done.status, done.file_counts.completed) == ("completed", 2)
    assert (await openai.vector_stores.retrieve(store)).file_counts.total == 2


async def test_a_batch_belongs_to_its_store(openai: AsyncOpenAI, http: httpx.AsyncClient, store: str) -> None:
    batch = await openai.vector_stores.file_batches.create(store, file_ids=await upload(openai, 1))
    other = (await openai.vector_stores.create()).id
    paths = [f"/v1/vector_stores/{other}/file_batches/{batch.id}", "/v1/vector_stores/vs_nope/file_batches/vsfb_1"]

    answers = [
        *[await http.get(path) for path in paths],
        *[await http.get(f"{path}/files") for path in paths],
        *[await http.post(f"{path}/cancel") for path in paths],
    ]

    assert [answer.status_code for answer in answers] == [404] * 6


async def test_a_batch_is_uploaded_and_polled_until_it_is_done(
    openai: AsyncOpenAI, store: str, settings: dict[str, Any]
) -> None:
    files = [(f"{number}.md", f"# Part {number}\n\nText.".encode()) for number in range(6)]
    polling = asyncio.create_task(openai.vector_stores.file_batches.upload_and_poll(store, files=files))
    async with asyncio.timeout(30):
        while not polling.done():
            await work_off(settings)

    assert (polling.result().status, polling.result().file_counts.completed) == ("completed", 6)
