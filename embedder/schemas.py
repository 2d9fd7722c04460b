"""OpenAI's request and answers for embeddings and models, from JSON and to it."""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, WithJsonSchema, field_validator

from embedder.engines import Encoded
from embedder.errors import InvalidRequest

EncodingFormat = Literal["float", "base64"]


class Model(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


class EmbeddingRequest(BaseModel):
    """Fields of no meaning here are ignored: a LiteLLM proxy forwards what its callers add."""

    model_config = ConfigDict(extra="ignore")

    model: str
    input: Annotated[
        list[str],
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(
        description="A text or a list of texts, none of them empty. A text longer than the model's window "
        "(256 tokens for all-minilm-l6-v2) is cut to it."
    )
    encoding_format: EncodingFormat | None = Field(
        default=None, description="`base64` is that of little-endian float32. Default: `float`."
    )
    dimensions: StrictInt | None = Field(
        default=None, description="The model's own dimension is the only one there is."
    )
    user: object = Field(default=None, description="Ignored.")
    input_type: object = Field(default=None, description="Ignored.")

    @field_validator("input", mode="plain")
    @classmethod
    def texts_of(cls, value: object) -> list[str]:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list):
            raise InvalidRequest("'input' must be a string or a list of strings.", param="input")
        if not value:
            raise InvalidRequest("'input' is an empty list; send at least one text.", param="input")
        items = cast("list[object]", value)
        for index, item in enumerate(items):
            if isinstance(item, int | list):
                raise InvalidRequest(
                    "'input' holds token ids, which belong to another model's tokenizer; send the texts "
                    "themselves (LangChain: `check_embedding_ctx_length=False`).",
                    param="input",
                )
            if not isinstance(item, str):
                raise InvalidRequest(f"'input[{index}]' must be a string.", param="input")
            if not item:
                raise InvalidRequest(f"'input[{index}]' is an empty string.", param="input")
        return cast("list[str]", items)


def parse_embedding_request(body: bytes) -> EmbeddingRequest:
    """Read a request's body.

    Raises:
        InvalidRequest: it is not JSON, or not a request; names the first field that is wrong.
    """
    try:
        return EmbeddingRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InvalidRequest("The body must be a JSON object.") from error
        param = str(first["loc"][0])
        if first["type"] == "missing":
            message = f"The field {param!r} is missing."
            raise InvalidRequest(message, param=param, code="missing_required_parameter") from error
        raise InvalidRequest(f"{param!r} is wrong: {first['msg']}.", param=param) from error


def embedding_response(encoded: Encoded, *, model: str, encoding_format: EncodingFormat) -> bytes:
    rows = base64_rows(encoded.vectors) if encoding_format == "base64" else encoded.vectors
    tokens = sum(encoded.tokens)
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def base64_rows(vectors: NDArray[np.float32]) -> list[str]:
    return [base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4", copy=False)]


def model_list(names: Sequence[str], *, created: int) -> ModelList:
    data: list[Model] = [{"id": name, "object": "model", "created": created, "owned_by": "quiver"} for name in names]
    return {"object": "list", "data": data}
