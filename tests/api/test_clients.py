"""OpenAI's own client, sync and async, calls every method that it has for what Quiver serves."""

import functools
import hashlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import pytest
from openai import AsyncOpenAI, BaseModel, OpenAI
from openai._resource import AsyncAPIResource, SyncAPIResource

from api.app import create_app
from api.up.embedded_postgres import EmbeddedPostgres
from tests.conftest import KEY, make_settings, new_database
from tests.fake_embedder import FakeEmbedder
from tests.openai_contract import verify, verify_sync
from tests.servers import Server
from tests.working import worker_process

T = TypeVar("T")
Client = OpenAI | AsyncOpenAI
Story = Callable[..., Coroutine[Any, Any, None]]

RESOURCES = ("vector_stores", "files", "uploads")
NOT_OURS = {"files.retrieve_content"}  # deprecated by the client; it is `files.content` with another type
POLL_MS = 50

driven: set[str] = set()


def drives(*methods: str) -> Callable[[Story], Story]:
    """Names the methods that a test calls, and has it fail if it does not."""
    driven.update(methods)

    def decorate(story: Story) -> Story:
        @functools.wraps(story)
        async def run(*, client: Client, **fixtures: Any) -> None:
            called: set[str] = set()
            await story(client=cast("Client", Recorder(client, called)), **fixtures)
            assert set(methods) - called == set()

        return run

    return decorate


def is_resource(value: object) -> bool:
    return isinstance(value, SyncAPIResource | AsyncAPIResource)


class Recorder:
    """A client, or a part of one, that notes what is asked of it."""

    def __init__(self, target: Any, called: set[str], path: str = "") -> None:
        self._target = target
        self._called = called
        self._path = path

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        path = f"{self._path}{name}"
        self._called.add(path)
        return Recorder(value, self._called, f"{path}.") if is_resource(value) else value


def methods_of(resource: object, path: str) -> set[str]:
    """All public methods of a resource of the client and of the resources in it."""
    found: set[str] = set()
    for name in dir(type(resource)):
        if name.startswith("_"):
            continue
        if inspect.isfunction(inspect.getattr_static(type(resource), name)):
            found.add(f"{path}.{name}")
        elif is_resource(part := getattr(resource, name)):
            found |= methods_of(part, f"{path}.{name}")
    return found


async def done(answer: T | Awaitable[T]) -> T:
    """The sync client has its answer already."""
    return await cast("Awaitable[T]", answer) if inspect.isawaitable(answer) else cast("T", answer)


async def listed(page: Any) -> list[Any]:
    """All items, on as many pages as there are."""
    return [item async for item in page] if hasattr(page, "__aiter__") else list(page)


