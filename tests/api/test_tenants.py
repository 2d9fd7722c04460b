"""Tenants: every route, and every statement, shows and changes what is the caller's own and nothing else."""

import importlib
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import httpx
import pytest

from api import routes, tables
from api.app import create_app
from api.tables.columns import ApiKeys, Files, Uploads, VectorStores
from tests.conftest import KEY, make_settings
from tests.working import work_off

STORE = "/v1/vector_stores/{vector_store_id}"
BATCH = STORE + "/file_batches/{batch_id}"
UPLOAD = "/v1/uploads/{upload_id}"
TEXT = {"file": ("a.txt", b"Bread is baked"), "purpose": (None, b"assistants")}
NEW_UPLOAD = {"filename": "a.txt", "purpose": "assistants", "bytes": 4, "mime_type": "text/plain"}

Role = Literal["read", "write", "admin"]
ROLES = set(get_args(Role))


@dataclass(frozen=True, eq=False)
class Route:
    """What role a route needs, and a request with which its owner has success; `form` in place of JSON."""

    method: str
    path: str
    role: Role
    json: dict[str, Any] | None = None
    form: dict[str, Any] | None = None
    status: int = 200  # with which its owner is answered here

    @property
    def name(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def has_id(self) -> bool:
        return "{" in self.path

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and not self.has_id


# In an order in which one caller can go through all of them: what deletes comes last.
ROUTES = [
    Route("GET", "/v1/vector_stores", "read"),
    Route("POST", "/v1/vector_stores", "write", json={}),
    Route("GET", STORE, "read"),
    Route("POST", STORE, "write", json={"name": "renamed"}),
    Route("GET", STORE + "/index", "read"),
    Route("POST", STORE + "/search", "read", json={"query": "bread"}),
    Route("GET", STORE + "/embeddings", "read"),
    Route("POST", STORE + "/embeddings", "write", json={"content": "text"}),
    Route("POST", STORE + "/embeddings/batch", "write", json={"embeddings": [{"content": "text"}]}),
    Route("GET", STORE + "/embeddings/{embedding_id}", "read"),
    Route("DELETE", STORE + "/embeddings/{embedding_id}", "write"),
    Route("GET", STORE + "/files", "read"),
    Route("POST", STORE + "/files", "write", json={"file_id": "{file_id}"}),
    Route("GET", STORE + "/files/{file_id}", "read"),
    Route("POST", STORE + "/files/{file_id}", "write", json={"attributes": {"a": 1}}),
    Route("GET", STORE + "/files/{file_id}/content", "read"),
    Route("POST", STORE + "/file_batches", "write", json={"file_ids": ["{file_id}"]}),
    Route("GET", BATCH, "read"),
    Route("GET", BATCH + "/files", "read"),
    Route("POST", BATCH + "/cancel", "write"),
    Route("DELETE", STORE + "/files/{file_id}", "write"),
    Route("GET", "/v1/files", "read"),
    Route("POST", "/v1/files", "write", form=TEXT),
    Route("GET", "/v1/files/{file_id}", "read"),
    Route("GET", "/v1/files/{file_id}/content", "read"),
    Route("POST", "/v1/uploads", "write", json=NEW_UPLOAD),
    Route("POST", UPLOAD + "/parts", "write", form={"data": ("data", b"text")}),
    Route("POST", UPLOAD + "/presigned_parts", "write", json={"bytes": 4}, status=400),  # the files are in a directory
    Route("POST", UPLOAD + "/complete", "write", json={"part_ids": ["{part_id}"]}),
    Route("POST", "/v1/uploads/{other_upload_id}/cancel", "write"),
    Route("GET", "/v1/keys", "admin"),
    Route("POST", "/v1/keys", "admin", json={"name": "one more", "role": "read"}),
    Route("DELETE", "/v1/keys/{key_id}", "admin"),
    Route("DELETE", "/v1/files/{file_id}", "write"),
    Route("DELETE", STORE, "write"),
]
# For SERVER_API_KEY alone, whoever asks: see test_table_sync_declarations.
OF_THE_SERVER = {
    ("GET", "/v1/table_syncs"),
    ("POST", "/v1/table_syncs"),
    ("POST", "/v1/table_syncs/from_pgai"),
    ("GET", "/v1/table_syncs/{table_sync_id}"),
    ("DELETE", "/v1/table_syncs/{table_sync_id}"),
}
OF_AN_ID = [route for route in ROUTES if route.has_id]

TENANTS_TABLES = (VectorStores.TABLE, Files.TABLE, Uploads.TABLE, ApiKeys.TABLE)
# Statements without `{visible}`, and why none is needed.
WITHOUT_CONDITION = {
    "api_keys.GET_GRANT": "the key itself says who asks",
    "api_keys.INSERT": "the service decides on the tenant",
    "api_keys.NOTE_USE": "of the caller's own key, before there is a scope",
    "chunks.ADOPT_STORES": "the operator's, by `quiver db migrate`",
    "files.DELETE_EXPIRED": "the worker's",
    "files.INSERT": "takes its tenant from the scope",
    "files.LIST_EXISTING": "the worker's",
    "files.LIST_EXPIRED": "the worker's",
    "lagging_index.LIST_BEHIND": "the worker's",
    "lagging_index.LIST_STORES": "the worker's",
    "table_syncs.LIST_ORPHANED": "the worker's",
    "uploads.FORGET_ENDED": "the worker's",
    "uploads.INSERT": "takes its tenant from the scope",
    "uploads.LIST_PENDING_PARTS": "the worker's",
    "vector_index.LIST": "the worker's",
    "vector_index.LIST_DUE": "the worker's",
    "vector_stores.COUNT": "of one tenant, which the scope names",
    "vector_stores.COUNT_CHUNKS": "the caller holds the store",
    "vector_stores.COUNT_FILES": "the caller holds the store",
    "vector_stores.HOLD_UNSEEN": "for the deletion of a file that the caller sees",
    "vector_stores.INSERT": "takes its tenant from the scope",
    "vector_stores.LIST_EXPIRED": "the worker's",
    "vector_stores.LOCK_EXPIRED": "the worker's",
    "vector_stores.SET_EXPIRED": "the worker's",
    "vector_stores.UNCOUNT_CHUNK": "the caller holds the store",
}


@dataclass(frozen=True)
class Caller:
    """Who sends requests with a key of their own, and the ids of what is theirs."""

    http: httpx.AsyncClient
    key: str
    ids: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, route: Route, ids: dict[str, str] | None = None) -> httpx.Response:
        ids = self.ids if ids is None else ids
        return await self.request(
            route.method, route.path.format(**ids), json=_filled(route.json, ids), files=route.form
        )

    async def request(self, method: str, path: str, **content: Any) -> httpx.Response:
        return await self.http.request(method, path, headers={"Authorization": f"Bearer {self.key}"}, **content)

    async def post(self, path: str, **content: Any) -> dict[str, Any]:
        answer = await self.request("POST", path, **content)
        assert answer.status_code == 200, answer.text
        return answer.json()


