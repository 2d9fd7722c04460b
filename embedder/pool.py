"""The models that are served: loaded, swapped, emptied and unloaded while requests run.

A model is found by its name or an alias. What serves it is replaced only when its successor is loaded, and closed when
it has answered whatever it was asked; so no change fails a request.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from embedder import engines
from embedder.admission import Limits
from embedder.batching import Batcher, BatchReport
from embedder.engines import Engine, ModelSpec
from embedder.engines.cores import usable_cores
from embedder.errors import ConfigurationWrong, Conflict, InvalidRequest, ModelUnavailable, NotFound
from embedder.model import Model, Runtime, Status
from embedder.registry import Declaration, Registry
from embedder.remote import Remote
from embedder.schemas import parse
from embedder.settings import Settings

POLL_SECONDS = 1.0  # how often the file and the idle models are looked at

Loader = Callable[..., Engine]
Reports = Callable[[str, BatchReport], None]

log = structlog.get_logger()


class Pool:
    """All models, by name and alias, and every change of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        registry: Registry | None = None,
        load: Loader = engines.load,
        on_batch: Reports | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._settings = settings
        self._registry = registry or Registry(settings.config, otherwise=[default_declaration(settings)])
        self._load_engine = load
        self._on_batch = on_batch
        self._poll_seconds = poll_seconds
        self._models: dict[str, Model] = {}  # by name, in the file's order
        self._by_name: dict[str, Model] = {}  # aliases included
        self._being_added: set[str] = set()
        self._changing = asyncio.Lock()
        self._removed: set[Model] = set()  # declared no longer, still answering
        self._poller: asyncio.Task[None] | None = None
        self._starter: asyncio.Task[None] | None = None
        self.config_error: str | None = None
        self.has_loaded = asyncio.Event()  # or has failed to: whatever was declared at the start

    @property
    def models(self) -> Iterable[Model]:
        return self._models.values()

    def get_model(self, name: str) -> Model:
        if model := self._by_name.get(name):
            return model
        served = ", ".join(map(repr, self._models)) or "none"
        message = f"The model {name!r} is not served here; served: {served}."
        raise NotFound(message, param="model", code="model_not_found")

    def get_first(self, kind: str) -> Model:
        """The first declared model of a kind, for requests that name none. One not yet loaded may be it."""
        enabled = [model for model in self._models.values() if model.declaration.enabled]
        for wanted in (kind, "auto"):
            for model in enabled:
                if model.kind == wanted:
                    return model
        raise NotFound(f"No model of the kind {kind!r} is served here; name one.", param="model")

    async def start(self) -> None:
        """Declare what the file says, and begin to load it.

        Raises:
            ConfigurationWrong: the file is wrong.
        """
        self._adopt(self._registry.read())
        self._poller = asyncio.create_task(self._poll(), name="poll the file of models")
        self._starter = asyncio.create_task(self._finish_start(), name="load the models")

    async def _finish_start(self) -> None:
        if loading := [model.load() for model in self._models.values() if model.is_loading]:
            await asyncio.wait(loading)
        self.has_loaded.set()

    async def close(self) -> None:
        """Finish what was admitted, everywhere."""
        for task in (self._poller, self._starter):
            if task is not None:
                task.cancel()
        for model in self._models.values():
            model.unload()
        await asyncio.gather(*(model.retired() for model in [*self._models.values(), *self._removed]))

    async def register(self, declaration: Declaration) -> Status:
        """Load a model and serve it from here on; one that cannot be loaded is not kept.

        Raises:
            Conflict: a name of it is taken, or the change cannot be kept.
            InvalidRequest: the model cannot be loaded.
        """
        self._check_free(declaration)
        if taken := self._being_added.intersection(declaration.names):
            raise Conflict(f"A model is being added under the name {min(taken)!r}.")
        self._guard(self._registry.check_writable)
        model = self._new_model(declaration)
        self._being_added.update(declaration.names)
        try:
            if declaration.enabled:
                await asyncio.wait([model.load()])
            if model.error is not None:
                raise InvalidRequest(f"The model cannot be loaded: {model.error}", code="model_unavailable")
            async with self._changing:
                self._follow_file()
                self._check_free(declaration)  # the file may have been edited meanwhile
                self._guard(partial(self._registry.put, declaration))
                self._models[declaration.name] = model
                self._index()
        except BaseException:
            self._discard(model)
            raise
        finally:
            self._being_added.difference_update(declaration.names)
        return model.status()

    async def unregister(self, name: str) -> None:
        """Serve a model no longer; returns when it has answered what it was asked."""
        async with self._changing:
            self._follow_file()
            model = self._declared(name)
            self._guard(partial(self._registry.remove, model.declaration.name))
            del self._models[model.declaration.name]
            self._index()
            self._discard(model)
        await model.retired()

    async def change(self, name: str, **values: object) -> Status:
        """Change a declaration: `enabled`, `aliases`, or anything else but the name.

        Raises:
            Conflict: an alias is taken, or the change cannot be kept.
            InvalidRequest: what comes of it is no declaration.
        """
        async with self._changing:
            self._follow_file()
            model = self._declared(name)
            declaration = parse(Declaration, model.declaration.model_dump(exclude_unset=True) | values)
            self._check_free(declaration, but=model)
            self._guard(partial(self._registry.put, declaration))
            self._redeclare(model, declaration)
        if model.is_loading:
            await asyncio.wait([model.load()])
        return model.status()

    def _declared(self, name: str) -> Model:
        model = self.get_model(name)
        if name != model.declaration.name:
            raise NotFound(f"{name!r} is an alias of {model.declaration.name!r}; name the model itself.", param="name")
        return model

    def _check_free(self, declaration: Declaration, *, but: Model | None = None) -> None:
        for name in declaration.names:
            if self._by_name.get(name, but) is not but:
                raise Conflict(f"The name {name!r} is taken; remove the model that has it, or choose another.")
        if len(set(declaration.names)) < len(declaration.names):
            raise Conflict(f"The model {declaration.name!r} has an alias twice, or one that is its name.")

    def _guard(self, write: Callable[[], None]) -> None:
        """Do what touches the file; when that cannot be kept, the change is refused."""
        try:
            write()
        except ConfigurationWrong as error:
            raise Conflict(str(error)) from error

    def _redeclare(self, model: Model, declaration: Declaration) -> None:
        """Apply a changed declaration, and begin to load or unload what it changes."""
        old, model.declaration = model.declaration, declaration
        self._index()
        is_served = old.enabled and model.loaded is not None and not model.error
        is_foreign = declaration.kind != "http" and declaration.foreign_to(model.kind)
        if not declaration.enabled:
            model.unload()
        elif is_foreign or not (is_served and declaration.is_loaded_like(old)):
            model.error = None
            model.load()

    def _discard(self, model: Model) -> None:
        """Let a model go that is declared no longer, when it has finished."""
        model.remove()
        self._removed = {gone for gone in self._removed if gone.is_retiring} | {model}

    def _adopt(self, declarations: list[Declaration]) -> None:
        """Make the models those that are declared."""
        models: dict[str, Model] = {}
        for declaration in declarations:
            model = self._models.pop(declaration.name, None)
            if model is None:
                model = self._new_model(declaration)
                if declaration.enabled:
                    model.load()
            elif model.declaration != declaration:
                self._redeclare(model, declaration)
            models[declaration.name] = model
        removed = list(self._models.values())
        self._models = models
        self._index()
        for model in removed:
            self._discard(model)

    def _index(self) -> None:
        self._by_name = {name: model for model in self._models.values() for name in model.declaration.names}

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            async with self._changing:
                self._follow_file()
            self._unload_idle()

    def _unload_idle(self) -> None:
        now = time.monotonic()
        for model in self._models.values():
            idle, runtime = model.declaration.idle_unload_seconds, model.loaded
            if idle and runtime and not runtime.requests_under_way and now - model.used_at > idle:
                log.info("model_unloaded", model=model.declaration.name, idle_seconds=idle)
                model.unload()

    def _follow_file(self) -> None:
        """Take over an edit of the file; before a change, too, which is made to what is declared."""
        if not self._registry.has_changed():
            return
        try:
            self._adopt(self._registry.read())
            self.config_error = None
            log.info("models_read", models=list(self._models))
        except ConfigurationWrong as error:
            self.config_error = str(error)
            log.error("models_not_read", reason=str(error))

    def _new_model(self, declaration: Declaration) -> Model:
        return Model(declaration, self._open_runtime, limits_of=self._limits_of)

    def _limits_of(self, declaration: Declaration) -> Limits:
        return Limits(
            max_batch_tokens=declaration.max_batch_tokens or self._settings.max_batch_tokens,
            max_batch_texts=self._settings.max_batch_texts,
            max_queued_tokens=declaration.max_queued_tokens or self._settings.max_queued_tokens,
        )

    async def _open_runtime(self, declaration: Declaration) -> Runtime:
        settings, limits = self._settings, self._limits_of(declaration)
        if declaration.kind == "http":
            return Remote(declaration, limits=limits)
        spec = spec_of(declaration, threads=settings.threads)
        load = partial(self._load_engine, spec, cache=settings.cache_dir.expanduser())
        loaded: list[Engine] = []
        try:
            for _ in range(declaration.replicas):
                loaded.append(await in_thread(load))
                if foreign := declaration.foreign_to(loaded[-1].facts.kind):  # not known before, where kind is auto
                    raise ModelUnavailable(f"{foreign}, which the model {declaration.name!r} is.")
        except BaseException:
            for engine in loaded:
                engine.close()
            raise
        report = partial(self._on_batch, declaration.name) if self._on_batch is not None else None
        takes_turns = usable_cores() == 1
        return Batcher(loaded, limits=limits, name=declaration.name, on_batch=report, takes_turns=takes_turns)


