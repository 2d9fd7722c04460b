"""One trace from the caller through the API and the proxy to the embedder, and to the database."""

import time

import httpx

from tests.conftest import KEY
from tests.e2e.conftest import MASTER_KEY, QUESTION, Stack
from tests.otlp import Span

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECONDS = 30


def traced(stack: Stack, *, until: set[tuple[str, str]]) -> list[Span]:
    """The spans of our trace, when the services have sent those of these names: each sends in turns of its own."""
    deadline = time.monotonic() + SECONDS
    while until - {(span.service, span.name) for span in stack.collector.of(TRACE)}:
        assert time.monotonic() < deadline, stack.collector.of(TRACE)
        time.sleep(0.1)
    return stack.collector.of(TRACE)


def test_a_search_is_one_trace_through_all_parts(stack: Stack) -> None:
    path = f"/vector_stores/{stack.stores['openai']}/search"
    headers = {"Authorization": f"Bearer {KEY}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = httpx.post(f"{stack.api_url}/v1{path}", json={"query": f"{QUESTION} Soon."}, headers=headers)

    name = "POST /vector_stores/{vector_store_id}/search"
    embedding, proxying = ("quiver-embedder", "POST /v1/embeddings"), ("litellm", "Received Proxy Server Request")
    spans = traced(stack, until={("quiver-api", name), ("litellm", "litellm_request"), embedding, proxying})
    by_name = {(span.service, span.name): span for span in spans}
    request, embed, sql = (by_name["quiver-api", one] for one in (name, "embed", "sql"))

    assert answer.status_code == 200
    assert request.parent_id == PARENT
    assert {embed.parent_id, sql.parent_id} == {request.id}
    assert {by_name[proxying].parent_id, by_name[embedding].parent_id} == {embed.id}
    assert [text for text in (QUESTION, KEY, MASTER_KEY) if text in str([span.attributes for span in spans])] == []
