"""What callers may send: OpenAI's, Cohere's and text-embeddings-inference's requests, and the older ones."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, cast

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from embedder.errors import InvalidRequest

EncodingFormat = Literal["float", "base64"]
VectorType = Literal["float32", "float16", "bfloat16"]
Request = TypeVar("Request", bound=BaseModel)
StrictPositive = Annotated[StrictInt, Field(ge=1)]

TEXTS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
TOKEN_IDS = {"type": "array", "items": {"type": "integer"}}
INPUT = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            TOKEN_IDS,
            {"type": "array", "items": TOKEN_IDS},
        ]
    }
)


class Lenient(BaseModel):
    """Fields of no meaning here are ignored: a LiteLLM proxy forwards what its callers add."""

    model_config = ConfigDict(extra="ignore")


class EmbeddingRequest(Lenient):
    """OpenAI's request for embeddings."""

    model: str
    input: Annotated[list[str] | list[list[int]], INPUT] = Field(
        description="A text or a list of texts, none of them empty, or OpenAI's token ids (cl100k_base). "
        "A text longer than the model's window (256 tokens for all-minilm-l6-v2) is cut to it, unless the model is "
        "declared to refuse it; the header x-truncated-texts says how many were."
    )
    encoding_format: EncodingFormat | None = Field(
        default=None, description="`base64` is that of little-endian float32. Default: `float`."
    )
    dimensions: StrictPositive | None = Field(
        default=None, description="Fewer dimensions than the model has, for models that are declared to allow it."
    )
    user: object = Field(default=None, description="Ignored.")
    input_type: object = Field(
        default=None,
        description="`query` or `search_query`, `passage`, `document` or `search_document`: which of the model's "
        "prompts is put before the texts. Others are ignored, unless the model itself has a prompt of that name.",
    )

    @field_validator("input", mode="plain")
    @classmethod
    def input_of(cls, value: object) -> list[str] | list[list[int]]:
        return input_of(value)


class SparseRequest(Lenient):
    model: str | None = Field(default=None, description="Default: the first sparse model.")
    input: Annotated[list[str] | list[list[int]], INPUT] = Field(description="As for embeddings.")
    input_type: object = Field(default=None, description="As for embeddings.")

    @field_validator("input", mode="plain")
    @classmethod
    def input_of(cls, value: object) -> list[str] | list[list[int]]:
        return input_of(value)


class RerankRequest(Lenient):
    """Cohere's and Jina's request."""

    model: str | None = Field(default=None, description="Default: the first reranker.")
    query: str = Field(min_length=1)
    documents: Annotated[list[str], TEXTS] = Field(description="Texts, or objects with a `text`.")
    top_n: StrictPositive | None = Field(default=None, description="How many to return. Default: all.")
    return_documents: StrictBool | None = Field(default=None, description="Whether results carry their documents.")
    truncate_prompt_tokens: StrictPositive | None = Field(
        default=None, description="Fewer tokens of a query and document than the model reads."
    )

    @field_validator("documents", mode="plain")
    @classmethod
    def documents_of(cls, value: object) -> list[str]:
        if not isinstance(value, list) or not value:
            raise InvalidRequest("'documents' must be a list of at least one text.", param="documents")
        return [document_of(document, index) for index, document in enumerate(cast("list[object]", value))]


class TextsRerankRequest(Lenient):
    """The request of text-embeddings-inference, which knows no models."""

    query: str = Field(min_length=1)
    texts: list[str] = Field(min_length=1)
    raw_scores: StrictBool = False
    return_text: StrictBool = False
    top_n: StrictPositive | None = None


class VectorOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    normalize: StrictBool | None = Field(default=None, description="Default: as the model is declared.")
    max_seq_length: StrictPositive | None = Field(default=None, description="Fewer tokens than the model reads.")
    dtype: VectorType | None = Field(default=None, description="The precision the numbers are rounded to.")


class EmbedRequest(BaseModel):
    """`/embed`: one `text`, or a model's `texts` with options."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    texts: list[str] | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, description="Default: the first dense model.")
    options: VectorOptions | None = None


class BatchEmbedRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    texts: list[str]
    model: str | None = Field(default=None, description="Default: the first dense model.")


def input_of(value: object) -> list[str] | list[list[int]]:
    """Texts, or the token ids of texts; one becomes a list of one."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InvalidRequest("'input' must be a string or a list of strings.", param="input")
    if not value:
        raise InvalidRequest("'input' is an empty list; send at least one text.", param="input")
    items = cast("list[object]", value)
    if is_token_ids(items):
        return [cast("list[int]", items)]
    if isinstance(items[0], list):
        return lists_of_token_ids(items)
    check_texts(items, param="input")
    return cast("list[str]", items)


def check_texts(items: Iterable[object], *, param: str) -> None:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InvalidRequest(f"'{param}[{index}]' must be a string.", param=param)
        if not item:
            raise InvalidRequest(f"'{param}[{index}]' is an empty string.", param=param)


def lists_of_token_ids(items: list[object]) -> list[list[int]]:
    for index, item in enumerate(items):
        if not isinstance(item, list) or not is_token_ids(cast("list[object]", item)):
            raise InvalidRequest(f"'input[{index}]' must be a list of token ids, as 'input[0]' is.", param="input")
    return cast("list[list[int]]", items)


def is_token_ids(items: list[object]) -> bool:
    return bool(items) and all(type(item) is int for item in items)


def document_of(document: object, index: int) -> str:
    text: object = cast("dict[str, object]", document).get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        message = f"'documents[{index}]' must be a string, or an object with a 'text'."
        raise InvalidRequest(message, param="documents")
    return text


def parse_json(body: bytes) -> Any:
    """Read a body.

    Raises:
        InvalidRequest: it is not a JSON object.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(content, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return cast("Any", content)


def parse(kind: type[Request], content: Any) -> Request:
    """Check a body's content.

    Raises:
        InvalidRequest: names the first field that is wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not param:
            raise InvalidRequest(f"{message}.") from error
        if first["type"] == "missing":
            message = f"The field {param!r} is missing."
            raise InvalidRequest(message, param=param, code="missing_required_parameter") from error
        raise InvalidRequest(f"{param!r} is wrong: {message}.", param=param) from error
