"""Vector stores through the official client: OpenAI's shapes, limits and paging."""

import asyncio

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types import VectorStore


async def ids(openai: AsyncOpenAI, **options: object) -> list[str]:
    return [store.id for store in (await openai.vector_stores.list(**options)).data]  # pyright: ignore[reportArgumentType]  # any of its options


@pytest.fixture
async def stores(openai: AsyncOpenAI) -> list[str]:
    """Five stores, oldest first."""
    return [(await openai.vector_stores.create(name=f"store {i}")).id for i in range(5)]


async def test_a_created_store_has_openais_shape(openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create(name="Support FAQ", metadata={"team": "support"})

    assert store.id.startswith("vs_")
    assert store.object == "vector_store"
    assert store.name == "Support FAQ"
    assert store.metadata == {"team": "support"}
    assert store.status == "completed"
    assert store.usage_bytes == 0
    assert store.file_counts.to_dict() == {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}
    assert store.last_active_at is not None and store.created_at <= store.last_active_at
    assert await openai.vector_stores.retrieve(store.id) == store


async def test_a_store_without_a_name_has_an_empty_one(openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create()

    assert store.name == ""


async def test_null_is_as_good_as_absent(http: httpx.AsyncClient) -> None:
    body = dict.fromkeys(["name", "description", "file_ids", "expires_after", "chunking_strategy", "metadata"])

    answer = await http.post("/v1/vector_stores", json=body)

    assert answer.status_code == 200
    assert answer.json()["metadata"] is None


async def test_expiry_is_counted_from_the_last_activity(openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create(expires_after={"anchor": "last_active_at", "days": 7})

    assert store.expires_after is not None and store.expires_after.days == 7
    assert store.last_active_at is not None
    assert store.expires_at == store.last_active_at + 7 * 86400


async def test_modifying_changes_what_is_named_and_keeps_the_rest(openai: AsyncOpenAI) -> None:
    store = await openai.vector_stores.create(
        name="old", metadata={"a": "1"}, expires_after={"anchor": "last_active_at", "days": 1}
    )

    renamed = await openai.vector_stores.update(store.id, name="new")
    cleared = await openai.vector_stores.update(store.id, expires_after=None, metadata=None)

    assert (renamed.name, renamed.metadata) == ("new", {"a": "1"})
    assert renamed.expires_after is not None
    assert (cleared.name, cleared.metadata, cleared.expires_after, cleared.expires_at) == ("new", None, None, None)


async def test_a_deleted_store_is_gone_with_its_chunks(openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    store = await openai.vector_stores.create()
    await http.post(f"/v1/vector_stores/{store.id}/embeddings", json={"content": "hello"})

    deleted = await openai.vector_stores.delete(store.id)

    assert deleted.to_dict() == {"id": store.id, "object": "vector_store.deleted", "deleted": True}
    with pytest.raises(NotFoundError, match=f"No vector store found with id '{store.id}'"):
        await openai.vector_stores.retrieve(store.id)
    with pytest.raises(NotFoundError):
        await openai.vector_stores.delete(store.id)


async def test_stores_are_listed_newest_first(openai: AsyncOpenAI, stores: list[str]) -> None:
    page = await openai.vector_stores.list(limit=3)

    assert [store.id for store in page.data] == stores[::-1][:3]
    assert page.has_more


async def test_a_list_can_run_the_other_way(openai: AsyncOpenAI, stores: list[str]) -> None:
    assert await ids(openai, order="asc") == stores


async def test_the_clients_own_paging_finds_every_store_once(openai: AsyncOpenAI, stores: list[str]) -> None:
    seen = [store.id async for store in openai.vector_stores.list(limit=2)]

    assert seen == stores[::-1]


async def test_a_page_before_a_store_ends_just_before_it(openai: AsyncOpenAI, stores: list[str]) -> None:
    assert await ids(openai, order="asc", before=stores[3], limit=2) == stores[1:3]
    assert await ids(openai, order="desc", before=stores[1], limit=2) == [stores[3], stores[2]]
    assert await ids(openai, order="asc", after=stores[0], before=stores[4]) == stores[1:4]


async def test_has_more_is_exact_at_the_end(openai: AsyncOpenAI, stores: list[str]) -> None:
    last = await openai.vector_stores.list(limit=2, order="asc", after=stores[2])

    assert [store.id for store in last.data] == stores[3:]
    assert not last.has_more


async def test_paging_survives_others_creating_and_deleting(openai: AsyncOpenAI, stores: list[str]) -> None:
    first = await openai.vector_stores.list(limit=2, order="asc")
    await openai.vector_stores.delete(stores[1])  # the cursor itself
    created = await openai.vector_stores.create()

    rest = await ids(openai, order="asc", after=first.data[-1].id)

    assert rest == [*stores[2:], created.id]


async def test_stores_made_at_once_are_all_paged_through(openai: AsyncOpenAI) -> None:
    made: list[VectorStore] = await asyncio.gather(*[openai.vector_stores.create() for _ in range(30)])

    seen = [store.id async for store in openai.vector_stores.list(limit=7, order="asc")]

    assert len(seen) == 30
    assert set(seen) == {store.id for store in made}


async def test_an_empty_list_has_null_ends(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/vector_stores")

    assert answer.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_an_unknown_cursor_is_refused(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="'nonsense'"):
        await openai.vector_stores.list(after="nonsense")


async def test_a_store_remembers_the_configured_model(http: httpx.AsyncClient) -> None:
    store = (await http.post("/v1/vector_stores", json={})).json()

    assert (store["embedding_model"], store["embedding_dimension"]) == ("all-minilm-l6-v2", None)


@pytest.mark.parametrize(
    "body",
    [
        {"embedding_model": "other", "embedding_dimension": 3},
        {"metadata": {"embedding_model": "other", "embedding_dimension": "3"}},
        {"embedding_model": "other", "embedding_dimension": 3, "metadata": {"embedding_dimension": "5"}},
    ],
)
async def test_a_store_can_name_its_model_and_dimension(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    store = (await http.post("/v1/vector_stores", json=body)).json()

    assert (store["embedding_model"], store["embedding_dimension"]) == ("other", 3)


@pytest.mark.parametrize("path", ["/v1/vector_stores", "/vector_stores", "/v1/v1/vector_stores"])
async def test_routes_answer_wherever_litellm_looks_for_them(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 200