def spec_of(declaration: Declaration, *, threads: int | None) -> ModelSpec:
    shared = usable_cores() // declaration.replicas if declaration.replicas > 1 else None
    return ModelSpec(
        source=declaration.source,
        kind=declaration.kind if declaration.kind != "http" else "dense",
        engine=declaration.engine,
        dtype=declaration.dtype,
        device=declaration.device,
        threads=declaration.threads or threads or (max(1, shared) if shared is not None else None),
        max_tokens=declaration.max_tokens,
        normalize=False,  # done on each answer, since a request may want it otherwise
        activation=declaration.activation,
    )


def default_declaration(settings: Settings) -> Declaration:
    """The one model of `EMBEDDER_MODEL`."""
    name = settings.served_name or engines.public_name(settings.model)
    chosen = {"engine": settings.engine} if settings.engine != "auto" else {}
    return Declaration.model_validate({"name": name, "model": settings.model, **chosen})


async def in_thread(work: Callable[[], Engine]) -> Engine:
    """Run in a thread that the process does not wait for when it ends: a model being loaded can take a minute."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Engine] = loop.create_future()

    def settle(engine: Engine | None, error: BaseException | None) -> None:
        if done.cancelled():
            if engine is not None:
                engine.close()
        elif engine is not None:
            done.set_result(engine)
        elif error is not None:
            done.set_exception(error)

    def run() -> None:
        engine, failure = None, None
        try:
            engine = work()
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it, whatever it is
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits
            loop.call_soon_threadsafe(settle, engine, failure)

    threading.Thread(target=run, daemon=True, name="load a model").start()
    return await done