def _filled(value: Any, ids: dict[str, str]) -> Any:
    match value:
        case str():
            return value.format(**ids)
        case list():
            return [_filled(one, ids) for one in value]  # pyright: ignore[reportUnknownVariableType]  # JSON
        case dict():
            return {key: _filled(one, ids) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


async def new_caller(http: httpx.AsyncClient, **fields: Any) -> Caller:
    made = await Caller(http, KEY).post("/v1/keys", json={"name": "a", "role": "admin", **fields})
    return Caller(http, made["value"])


async def furnish(caller: Caller) -> None:
    """Give a caller one of everything."""
    ids = caller.ids
    ids["vector_store_id"] = (await caller.post("/v1/vector_stores", json={"name": "handbook"}))["id"]
    ids["file_id"] = (await caller.post("/v1/files", files=TEXT))["id"]
    store = STORE.format(**ids)
    ids["batch_id"] = (await caller.post(store + "/file_batches", json={"file_ids": [ids["file_id"]]}))["id"]
    ids["embedding_id"] = (await caller.post(store + "/embeddings", json={"content": "Bread is eaten"}))["id"]
    ids["upload_id"] = (await caller.post("/v1/uploads", json=NEW_UPLOAD))["id"]
    ids["other_upload_id"] = (await caller.post("/v1/uploads", json=NEW_UPLOAD))["id"]
    part = await caller.post(UPLOAD.format(**ids) + "/parts", files={"data": ("data", b"text")})
    ids["part_id"] = part["id"]
    ids["key_id"] = (await caller.post("/v1/keys", json={"name": "spare", "role": "read"}))["id"]


@pytest.fixture
async def acme(http: httpx.AsyncClient, settings: dict[str, Any]) -> Caller:
    """A tenant that has one of everything, with its file ingested."""
    caller = await new_caller(http, tenant="acme")
    await furnish(caller)
    await work_off(settings)
    return caller


@pytest.fixture
async def rival(http: httpx.AsyncClient) -> Caller:
    return await new_caller(http, tenant="rival")


def test_every_route_is_in_the_table_above(settings: dict[str, Any]) -> None:
    paths = create_app(make_settings(**settings)).openapi()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}

    listed = {(route.method, route.path.replace("other_", "")) for route in ROUTES}
    assert described - listed == {("GET", "/health"), ("GET", "/ready")} | OF_THE_SERVER
    assert listed <= described


