"""The cache of exported models: a directory for each model, engine and set of library versions.

An export appears whole or not at all, and two processes do not make the same one twice.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
from filelock import FileLock

from embedder.engines import Activation, Kind

FORMAT = 4  # of what is written here; raised when an older export cannot be read, or is slower
RECIPE_FILE = "recipe.json"
TOKENIZER_FILE = "tokenizer.json"
LIBRARIES = ("openvino", "nncf", "onnxruntime", "onnx", "torch", "transformers", "sentence-transformers", "tokenizers")

log = structlog.get_logger()


@dataclass(frozen=True)
class Recipe:
    """What must be known of a model to run it without the library that it came from."""

    kind: Kind
    dimensions: int | None
    window: int | None  # the most tokens the model reads; None: any number
    vocabulary_size: int
    inputs: list[str]  # the arrays the model takes, in their order
    pad_id: int = 0
    pad_type_id: int = 0
    padding_side: str = "right"
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str = ""
    activation: Activation | None = None
    fidelity: float = 1.0  # mean cosine to the original's fp32 vectors over the check set


def place(cache: Path, *, model: str, fingerprint: str, what: str, readable: str) -> Path:
    """Where something made of a model lies, there or not: `what` tells it from all else, `readable` is for people."""
    versions = ",".join(f"{library}={installed(library)}" for library in LIBRARIES)
    key = hashlib.blake2b(f"{FORMAT}\0{fingerprint}\0{versions}\0{what}".encode(), digest_size=8).hexdigest()
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{readable}").strip("-.").lower()
    return cache / f"{name}-{key}"


def installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@contextmanager
def made(final: Path) -> Generator[Path | None]:
    """A directory to fill that becomes `final` at the end, or None when another process has filled it meanwhile.

    When the block raises, nothing is left.
    """
    with FileLock(f"{final}.lock"):
        if final.exists():
            yield None
            return
        filling = Path(tempfile.mkdtemp(prefix=".making-", dir=final.parent))
        try:
            yield filling
            filling.rename(final)
        finally:
            shutil.rmtree(filling, ignore_errors=True)


def writable(cache: Path) -> Path:
    """The cache, or a directory for this process alone when nothing can be kept there."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        instead = Path(tempfile.mkdtemp(prefix="quiver-models-"))
        log.warning("cache_not_writable", directory=str(cache), reason=error.strerror, instead=str(instead))
        return instead
    return cache


def write_recipe(directory: Path, recipe: Recipe) -> None:
    (directory / RECIPE_FILE).write_text(json.dumps(asdict(recipe), indent=1))


def read_recipe(directory: Path) -> Recipe:
    return Recipe(**json.loads((directory / RECIPE_FILE).read_text()))
