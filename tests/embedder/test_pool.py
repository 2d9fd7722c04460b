"""Models changed while requests run: the pool itself, on engines that count letters."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from embedder.engines import Engine, ModelSpec
from embedder.errors import Conflict, InvalidRequest, ModelUnavailable, NotFound, QueueFull, Unready
from embedder.pool import Pool
from embedder.registry import Declaration, Registry
from tests.embedder.conftest import HermeticSettings
from tests.embedder.letter_engine import LetterEngine

DEADLINE_SECONDS = 10


class Shelf:
    """Where the pool loads its models from; keeps what it gave out."""

    def __init__(self) -> None:
        self.loaded: list[tuple[ModelSpec, LetterEngine]] = []
        self._free = threading.Event()
        self._free.set()

    def hold(self) -> None:
        """Let nothing be loaded until `release`."""
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def load(self, spec: ModelSpec, *, cache: Path) -> Engine:
        del cache
        self._free.wait(DEADLINE_SECONDS)
        if spec.source == "broken":
            raise ModelUnavailable("The model 'broken' is broken.")
        if spec.source == "wild":
            raise ZeroDivisionError("in the model's own code")
        engine = LetterEngine()
        self.loaded.append((spec, engine))
        return engine

    def engine(self, source: str) -> LetterEngine:
        return next(engine for spec, engine in reversed(self.loaded) if spec.source == source)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text("# ours\nmodels:\n  - name: a  # the first\n  - name: b\n    aliases: [bee]\n")
    return path


@asynccontextmanager
async def pooled(
    shelf: Shelf, file: Path | None = None, *, poll_seconds: float = 0.02, **settings: Any
) -> AsyncGenerator[Pool]:
    pool = Pool(HermeticSettings(config=file, **settings), load=shelf.load, poll_seconds=poll_seconds)
    await pool.start()
    await pool.has_loaded.wait()
    yield pool
    await pool.close()


async def ask(pool: Pool, model: str, text: str = "abc") -> int:
    return (await (await pool.get_model(model).runtime([text])).compute([text])).tokens


def state(pool: Pool, model: str) -> str:
    return pool.get_model(model).state


async def until(pool: Pool, model: str, wanted: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while state(pool, model) != wanted:  # noqa: ASYNC110  # the file is polled as well
            await asyncio.sleep(0.01)


def content(file: Path) -> str:
    return file.read_text()


def edit(file: Path, text: str) -> None:
    file.write_text(text)


async def test_without_a_file_the_one_model_of_the_settings_is_served(shelf: Shelf) -> None:
    async with pooled(shelf, model="some/model", served_name="mine") as pool:
        assert await ask(pool, "mine") == 3

    assert [spec.source for spec, _ in shelf.loaded] == ["some/model"]
    assert shelf.engine("some/model").is_closed


async def test_models_are_found_by_name_and_alias(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        assert (await ask(pool, "a"), await ask(pool, "bee")) == (3, 3)
        with pytest.raises(NotFound, match="'c' is not served here; served: 'a', 'b'"):
            pool.get_model("c")


async def test_a_registered_model_survives_a_restart_and_the_files_comments_stay(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        await pool.register(Declaration(name="c", aliases=["see"], query_prompt="query: "))
    async with pooled(shelf, file) as pool:
        declaration = pool.get_model("see").declaration

    assert (declaration.name, declaration.query_prompt) == ("c", "query: ")
    assert content(file).startswith("# ours\nmodels:\n  - name: a  # the first\n")


async def test_a_removed_model_answers_what_it_was_asked_and_no_more(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        engine = shelf.engine("a")
        engine.hold()
        asked = asyncio.create_task(ask(pool, "a"))
        assert await asyncio.to_thread(engine.begun.wait, DEADLINE_SECONDS)
        removing = asyncio.create_task(pool.unregister("a"))
        await asyncio.sleep(0)
        with pytest.raises(NotFound):
            pool.get_model("a")
        engine.release()

        assert await asked == 3
        await removing
    assert engine.is_closed
    assert "name: a" not in content(file)


async def test_a_disabled_model_is_unloaded_and_can_come_back(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        first = shelf.engine("a")
        await pool.change("a", enabled=False)
        with pytest.raises(NotFound, match="'a' is disabled"):
            await ask(pool, "a")
        await pool.get_model("a").retired()

        assert first.is_closed
        assert (await pool.change("a", enabled=True))["state"] == "ready"
        assert await ask(pool, "a") == 3


async def test_a_change_that_needs_another_engine_swaps_it_without_failing_a_request(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        old = shelf.engine("a")
        old.hold()
        asked = asyncio.create_task(ask(pool, "a", "old"))
        assert await asyncio.to_thread(old.begun.wait, DEADLINE_SECONDS)
        await pool.change("a", max_tokens=7)
        assert await ask(pool, "a", "new one") == 7
        old.release()

        assert await asked == 3
    assert shelf.engine("a").batches == [["new one"]]
    assert shelf.loaded[-1][0].max_tokens == 7


async def test_a_change_that_needs_no_other_engine_loads_none(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        await pool.change("a", aliases=["ay"], truncate="refuse")

        assert await ask(pool, "ay") == 3
    assert len(shelf.loaded) == 2


@pytest.mark.parametrize(("source", "says"), [("broken", "is broken"), ("wild", "ZeroDivisionError: in the model's")])
async def test_a_model_that_cannot_be_loaded_is_not_registered(
    shelf: Shelf, file: Path, source: str, says: str
) -> None:
    before = content(file)
    async with pooled(shelf, file) as pool:
        with pytest.raises(InvalidRequest, match=says):
            await pool.register(Declaration(name="c", model=source))
        await pool.register(Declaration(name="c", model="good", enabled=False))
        await pool.unregister("c")

    assert content(file) == before


async def test_a_declared_model_that_cannot_be_loaded_takes_nothing_down(shelf: Shelf, file: Path) -> None:
    edit(file, "models:\n  - name: a\n  - name: broken\n")
    async with pooled(shelf, file) as pool:
        assert await ask(pool, "a") == 3
        assert state(pool, "broken") == "failed"
        with pytest.raises(Unready, match="'broken' cannot be loaded: The model 'broken' is broken"):
            await ask(pool, "broken")


async def test_a_change_that_fails_to_load_leaves_what_was_there(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        status = await pool.change("a", model="broken")

        assert (status["state"], status["error"]) == ("ready", "The model 'broken' is broken.")
        assert await ask(pool, "a") == 3


async def test_a_taken_name_is_refused(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        for declaration in (Declaration(name="bee"), Declaration(name="c", aliases=["a"])):
            with pytest.raises(Conflict, match="is taken"):
                await pool.register(declaration)
        with pytest.raises(Conflict, match="'a' is taken"):
            await pool.change("b", aliases=["a"])


async def test_without_a_file_a_change_is_refused_with_the_remedy(shelf: Shelf) -> None:
    async with pooled(shelf) as pool:
        with pytest.raises(Conflict, match="Set EMBEDDER_CONFIG"):
            await pool.register(Declaration(name="c"))


async def test_a_file_that_is_not_there_is_written_with_the_model_of_the_settings(shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "new" / "models.yaml"
    async with pooled(shelf, file, served_name="one", model="some/model") as pool:
        await pool.register(Declaration(name="two"))

    assert content(file) == "models:\n  - name: one\n    model: some/model\n  - name: two\n"


async def test_an_edit_of_the_file_is_picked_up(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        edit(file, "models:\n  - name: a\n    enabled: false\n  - name: c\n")
        await until(pool, "a", "disabled")
        await until(pool, "c", "ready")

        assert [model.declaration.name for model in pool.models] == ["a", "c"]
        assert len(shelf.loaded) == 3


async def test_an_edit_just_before_a_change_is_kept_and_served(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file, poll_seconds=DEADLINE_SECONDS) as pool:
        edit(file, "models:\n  - name: a\n    truncate: refuse\n  - name: c\n")
        await pool.change("a", aliases=["ay"])

        assert (pool.get_model("ay").declaration.truncate, await ask(pool, "c")) == ("refuse", 3)
    assert content(file) == "models:\n  - name: a\n    truncate: refuse\n    aliases:\n      - ay\n  - name: c\n"


async def test_an_edit_that_nobody_has_read_stays_to_be_read_when_another_model_is_written(file: Path) -> None:
    registry = Registry(file, otherwise=[])
    registry.read()
    registry.put(Declaration(name="c"))
    assert not registry.has_changed()

    edit(file, "models:\n  - name: edited\n")
    registry.put(Declaration(name="d"))

    assert registry.has_changed()
    assert [declaration.name for declaration in registry.read()] == ["edited", "d"]


@pytest.mark.parametrize(
    "text", ["", "models: [", "models:\n  - nmae: a\n", "other: 1\n", "models:\n- name: a\n- name: a"]
)
async def test_a_file_that_is_wrong_changes_nothing_and_is_told(shelf: Shelf, file: Path, text: str) -> None:
    async with pooled(shelf, file) as pool:
        edit(file, text)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while pool.config_error is None:  # noqa: ASYNC110  # the file is polled
                await asyncio.sleep(0.01)

        assert str(file) in pool.config_error or "wrong" in pool.config_error or "taken" in pool.config_error
        assert await ask(pool, "a") == 3


async def test_an_idle_model_is_unloaded_and_the_next_request_loads_it(shelf: Shelf, file: Path) -> None:
    edit(file, "models:\n  - name: a\n    idle_unload_seconds: 0.05\n")
    async with pooled(shelf, file) as pool:
        await until(pool, "a", "idle")
        await pool.get_model("a").retired()
        assert shelf.engine("a").is_closed

        assert await ask(pool, "a") == 3
    assert len(shelf.loaded) == 2


async def test_who_waits_for_a_model_that_is_removed_hears_of_it(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        shelf.hold()
        await pool.change("a", enabled=False)
        changing = asyncio.create_task(pool.change("a", enabled=True))
        await until(pool, "a", "loading")
        waiting = asyncio.create_task(ask(pool, "a"))
        await asyncio.sleep(0)
        await pool.unregister("a")
        shelf.release()

        with pytest.raises(NotFound, match="'a' has been removed"):
            await waiting
        await changing


async def test_what_waits_for_a_model_to_be_loaded_counts_as_queued(shelf: Shelf, file: Path) -> None:
    edit(file, "models:\n  - name: a\n    max_batch_tokens: 20\n    max_queued_tokens: 100\n")
    async with pooled(shelf, file) as pool:
        shelf.hold()
        await pool.change("a", enabled=False)
        changing = asyncio.create_task(pool.change("a", enabled=True))
        await until(pool, "a", "loading")
        waiting = [asyncio.create_task(ask(pool, "a", text)) for text in ("long" * 120, "short")]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="125 tokens wait for the model 'a'") as caught:
            await ask(pool, "a", "long" * 20)
        assert pool.get_model("a").status()["queued_tokens"] == 125
        shelf.release()

        assert await asyncio.gather(*waiting) == [480, 5]
        await changing
    assert int(caught.value.headers["Retry-After"]) >= 1


async def test_replicas_are_loaded_with_the_threads_shared_out(shelf: Shelf, file: Path) -> None:
    edit(file, "models:\n  - name: a\n    replicas: 3\n")
    async with pooled(shelf, file) as pool:
        assert await ask(pool, "a") == 3

    assert len(shelf.loaded) == 3
    assert {spec.threads for spec, _ in shelf.loaded} == {1}


async def test_nothing_fails_while_models_come_and_go(shelf: Shelf, file: Path) -> None:
    async with pooled(shelf, file) as pool:
        stop = time.monotonic() + 1

        async def client() -> int:
            asked = 0
            while time.monotonic() < stop:
                asked += await ask(pool, "bee") == 3
            return asked

        async def operator() -> None:
            while time.monotonic() < stop:
                await pool.change("b", max_tokens=5)
                await pool.register(Declaration(name="c"))
                await pool.change("b", max_tokens=6)
                await pool.unregister("c")

        answered = await asyncio.gather(*(client() for _ in range(16)), operator())

    assert sum(filter(None, answered)) > 100
    assert all(engine.is_closed for _, engine in shelf.loaded)
