"""`quiver models` as a program, and the requests it makes, on a running embedder."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedder.engines import Engine, ModelSpec
from embedder.errors import ModelUnavailable
from embedder.server import create_app
from tests.embedder.conftest import HermeticSettings, Serve, served
from tests.embedder.letter_engine import LetterEngine

KEY = "admin-key"
CALLER_KEY = "caller-key"


def load(spec: ModelSpec, **_: Any) -> Engine:
    if spec.source == "broken":
        raise ModelUnavailable("The model 'broken' is broken.")
    return LetterEngine("rerank" if spec.source == "reranker" else "dense")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  - name: a\n")
    return file


@pytest.fixture
def address(file: Path) -> Iterator[str]:
    settings = HermeticSettings(config=file, admin_key=KEY, api_key=CALLER_KEY)  # pyright: ignore[reportArgumentType]  # pydantic wraps them
    with served(create_app(settings, load=load)) as address:
        yield address


@pytest.fixture
def admin(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"authorization": f"Bearer {KEY}"}) as admin:
        yield admin


def models(address: str, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedder.models_cli", *arguments, "--url", address]
    environment = {"EMBEDDER_ADMIN_KEY": key, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_the_commands_change_what_is_served(address: str, file: Path) -> None:
    models(address, "disable", "a")
    added = models(address, "add", "b", "--alias", "bee", "--set", "truncate=refuse", "--set", "replicas=2")
    models(address, "alias", "b", "--add", "c", "--remove", "bee")
    listed = models(address, "list")

    assert (added.returncode, added.stdout) == (0, "b is ready\n")
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [["a", "disabled"], ["b", "ready"]]
    assert file.read_text() == (
        "models:\n  - name: a\n    enabled: false\n"
        "  - name: b\n    aliases:\n      - c\n    truncate: refuse\n    replicas: 2\n"
    )


def test_a_disabled_model_is_enabled_again(address: str, file: Path) -> None:
    models(address, "disable", "a")
    enabled = models(address, "enable", "a")

    assert (enabled.returncode, enabled.stdout) == (0, "a is ready\n")
    assert httpx.get(f"{address}/ready").json()["models"] == {"a": "ready"}
    assert file.read_text() == "models:\n  - name: a\n"


def test_a_removed_model_is_gone(address: str, file: Path) -> None:
    removed = models(address, "remove", "a")
    status = models(address, "status", "a")

    assert (removed.returncode, removed.stdout) == (0, "a is removed\n")
    assert (status.returncode, status.stderr) == (1, "Error: The model 'a' is not served here; served: none.\n")
    assert file.read_text() == "models: []\n"


def test_the_status_of_a_model_is_shown(address: str) -> None:
    shown = models(address, "status", "a").stdout

    assert dict(line.split(maxsplit=1) for line in shown.splitlines() if line.startswith(("state", "kind"))) == {
        "state": "ready",
        "kind": "dense",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add", "b", "--model", "broken"], "The model cannot be loaded: The model 'broken' is broken."),
        (["add", "a"], "The name 'a' is taken"),
        (["add", "b", "--set", "colour=red"], "'colour' is wrong: Extra inputs are not permitted."),
        (["add", "b", "--kind", "http"], "kind 'http' needs a url."),
        (["add", "b", "--set", "replicas"], "write FIELD=VALUE"),
        (["enable", "b"], "The model 'b' is not served here"),
    ],
)
def test_what_goes_wrong_is_one_sentence(address: str, arguments: list[str], says: str) -> None:
    done = models(address, *arguments)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_embedder_that_is_not_there_is_told() -> None:
    done = models("http://127.0.0.1:1", "list")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: No embedder answers at http://127.0.0.1:1 (")


@pytest.mark.parametrize("key", ["wrong", CALLER_KEY])
def test_another_key_changes_nothing(address: str, key: str) -> None:
    done = models(address, "remove", "a", key=key)

    assert (done.returncode, done.stderr.split(";")[0]) == (1, "Error: The admin key is missing or wrong")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/models"),
        ("POST", "/admin/models"),
        ("GET", "/admin/models/a"),
        ("PATCH", "/admin/models/a"),
        ("DELETE", "/admin/models/a"),
    ],
)
def test_without_the_admin_key_nothing_is_shown_or_changed(address: str, method: str, path: str) -> None:
    anonymous = httpx.request(method, f"{address}{path}")
    caller = httpx.request(method, f"{address}{path}", headers={"authorization": f"Bearer {CALLER_KEY}"})

    assert (anonymous.status_code, caller.status_code) == (401, 401)


def test_the_admin_key_opens_everything_else_as_well(admin: httpx.Client) -> None:
    assert admin.post("/v1/embeddings", json={"model": "a", "input": "a"}).status_code == 200


def test_no_admin_key_means_no_administration(serve: Serve) -> None:
    with serve(LetterEngine()) as address:
        response = httpx.get(f"{address}/admin/models", headers={"authorization": "Bearer x"})

    assert response.status_code == 403
    assert "until EMBEDDER_ADMIN_KEY is set" in response.json()["error"]["message"]


def test_a_model_is_registered_and_changed_over_http(admin: httpx.Client) -> None:
    registered = admin.post("/admin/models", json={"name": "org/b", "aliases": ["b"]})
    changed = admin.patch("/admin/models/org/b", json={"aliases": ["c"], "max_tokens": 7})
    renamed = admin.patch("/admin/models/org/b", json={"name": "d"})
    by_alias = admin.delete("/admin/models/c")

    assert (registered.status_code, registered.json()["state"]) == (201, "ready")
    assert (changed.json()["aliases"], changed.json()["name"]) == (["c"], "org/b")
    assert (renamed.status_code, renamed.json()["error"]["param"]) == (400, "name")
    assert (by_alias.status_code, "is an alias of 'org/b'" in by_alias.text) == (404, True)


def test_a_taken_name_is_a_409(admin: httpx.Client) -> None:
    response = admin.post("/admin/models", json={"name": "a"})

    assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")


def test_readiness_waits_for_the_models(file: Path, wait_until: Callable[[Callable[[], bool]], None]) -> None:
    free = threading.Event()

    def load_when_free(spec: ModelSpec, **_: Any) -> Engine:
        free.wait()
        return load(spec)

    app = create_app(HermeticSettings(config=file), load=load_when_free)
    with served(app) as address, httpx.Client(base_url=address) as http:
        loading = http.get("/ready")
        free.set()
        wait_until(lambda: http.get("/ready").is_success)

        assert (loading.status_code, loading.json()["models"]) == (503, {"a": "loading"})
        assert http.get("/ready").json()["status"] == "ready"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine": "openvino", "dtype": "float16"}, "engine 'openvino' has no dtype 'float16'"),
        ({"engine": "onnx", "dtype": "bfloat16"}, "engine 'onnx' has no dtype 'bfloat16'"),
        ({"engine": "onnx-int8", "dtype": "float32"}, "engine 'onnx-int8' has no dtype 'float32'"),
        ({"engine": "onnx", "device": "cuda"}, "engine 'onnx' runs on the CPU"),
        ({"kind": "http", "url": "http://b", "truncate": "refuse"}, "truncate cannot be set for kind 'http'"),
        ({"kind": "http", "url": "http://b", "max_batch_tokens": 9}, "max_batch_tokens cannot be set for kind 'http'"),
        ({"kind": "rerank", "query_prompt": "q"}, "query_prompt cannot be set for kind 'rerank'"),
        ({"kind": "sparse", "matryoshka": True}, "matryoshka cannot be set for kind 'sparse'"),
        ({"activation": "sigmoid"}, "activation cannot be set for kind 'dense', which the model 'b' is"),
    ],
)
def test_what_a_model_could_not_heed_is_refused(admin: httpx.Client, fields: dict[str, Any], says: str) -> None:
    response = admin.post("/admin/models", json={"name": "b", **fields})

    assert response.status_code == 400
    assert says in response.json()["error"]["message"]
    assert admin.get("/ready").json()["models"] == {"a": "ready"}


def test_a_change_that_a_model_cannot_heed_is_told_until_it_is_undone(admin: httpx.Client) -> None:
    admin.post("/admin/models", json={"name": "reranker"})
    told = admin.patch("/admin/models/reranker", json={"query_prompt": "q", "passage_prompt": "p"}).json()
    undone = admin.patch("/admin/models/reranker", json={"query_prompt": None, "passage_prompt": None}).json()

    assert told["state"] == undone["state"] == "ready"
    assert told["error"].startswith("query_prompt, passage_prompt cannot be set for kind 'rerank'")
    assert undone["error"] is None


def test_readiness_waits_for_no_model_that_failed(admin: httpx.Client, file: Path) -> None:
    ready = admin.get("/ready")
    admin.patch("/admin/models/a", json={"enabled": False})
    nothing = admin.get("/ready")

    assert (ready.status_code, ready.json()["models"]) == (200, {"a": "ready"})
    assert (nothing.status_code, nothing.json()["models"]) == (503, {"a": "disabled"})
