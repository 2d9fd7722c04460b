"""The models' declarations and the YAML file that holds them.

The file is the only truth: what is changed over HTTP is written into it, at once and whole, with the comments and the
order its author gave it; what its author changes there is read again.
"""

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embedder.engines import Activation, Device, DType, EngineChoice
from embedder.errors import ConfigurationWrong

LOCAL_ONLY = ("model", "engine", "dtype", "device", "threads", "replicas", "max_tokens", "activation")
HTTP_ONLY = ("url", "shape", "remote_model", "api_key_env", "timeout_seconds")
# What would change nothing for a model of this kind.
FOREIGN: dict[str, tuple[str, ...]] = {
    "auto": HTTP_ONLY,
    "dense": (*HTTP_ONLY, "activation"),
    "sparse": (*HTTP_ONLY, "activation", "normalize", "matryoshka"),
    "rerank": (*HTTP_ONLY, "query_prompt", "passage_prompt", "normalize", "matryoshka"),
    "http": (*LOCAL_ONLY, "truncate", "max_batch_tokens"),
}
# The precisions that an engine can be told to compute in; the others: all of them.
PRECISIONS: dict[EngineChoice, tuple[DType, ...]] = {
    "onnx": ("auto", "float32"),
    "onnx-int8": ("auto",),
    "openvino": ("auto", "float32", "bfloat16"),
    "openvino-int8": ("auto",),
}
# What a change of needs the model to be loaded again; the rest holds from the next request on.
LOADED = {"kind", *LOCAL_ONLY, *HTTP_ONLY, "max_batch_tokens", "max_queued_tokens"}

Name = Annotated[str, Field(pattern=r"^[^\s/]\S*$", max_length=255)]
Positive = Annotated[int, Field(ge=1)]


