"""The shapes of the servers that came before: `/embed` and `/batch_embed`."""

from starlette.requests import Request
from starlette.responses import Response

from embedder import answers
from embedder.errors import InvalidRequest
from embedder.model import Model
from embedder.schemas import BatchEmbedRequest, EmbedRequest, VectorOptions, check_texts, parse, parse_json
from embedder.service import Service, answer, compute, read_body, service_of


async def embed(request: Request) -> Response:
    """One vector for `text`; a model's vectors for `texts`, with options."""
    service = service_of(request)
    service.check_key(request)
    wanted = parse(EmbedRequest, parse_json(await read_body(request)))
    if (wanted.text is None) == (wanted.texts is None):
        raise InvalidRequest("Send either 'text' or 'texts'.", param="text")
    param, texts = ("text", [wanted.text]) if wanted.texts is None else ("texts", wanted.texts)
    check_texts(texts, param=param)
    service.check_texts(texts, param=param)
    model = dense_model(service, wanted.model)
    options = wanted.options or VectorOptions()
    computed = await compute(request, model, [text for text in texts if text], max_tokens=options.max_seq_length)
    vectors = answers.vectors(computed, model.declaration, normalize=options.normalize)
    vectors = answers.rounded(vectors, options.dtype)
    dimensions = vectors.shape[1]
    if wanted.text is not None:
        return answer(answers.dumps({"embedding": vectors[0], "dimensions": dimensions}), computed)
    body = {
        "model": model.declaration.name,
        "embeddings": vectors,
        "dimensions": dimensions,
        "dtype": options.dtype or "float32",
        "normalized": model.declaration.normalize if options.normalize is None else options.normalize,
        "usage": {"prompt_tokens": computed.tokens, "total_tokens": computed.tokens},
    }
    return answer(answers.dumps(body), computed)


async def batch_embed(request: Request) -> Response:
    service = service_of(request)
    service.check_key(request)
    wanted = parse(BatchEmbedRequest, parse_json(await read_body(request)))
    check_texts(wanted.texts, param="texts")
    service.check_texts(wanted.texts, param="texts")
    model = dense_model(service, wanted.model)
    if not wanted.texts:
        facts = (await model.runtime()).facts
        return Response(
            answers.dumps({"embeddings": [], "dimensions": facts.dimensions}), media_type="application/json"
        )
    computed = await compute(request, model, wanted.texts)
    vectors = answers.vectors(computed, model.declaration)
    return answer(answers.dumps({"embeddings": vectors, "dimensions": vectors.shape[1]}), computed)


def dense_model(service: Service, name: str | None) -> Model:
    return service.pool.get_model(name) if name else service.pool.get_first("dense")
