"""Vectors in OpenAI's shape, dense and sparse."""

from starlette.requests import Request
from starlette.responses import Response

from embedder import answers
from embedder.schemas import EmbeddingRequest, SparseRequest, parse, parse_json
from embedder.service import answer, compute, read_body, service_of


async def create_embeddings(request: Request) -> Response:
    service = service_of(request)
    service.check_key(request)
    wanted = parse(EmbeddingRequest, parse_json(await read_body(request)))
    model = service.pool.get_model(wanted.model)
    if wanted.dimensions is not None and model.facts is not None and model.facts.dimensions is not None:
        # told before anything is computed
        answers.check_dimensions(model.declaration, wanted.dimensions, own=model.facts.dimensions)
    texts = await service.texts_of(wanted.input)
    computed = await compute(request, model, texts, input_type=wanted.input_type)
    content = answers.embeddings(
        answers.vectors(computed, model.declaration, dimensions=wanted.dimensions),
        model=model.declaration.name,
        tokens=computed.tokens,
        encoding_format=wanted.encoding_format,
    )
    return answer(content, computed)


async def create_sparse_embeddings(request: Request) -> Response:
    service = service_of(request)
    service.check_key(request)
    wanted = parse(SparseRequest, parse_json(await read_body(request)))
    model = service.pool.get_model(wanted.model) if wanted.model else service.pool.get_first("sparse")
    texts = await service.texts_of(wanted.input)
    computed = await compute(request, model, texts, kind="sparse", input_type=wanted.input_type)
    return answer(answers.sparse_embeddings(computed, model=model.declaration.name), computed)
