"""Scores of texts for a query: Cohere's and Jina's shape, and text-embeddings-inference's where there are `texts`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from embedder import answers
from embedder.schemas import RerankRequest, TextsRerankRequest, parse, parse_json
from embedder.service import answer, compute, read_body, service_of


async def rerank(request: Request) -> Response:
    return await ranked(request, has_text_objects=True)


async def rerank_for_infinity(request: Request) -> Response:
    """As infinity answers: a result's document is a bare string."""
    return await ranked(request, has_text_objects=False)


async def ranked(request: Request, *, has_text_objects: bool) -> Response:
    service_of(request).check_key(request)
    content = parse_json(await read_body(request))
    if "texts" in content:
        return await ranked_texts(request, content)
    return await ranked_documents(request, content, has_text_objects=has_text_objects)


async def ranked_documents(request: Request, content: Any, *, has_text_objects: bool) -> Response:
    service = service_of(request)
    wanted = parse(RerankRequest, content)
    service.check_texts(wanted.documents, param="documents")
    model = service.pool.get_model(wanted.model) if wanted.model else service.pool.get_first("rerank")
    pairs = [(wanted.query, document) for document in wanted.documents]
    computed = await compute(request, model, pairs, kind="rerank", max_tokens=wanted.truncate_prompt_tokens)
    documents: list[object] | None = None
    if wanted.return_documents:
        documents = [{"text": text} if has_text_objects else text for text in wanted.documents]
    body = answers.rerank(
        answers.scores_of(computed),
        documents,
        model=model.declaration.name,
        tokens=computed.tokens,
        top_n=wanted.top_n,
    )
    return answer(body, computed)


async def ranked_texts(request: Request, content: Any) -> Response:
    service = service_of(request)
    wanted = parse(TextsRerankRequest, content)
    service.check_texts(wanted.texts, param="texts")
    model = service.pool.get_first("rerank")
    computed = await compute(request, model, [(wanted.query, text) for text in wanted.texts], kind="rerank")
    have = model.facts.activation if model.facts is not None else None
    want = "identity" if wanted.raw_scores else "sigmoid"
    scores = answers.activated(answers.scores_of(computed), have=have, want=want)
    texts = wanted.texts if wanted.return_text else None
    return answer(answers.texts_rerank(scores, texts, top_n=wanted.top_n), computed)