@pytest.fixture(scope="module")
async def base_url(
    postgres: EmbeddedPostgres, template: str, shared_embedder: FakeEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The application behind a real socket, and a worker."""
    shared_embedder.reset()
    directory = tmp_path_factory.mktemp("clients")
    async with new_database(postgres, template) as database:
        settings = make_settings(
            database_url=database,
            server_api_key=KEY,
            embedding={"base_url": shared_embedder.base_url},
            files_dir=directory / "blobs",
        )
        environment = {
            "DATABASE_URL": database,
            "EMBEDDING__BASE_URL": shared_embedder.base_url,
            "FILES_DIR": str(directory / "blobs"),
        }
        server = Server(create_app(settings))
        server.start()
        async with worker_process(environment, directory):
            yield f"{server.base_url}/v1"
        server.stop()


@pytest.fixture(params=["sync", "async"])
async def client(request: pytest.FixtureRequest, base_url: str) -> AsyncIterator[Client]:
    sync_http = httpx.Client(event_hooks={"response": [verify_sync]})
    async_http = httpx.AsyncClient(event_hooks={"response": [verify]})
    with OpenAI(base_url=base_url, api_key=KEY, http_client=sync_http, max_retries=0) as sync_client:
        async with AsyncOpenAI(base_url=base_url, api_key=KEY, http_client=async_http, max_retries=0) as async_client:
            yield {"sync": sync_client, "async": async_client}[request.param]


@pytest.fixture
async def store(client: Client) -> str:
    return (await done(client.vector_stores.create(name="of a test"))).id


async def uploaded(client: Client, name: str = "a.md", text: str = "Bread is baked at dawn.") -> str:
    return (await done(client.files.create(file=(name, text.encode()), purpose="assistants"))).id


@pytest.mark.parametrize("client_class", [OpenAI, AsyncOpenAI])
async def test_every_method_of_the_client_is_called_by_a_test(client_class: type[Client]) -> None:
    client = client_class(api_key=KEY)
    methods = set[str]().union(*(methods_of(getattr(client, name), name) for name in RESOURCES))

    assert methods - driven == NOT_OURS
    assert driven - methods == set()


@drives(
    "vector_stores.create", "vector_stores.retrieve", "vector_stores.update", "vector_stores.list",
    "vector_stores.delete",
)  # fmt: skip
async def test_a_store_is_made_changed_listed_and_deleted(client: Client) -> None:
    stores = client.vector_stores
    names = ["one", "two", "three"]
    made = [await done(stores.create(name=name, metadata={"shelf": "a"}, description="A shelf")) for name in names]
    changed = await done(stores.update(made[0].id, name="first", expires_after={"anchor": "last_active_at", "days": 7}))
    found = await done(stores.retrieve(made[0].id))
    after = await listed(stores.list(after=made[0].id, order="asc", limit=1))
    before = await done(stores.list(before=made[0].id, order="desc", limit=2))
    deleted = await done(stores.delete(made[2].id))

    assert found == changed
    assert (found.name, found.metadata, found.expires_at is not None) == ("first", {"shelf": "a"}, True)
    assert [store.name for store in after] == ["two", "three"]
    assert [store.name for store in before.data] == ["three", "two"]
    assert (deleted.id, deleted.deleted) == (made[2].id, True)


@drives("vector_stores.search", "vector_stores.files.create_and_poll", "vector_stores.files.content")
async def test_a_store_is_searched_and_its_files_are_read(client: Client, store: str) -> None:
    for name, text, year in (("bread.md", "Bread is baked at dawn.", 2024), ("tea.md", "Tea is drunk at five.", 2025)):
        file = await uploaded(client, name, text)
        await done(
            client.vector_stores.files.create_and_poll(
                file, vector_store_id=store, attributes={"year": year}, poll_interval_ms=POLL_MS
            )
        )
    found = await listed(
        client.vector_stores.search(
            store,
            query=["when is bread baked", "tea"],
            filters={"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2025}]},
            max_num_results=5,
            ranking_options={"ranker": "auto", "score_threshold": 0.1},
            rewrite_query=False,
        )
    )
    content = await listed(client.vector_stores.files.content(file, vector_store_id=store))

    assert [(result.filename, result.attributes) for result in found] == [("tea.md", {"year": 2025})]
    assert [part.text for part in content] == ["Tea is drunk at five."]


@drives(
    "vector_stores.files.create", "vector_stores.files.poll", "vector_stores.files.retrieve",
    "vector_stores.files.update", "vector_stores.files.list", "vector_stores.files.delete",
)  # fmt: skip
async def test_files_of_a_store_are_polled_changed_listed_and_taken_out(client: Client, store: str) -> None:
    files = client.vector_stores.files
    ids = [await uploaded(client, f"{number}.txt") for number in range(3)]
    static = {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}
    for id in ids:
        await done(files.create(store, file_id=id, chunking_strategy={"type": "static", "static": static}))  # pyright: ignore[reportArgumentType]
    polled = [await done(files.poll(id, vector_store_id=store, poll_interval_ms=POLL_MS)) for id in ids]
    changed = await done(files.update(ids[0], vector_store_id=store, attributes={"shelf": "b", "read": True}))
    after = await listed(files.list(store, filter="completed", order="asc", after=ids[0], limit=1))
    before = await done(files.list(store, filter="completed", order="asc", before=ids[2]))
    failed = await done(files.list(store, filter="failed"))
    deleted = await done(files.delete(ids[1], vector_store_id=store))

    assert [file.status for file in polled] == ["completed"] * 3
    assert await done(files.retrieve(ids[0], vector_store_id=store)) == changed
    assert changed.attributes == {"shelf": "b", "read": True}
    assert ([file.id for file in after], [file.id for file in before.data], failed.data) == (ids[1:], ids[:2], [])
    assert (deleted.id, deleted.deleted) == (ids[1], True)


@drives("vector_stores.files.upload", "vector_stores.files.upload_and_poll")
async def test_a_file_is_uploaded_into_a_store(client: Client, store: str, tmp_path: Path) -> None:
    path = tmp_path / "bread.md"
    path.write_text("# Bread\n\nIt is baked at dawn.")
    files = client.vector_stores.files
    first = await done(files.upload(vector_store_id=store, file=path))
    second = await done(
        files.upload_and_poll(vector_store_id=store, file=path, attributes={"n": 2}, poll_interval_ms=POLL_MS)
    )
    unreadable = await done(files.upload_and_poll(vector_store_id=store, file=("a.pdf", b"%PDF-1.7 no more")))

    assert first.vector_store_id == store
    assert (second.status, second.attributes) == ("completed", {"n": 2})
    assert (unreadable.status, unreadable.last_error and unreadable.last_error.code) == ("failed", "invalid_file")


@drives(
    "vector_stores.file_batches.create", "vector_stores.file_batches.retrieve", "vector_stores.file_batches.poll",
    "vector_stores.file_batches.list_files", "vector_stores.file_batches.create_and_poll",
)  # fmt: skip
async def test_a_batch_is_polled_and_its_files_are_listed(client: Client, store: str) -> None:
    batches = client.vector_stores.file_batches
    ids = [await uploaded(client, f"{number}.txt") for number in range(3)]
    each = await done(batches.create(store, files=[{"file_id": id, "attributes": {"n": 1}} for id in ids[:2]]))
    polled = await done(batches.poll(each.id, vector_store_id=store, poll_interval_ms=POLL_MS))
    same = await done(batches.retrieve(each.id, vector_store_id=store))
    files = await listed(batches.list_files(each.id, vector_store_id=store, filter="completed", order="asc", limit=1))
    after = await done(batches.list_files(each.id, vector_store_id=store, order="desc", after=ids[1]))
    before = await done(batches.list_files(each.id, vector_store_id=store, order="desc", before=ids[0]))
    all_at_once = await done(batches.create_and_poll(store, file_ids=ids, poll_interval_ms=POLL_MS))

    assert same == polled
    assert (polled.status, polled.file_counts.completed) == ("completed", 2)
    assert [(file.id, file.attributes) for file in files] == [(id, {"n": 1}) for id in ids[:2]]
    assert [file.id for file in (*after.data, *before.data)] == ids[:2]
    assert (all_at_once.status, all_at_once.file_counts.total) == ("completed", 3)


@drives("vector_stores.file_batches.upload_and_poll", "vector_stores.file_batches.cancel")
async def test_a_batch_is_uploaded_and_one_is_cancelled(client: Client, store: str) -> None:
    batches = client.vector_stores.file_batches
    already = await uploaded(client)
    files = [(f"{number}.txt", b"Tea is drunk at five.") for number in range(5)]
    done_batch = await done(batches.upload_and_poll(store, files=files, file_ids=[already], poll_interval_ms=POLL_MS))
    cancelled = await done(batches.cancel(done_batch.id, vector_store_id=store))

    assert (done_batch.status, done_batch.file_counts.completed) == ("completed", 6)
    assert cancelled == done_batch


@drives("files.create", "files.list", "files.content", "files.delete", "files.wait_for_processing")
async def test_a_file_is_uploaded_listed_downloaded_and_deleted(client: Client) -> None:
    files = client.files
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    made = [
        await done(files.create(file=(f"{number}.txt", b"text"), purpose="user_data", expires_after=expiry))
        for number in range(2)
    ]
    processed = await done(files.wait_for_processing(made[0].id))
    content = await done(files.content(made[0].id))
    all_files = await listed(files.list(purpose="user_data", order="desc", limit=1))
    after = await done(files.list(purpose="user_data", order="desc", after=made[1].id, limit=1))
    deleted = [await done(files.delete(file.id)) for file in made]

    assert (processed.status, processed.expires_at) == ("processed", made[0].created_at + 3600)
    assert content.read() == b"text"
    assert [file.id for file in all_files] == [made[1].id, made[0].id]
    assert after.data == [made[0]]
    assert all(answer.deleted for answer in deleted)


@drives("files.retrieve")
async def test_a_file_is_retrieved_as_it_was_made(client: Client) -> None:
    made = await done(client.files.create(file=b"text", purpose="assistants"))

    assert await done(client.files.retrieve(made.id)) == made


@drives("uploads.create", "uploads.parts.create", "uploads.complete", "uploads.cancel")
async def test_an_upload_is_completed_out_of_its_parts_or_cancelled(client: Client) -> None:
    uploads = client.uploads
    halves = [b"Bread is baked ", b"at dawn."]
    whole = b"".join(halves)
    announced: Any = {"filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants", "bytes": len(whole)}
    upload, other = await done(uploads.create(**announced)), await done(uploads.create(**announced))
    parts = [await done(uploads.parts.create(upload.id, data=half)) for half in halves]
    md5 = hashlib.md5(whole, usedforsecurity=False).hexdigest()
    completed = await done(uploads.complete(upload.id, part_ids=[part.id for part in parts], md5=md5))
    cancelled = await done(uploads.cancel(other.id))

    assert completed.file is not None
    assert (await done(client.files.content(completed.file.id))).read() == whole
    assert (upload.status, completed.status, cancelled.status) == ("pending", "completed", "cancelled")


@drives("uploads.upload_file_chunked")
async def test_a_large_file_is_uploaded_in_parts(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"Bread is baked at dawn. " * 10_000)
    upload = await done(
        client.uploads.upload_file_chunked(file=path, mime_type="text/plain", purpose="assistants", part_size=100_000)
    )

    assert upload.file is not None
    assert (upload.file.filename, upload.file.bytes) == ("large.txt", 240_000)


class Embedding(BaseModel):
    id: str
    content: str
    metadata: dict[str, Any] | None = None


@drives()
async def test_chunks_are_put_in_and_read_by_the_clients_own_verbs(client: Client, store: str) -> None:
    path = f"/vector_stores/{store}/embeddings"
    one = await done(client.post(path, cast_to=Embedding, body={"content": "Bread", "metadata": {"n": 1}}))
    many = await done(client.post(f"{path}/batch", cast_to=object, body={"embeddings": [{"content": "Tea"}]}))
    read = await done(client.get(f"{path}/{one.id}", cast_to=Embedding))
    every = cast("dict[str, Any]", await done(client.get(path, cast_to=object)))
    deleted = cast("dict[str, Any]", await done(client.delete(f"{path}/{one.id}", cast_to=object)))

    assert read == one
    assert cast("dict[str, Any]", many)["object"] == "embedding.batch"
    assert [chunk["content"] for chunk in every["data"]] == ["Tea", "Bread"]
    assert deleted["deleted"] is True
