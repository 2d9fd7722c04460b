"""Loading a model: from the cache when its export is there, else by way of torch, which makes the export."""

import gc
import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from embedder.engines import Engine, ModelSpec, public_name, sources
from embedder.engines.choices import Choice, accelerator, candidates, hardware, processor
from embedder.engines.cores import usable_cores
from embedder.engines.exports import TOKENIZER_FILE, made, place, read_recipe, writable
from embedder.engines.token_engine import Session, TokenEngine
from embedder.errors import ModelUnavailable

CHOICE_FILE = "choice.json"

log = structlog.get_logger()

# One at a time: transformers and the exporters set what holds for the whole process, and models that are loaded side by
# side lose weights.
_by_torch = threading.Lock()


@dataclass(frozen=True)
class Kept:
    """What the cache holds of a model."""

    cache: Path
    spec: ModelSpec
    fingerprint: str
    choices: list[Choice]

    def export(self, choice: Choice) -> Path:
        # Rounded numbers are as true as the processor's way to compute with them: an export is checked on each kind.
        checked_on = "" if choice.precision == "float32" else f" {processor()}"
        return self._place(f"{choice.name} {self.spec.kind}{checked_on}", readable=choice.name)

    def choice(self) -> Choice | None:
        """The only one there is, or the one that won here before."""
        if len(self.choices) == 1:
            return self.choices[0]
        winner = sources.read_json(self._decision / CHOICE_FILE).get("engine")
        return next((choice for choice in self.choices if choice.name == winner), None)

    def keep_choice(self, choice: Choice, *, seconds: dict[str, float]) -> None:
        with made(self._decision) as filling:
            if filling is not None:
                (filling / CHOICE_FILE).write_text(json.dumps({"engine": choice.name, "seconds": seconds}, indent=1))

    @property
    def _decision(self) -> Path:
        names = ",".join(choice.name for choice in self.choices)
        return self._place(f"auto {self.spec.kind} {names} {hardware(self.spec)}", readable="auto")

    def _place(self, what: str, *, readable: str) -> Path:
        model = public_name(self.spec.source)
        return place(self.cache, model=model, fingerprint=self.fingerprint, what=what, readable=readable)


def load_engine(spec: ModelSpec, *, cache: Path) -> Engine:
    directory = sources.find(spec.source)
    choices = candidates(spec)
    if directory is not None:
        kept = Kept(cache, spec, sources.fingerprint(directory), choices)
        choice = kept.choice()
        if choice is not None and choice.library != "torch" and kept.export(choice).exists():
            try:
                return open_export(kept, choice)
            except Exception as error:  # noqa: BLE001  # its files may be torn in any way: it is made again
                reason = f"{type(error).__name__}: {sources.first_line(error)}"
                log.warning("export_unreadable", directory=str(kept.export(choice)), reason=reason)
                shutil.rmtree(kept.export(choice))
        if choice is not None:
            choices = [choice]
    with _by_torch:
        return load_by_torch(spec, cache=cache, choices=choices)


def open_export(kept: Kept, choice: Choice) -> Engine:
    directory = kept.export(choice)
    session = open_session(directory, choice, spec=kept.spec)
    tokenizer = (directory / TOKENIZER_FILE).read_text()
    return TokenEngine(session, tokenizer=tokenizer, recipe=read_recipe(directory), spec=kept.spec)


def open_session(directory: Path, choice: Choice, *, spec: ModelSpec) -> Session:
    from embedder.engines.onnx_session import OnnxSession
    from embedder.engines.openvino_session import OpenVinoSession

    threads = spec.threads or usable_cores()
    if choice.library == "onnx":
        return OnnxSession(directory, name=choice.name, threads=threads)
    return OpenVinoSession(directory, name=choice.name, precision=choice.precision, threads=threads)


def load_by_torch(spec: ModelSpec, *, cache: Path, choices: list[Choice]) -> Engine:
    from embedder.engines.torch_models import open_original
    from embedder.engines.trial import choose_engine

    kind = None if spec.kind == "auto" else spec.kind
    device = "cpu" if accelerator(spec) is None else spec.device
    original = open_original(spec.source, kind=kind, device=device, threads=spec.threads)
    try:
        directory = sources.find(spec.source)
        if directory is None:
            raise FileNotFoundError("it was downloaded, yet its files are not in the hub's cache")
        engine = choose_engine(original, Kept(writable(cache), spec, sources.fingerprint(directory), choices))
    except ModelUnavailable:
        raise
    except Exception as error:  # as when it is opened: a model can be wrong in any way
        raise sources.unloadable(spec.source, error) from error
    del original
    gc.collect()  # it is large
    return engine