async def test_what_is_anothers_is_not_found_by_any_route_and_stays_as_it_is(acme: Caller, rival: Caller) -> None:
    refused = {route.name: (await rival.send(route, acme.ids)).status_code for route in OF_AN_ID}
    done = {route.name: (await acme.send(route)).status_code for route in ROUTES}

    assert refused == {route.name: 404 for route in OF_AN_ID}
    assert done == {route.name: route.status for route in ROUTES}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.is_list], ids=lambda route: route.path)
async def test_no_list_has_anything_of_anothers(acme: Caller, rival: Caller, route: Route) -> None:
    own, others = (await acme.send(route)).json(), (await rival.send(route)).json()

    assert {one["id"] for one in own["data"]} & set(acme.ids.values())
    assert not {one["id"] for one in own["data"]} & {one["id"] for one in others["data"]}


async def test_a_key_for_some_stores_finds_nothing_of_the_others(acme: Caller) -> None:
    only = await acme.post("/v1/vector_stores", json={"name": "open"})
    restricted = await new_caller(acme.http, tenant="acme", role="write", vector_store_ids=[only["id"]])

    tried = [route for route in OF_AN_ID if route.role != "admin"]
    refused = {route.name: (await restricted.send(route, acme.ids)).status_code for route in tried}
    lists = [(await restricted.request("GET", path)).json() for path in ("/v1/vector_stores", "/v1/files")]
    creation = await restricted.request("POST", "/v1/vector_stores", json={})
    assert refused == {route.name: 404 for route in tried}
    assert [[one["id"] for one in page["data"]] for page in lists] == [[only["id"]], []]
    assert creation.status_code == 403


async def test_a_key_for_some_stores_works_with_those_and_what_it_uploads(acme: Caller) -> None:
    only = await acme.post("/v1/vector_stores", json={"name": "open"})
    restricted = await new_caller(acme.http, tenant="acme", role="write", vector_store_ids=[only["id"]])
    store = STORE.format(vector_store_id=only["id"])

    file = await restricted.post("/v1/files", files=TEXT)
    await restricted.post(store + "/files", json={"file_id": file["id"]})
    assert (await restricted.request("GET", f"/v1/files/{file['id']}/content")).text == "Bread is baked"
    assert (await restricted.request("DELETE", f"/v1/files/{file['id']}")).status_code == 200
    assert (await restricted.request("DELETE", store)).status_code == 200


async def test_a_file_that_is_deleted_leaves_stores_that_its_key_does_not_see(acme: Caller) -> None:
    only = await acme.post("/v1/vector_stores", json={"name": "open"})
    restricted = await new_caller(acme.http, tenant="acme", role="write", vector_store_ids=[only["id"]])
    file = await restricted.post("/v1/files", files=TEXT)
    store = STORE.format(**acme.ids)
    await acme.post(store + "/files", json={"file_id": file["id"]})

    await restricted.request("DELETE", f"/v1/files/{file['id']}")

    assert [one["id"] for one in (await acme.request("GET", store + "/files")).json()["data"]] == [acme.ids["file_id"]]
    assert (await acme.request("GET", store)).json()["file_counts"]["in_progress"] == 0


@pytest.mark.parametrize(("role", "allowed"), [("read", {"read"}), ("write", {"read", "write"}), ("admin", ROLES)])
async def test_a_role_allows_its_routes_and_no_others(http: httpx.AsyncClient, role: Role, allowed: set[Role]) -> None:
    caller = await new_caller(http, tenant="acme", role=role)
    nowhere = dict.fromkeys(re.findall(r"{(\w+)}", repr(ROUTES)), "x")

    answers = {route: await caller.send(route, nowhere) for route in ROUTES}

    refused = {route.name for route, answer in answers.items() if answer.status_code == 403}
    assert refused == {route.name for route in ROUTES if route.role not in allowed}
    assert all(f"the role {route.role!r}" in answers[route].text for route in ROUTES if route.name in refused)