class Declaration(BaseModel):
    """One model, as the file and the requests that change models spell it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="What callers call the model.")
    kind: Literal["auto", "dense", "sparse", "rerank", "http"] = Field(
        default="auto", description="`auto`: told from the model's files. `http`: another server has it."
    )
    aliases: list[Name] = Field(default=[], description="Other names of the model.")
    enabled: bool = Field(default=True, description="A disabled model is declared and not loaded.")
    query_prompt: str | None = Field(
        default=None, description="Put before texts whose `input_type` is query. Unset: the model's own."
    )
    passage_prompt: str | None = Field(
        default=None, description="Put before texts whose `input_type` is passage or document. Unset: the model's own."
    )
    truncate: Literal["cut", "refuse"] = Field(
        default="cut", description="What becomes of a text longer than the model reads: cut and told, or a 400."
    )
    normalize: bool = Field(default=True, description="Vectors of length one.")
    matryoshka: bool | list[Positive] = Field(
        default=False, description="Whether vectors may be asked for with fewer `dimensions`: any, or which."
    )
    idle_unload_seconds: float | None = Field(
        default=None, gt=0, description="Unload the model after so long without a request; the next one loads it."
    )
    max_batch_tokens: Positive | None = Field(default=None, description="Instead of `EMBEDDER_MAX_BATCH_TOKENS`.")
    max_queued_tokens: Positive | None = Field(default=None, description="Instead of `EMBEDDER_MAX_QUEUED_TOKENS`.")

    model: str | None = Field(
        default=None, description="The bundled model, a directory, or a name on Hugging Face's hub. Unset: `name`."
    )
    engine: EngineChoice = Field(default="auto", description="What runs the model.")
    dtype: DType = Field(default="auto", description="The precision it runs in.")
    device: Device = Field(default="auto", description="Where it runs.")
    threads: Positive | None = Field(default=None, description="CPU threads of each replica.")
    replicas: int = Field(default=1, ge=1, le=64, description="How many times the model is loaded.")
    max_tokens: Positive | None = Field(default=None, description="Fewer tokens of a text than the model could read.")
    activation: Activation | None = Field(
        default=None, description="What makes a reranker's scores of its logits. Unset: as its configuration says."
    )

    url: str | None = Field(default=None, pattern=r"^https?://", description="`http`: where the other server is.")
    shape: Literal["openai", "embed", "batch_embed"] = Field(
        default="openai", description="`http`: POST `/embeddings`, `/embed` with `texts`, or `/batch_embed`."
    )
    remote_model: str | None = Field(default=None, description="`http`: the model's name there. Unset: `name`.")
    api_key_env: str | None = Field(default=None, description="`http`: environment variable that holds the key.")
    timeout_seconds: float = Field(default=60, gt=0, description="`http`: how long an answer may take.")

    @model_validator(mode="after")
    def fits_its_kind(self) -> Self:
        if foreign := self.foreign_to(self.kind):
            raise ValueError(foreign)
        if self.kind == "http" and self.url is None:
            raise ValueError("kind 'http' needs a url")
        return self

    @model_validator(mode="after")
    def fits_its_engine(self) -> Self:
        if self.engine not in PRECISIONS:
            return self
        if self.dtype not in PRECISIONS[self.engine]:
            raise ValueError(f"engine {self.engine!r} has no dtype {self.dtype!r}; leave one of them out")
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"engine {self.engine!r} runs on the CPU; leave it or device {self.device!r} out")
        return self

    def foreign_to(self, kind: str) -> str | None:
        """What is said of fields that are set and mean nothing for a model of this kind; None when there are none."""
        foreign = self.model_dump(include=set(FOREIGN[kind]), exclude_defaults=True)
        return f"{', '.join(foreign)} cannot be set for kind {kind!r}" if foreign else None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def source(self) -> str:
        return self.url or self.model or self.name

    def is_loaded_like(self, other: "Declaration") -> bool:
        return self.model_dump(include=LOADED) == other.model_dump(include=LOADED)


class Registry:
    """The file of declarations. Without a path there is nothing to write to: changes are refused."""

    def __init__(self, path: Path | None, *, otherwise: list[Declaration]) -> None:
        self._path = path.expanduser() if path is not None else None
        self._otherwise = otherwise  # what is declared as long as there is no file
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> list[Declaration]:
        """Every declaration, in the file's order.

        Raises:
            ConfigurationWrong: the file is there and wrong; says where.
        """
        was_there, self._seen = self._seen is not None, self._stamp()
        if self._seen is not None:
            return declarations_of(self._document())
        if was_there:
            raise ConfigurationWrong(f"{self._path} is gone; the models stay as they were.")
        return self._otherwise

    def has_changed(self) -> bool:
        """Whether the file is another one than was last read, but for what was written here."""
        return self._stamp() != self._seen

    def put(self, declaration: Declaration) -> None:
        """Write a declaration, in the place of one with its name if there is one.

        Raises:
            ConfigurationWrong: the file cannot be read or written.
        """

        def change(models: list[Any]) -> None:
            written = declaration.model_dump(mode="json", exclude_defaults=True)
            for model in models:
                if model["name"] == declaration.name:
                    for field in [field for field in model if field not in written]:
                        del model[field]
                    model.update(written)
                    return
            models.append(written)

        self._write(change)

    def remove(self, name: str) -> None:
        def change(models: list[Any]) -> None:
            models[:] = [model for model in models if model["name"] != name]

        self._write(change)

    def check_writable(self) -> None:
        if self._path is None:
            raise ConfigurationWrong(
                "Models cannot be changed: there is no file to keep the change in. Set EMBEDDER_CONFIG to one, "
                "which need not exist yet."
            )

    def _write(self, change: Callable[[list[Any]], None]) -> None:
        self.check_writable()
        assert self._path is not None  # just checked
        is_read = not self.has_changed()
        document = self._document() if self._stamp() is not None else self._new_document()
        declarations_of(document)  # a file that is wrong is not written over
        change(document["models"])
        text = StringIO()
        _yaml().dump(document, text)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigurationWrong(
                f"The change cannot be kept: {self._path} cannot be written ({error.strerror}). "
                "Its directory must be writable, and the file no mount of its own."
            ) from error
        if is_read:  # otherwise an edit that nobody has read yet stands in the file as well
            self._seen = self._stamp()

    def _document(self) -> Any:
        from ruamel.yaml import YAMLError

        assert self._path is not None  # there is a stamp
        try:
            document = _yaml().load(self._path)
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            raise ConfigurationWrong(f"{self._path} cannot be read: {' '.join(str(error).split())}.") from error
        if document is None:  # an editor empties a file before it writes it
            raise ConfigurationWrong(f"{self._path} is empty; write `models: []` to declare none.")
        if not isinstance(document, dict) or set(cast("dict[str, Any]", document)) - {"models"}:
            raise ConfigurationWrong(f"{self._path} must hold `models:` and a list of models, nothing else.")
        if document.get("models") is None:  # pyright: ignore[reportUnknownMemberType]  # anything a YAML file may hold
            document["models"] = []
        return cast("Any", document)

    def _new_document(self) -> Any:
        return {"models": [model.model_dump(mode="json", exclude_defaults=True) for model in self._otherwise]}

    def _stamp(self) -> tuple[int, int, int] | None:
        """What tells one version of the file from another; None when there is none."""
        try:
            status = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        return status and (status.st_mtime_ns, status.st_size, status.st_ino)


def declarations_of(document: Any) -> list[Declaration]:
    """Check a file's content.

    Raises:
        ConfigurationWrong: a model is wrong, or two have one name; says which.
    """
    models = document["models"]
    if not isinstance(models, list):
        raise ConfigurationWrong("`models` must be a list: each model begins with `- name:`.")
    declarations: list[Declaration] = []
    taken: dict[str, str] = {}
    for position, model in enumerate(cast("list[object]", models), 1):
        try:
            declaration = Declaration.model_validate(model)
        except ValidationError as error:
            raise ConfigurationWrong(f"Model {position} is wrong: {explain(error)}.") from error
        for name in declaration.names:
            if name in taken:
                raise ConfigurationWrong(f"The name {name!r} of {declaration.name!r} is taken by {taken[name]!r}.")
            taken[name] = declaration.name
        declarations.append(declaration)
    return declarations


def explain(error: ValidationError) -> str:
    """The first thing that is wrong, with the field it is in."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()  # keeps comments, order and quotes
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.width = 120
    return yaml