async def test_an_admin_of_everything_may_act_for_a_tenant(http: httpx.AsyncClient, acme: Caller) -> None:
    headers = {"x-quiver-tenant": "acme"}
    made = (await http.post("/v1/vector_stores", json={"name": "made for acme"}, headers=headers)).json()
    here = (await http.get("/v1/vector_stores", headers=headers)).json()
    elsewhere = (await http.get("/v1/vector_stores", headers={"x-quiver-tenant": "rival"})).json()
    everywhere = (await http.get("/v1/vector_stores")).json()

    assert {one["id"] for one in here["data"]} == {made["id"], acme.ids["vector_store_id"]}
    assert elsewhere["data"] == []
    assert here["data"] == everywhere["data"]
    assert (await acme.request("GET", f"/v1/vector_stores/{made['id']}")).status_code == 200


async def test_no_other_key_may_act_for_another_tenant(acme: Caller) -> None:
    headers = {"Authorization": f"Bearer {acme.key}"}
    foreign = await acme.http.get("/v1/files", headers=headers | {"x-quiver-tenant": "rival"})
    own = await acme.http.get("/v1/files", headers=headers | {"x-quiver-tenant": "acme"})
    malformed = await acme.http.get("/v1/files", headers={"x-quiver-tenant": "a b"})

    assert (foreign.status_code, own.status_code, malformed.status_code) == (403, 200, 400)


async def test_one_idempotency_key_serves_an_admin_once_for_each_tenant(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "order-66"}
    made = [
        (await http.post("/v1/vector_stores", json={}, headers=key | {"x-quiver-tenant": tenant})).json()["id"]
        for tenant in ("acme", "rival", "acme")
    ]

    assert made[0] == made[2] != made[1]


async def test_what_an_admin_completes_stays_the_tenants(http: httpx.AsyncClient, acme: Caller) -> None:
    completed = await http.post(UPLOAD.format(**acme.ids) + "/complete", json={"part_ids": [acme.ids["part_id"]]})

    file = completed.json()["file"]["id"]
    assert (await acme.request("GET", f"/v1/files/{file}")).status_code == 200


async def test_a_store_takes_no_file_of_another_tenant_even_from_an_admin(
    http: httpx.AsyncClient, acme: Caller, rival: Caller
) -> None:
    theirs = await rival.post("/v1/files", files=TEXT)

    answer = await http.post(STORE.format(**acme.ids) + "/files", json={"file_id": theirs["id"]})

    assert answer.status_code == 404


async def test_a_key_without_a_tenant_sees_what_was_made_without_one(http: httpx.AsyncClient, acme: Caller) -> None:
    own = (await http.post("/v1/vector_stores", json={})).json()
    reader = await new_caller(http, role="read")

    listed = (await reader.request("GET", "/v1/vector_stores")).json()

    assert [one["id"] for one in listed["data"]] == [own["id"]]


async def test_another_tenants_ids_are_of_no_use_in_a_body(acme: Caller, rival: Caller) -> None:
    await furnish(rival)
    store, file = STORE.format(**rival.ids), acme.ids["file_id"]
    tried = [
        ("/v1/vector_stores", {"file_ids": [file]}),
        (store + "/files", {"file_id": file}),
        (store + "/file_batches", {"file_ids": [file]}),
        ("/v1/keys", {"name": "a", "role": "read", "vector_store_ids": [acme.ids["vector_store_id"]]}),
    ]

    answers = [(await rival.request("POST", path, json=body)).status_code for path, body in tried]
    parts = await rival.request(
        "POST", UPLOAD.format(**rival.ids) + "/complete", json={"part_ids": [acme.ids["part_id"]]}
    )
    assert answers == [404] * len(tried)
    assert parts.status_code == 400


def statements() -> dict[str, str]:
    """Every constant that is SQL on one of the tenants' tables, by its module and name."""
    on_table = re.compile(rf"\b(FROM|JOIN|INTO|UPDATE|USING)\s+({'|'.join(TENANTS_TABLES)})\b")
    modules = [importlib.import_module(f"api.tables.{module.name}") for module in pkgutil.iter_modules(tables.__path__)]
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and on_table.search(value)
    }


def test_every_statement_on_a_tenants_table_has_its_condition_or_a_reason() -> None:
    without = {name for name, statement in statements().items() if "{visible}" not in statement}

    assert len(statements()) > 2 * len(TENANTS_TABLES)
    assert without == WITHOUT_CONDITION.keys()


def test_routes_have_no_way_around_the_scope() -> None:
    sources = {path.name: path.read_text() for path in Path(routes.__path__[0]).glob("*.py")}

    unscoped = {name for name, source in sources.items() if re.search(r"\bstate\.resources\b(?!\.settings)", source)}
    assert unscoped == {"parameters.py"}
