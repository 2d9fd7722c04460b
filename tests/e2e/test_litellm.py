"""LiteLLM as our client: its SDK with both providers, and a running proxy on our own configuration."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from openai import NotFoundError

from tests.conftest import KEY
from tests.e2e.conftest import ANSWER, QUESTION, TEXTS, Stack

SEARCH = {"query": QUESTION, "max_num_results": 1}

# A process of its own: LiteLLM is imported nowhere in ours.
SDK_PROGRAM = """
import json, sys
import litellm

options = json.loads(sys.argv[1])
store = litellm.vector_stores.create(name="made by LiteLLM", metadata={"team": "x"}, **options)
found = litellm.vector_stores.search(vector_store_id=sys.argv[2], query=sys.argv[3], max_num_results=2,
    filters={"type": "eq", "key": "topic", "value": "returns"}, ranking_options={"score_threshold": 0.1}, **options)
print(json.dumps({"store": dict(store), "found": dict(found)}, default=str))
"""


def texts(page: Any) -> list[str]:
    return [result["content"][0]["text"] for result in page["data"]]


@pytest.mark.parametrize(("provider", "suffix"), [("pg_vector", ""), ("openai", "/v1")])
def test_litellms_sdk_creates_and_searches(stack: Stack, provider: str, suffix: str) -> None:
    options = {"custom_llm_provider": provider, "api_base": f"{stack.api_url}{suffix}", "api_key": KEY}
    command = [sys.executable, "-c", SDK_PROGRAM, json.dumps(options), stack.stores["unregistered"], QUESTION]
    environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

    program = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert program.returncode == 0, program.stderr
    output = json.loads(program.stdout.splitlines()[-1])
    assert output["store"]["object"] == "vector_store"
    assert output["store"]["metadata"] == {"team": "x"}
    assert texts(output["found"]) == [ANSWER]


@pytest.mark.parametrize("provider", ["pg_vector", "openai"])
def test_a_search_sent_to_the_proxy_reaches_a_registered_store(stack: Stack, provider: str) -> None:
    page = stack.proxy.vector_stores.search(
        stack.stores[provider],
        query=QUESTION,
        max_num_results=1,
        filters={"type": "eq", "key": "year", "value": 2024},
        ranking_options={"score_threshold": 0.1},
    )

    assert [result.content[0].text for result in page.data] == [ANSWER]


@pytest.mark.parametrize("how", [{"model": "quiver"}, {"custom_llm_provider": "pg_vector"}])
def test_a_search_sent_to_the_proxy_reaches_any_store(stack: Stack, how: dict[str, str]) -> None:
    page: Any = stack.proxy.post(
        f"/vector_stores/{stack.stores['unregistered']}/search", body=SEARCH | how, cast_to=object
    )

    assert texts(page) == [ANSWER]


def test_a_store_can_be_made_through_the_proxy(stack: Stack) -> None:
    made: Any = stack.proxy.post("/vector_stores", body={"name": "proxied", "model": "quiver"}, cast_to=object)

    assert stack.quiver.vector_stores.retrieve(made["id"]).name == "proxied"


def test_a_chat_with_file_search_is_given_what_we_found(stack: Stack) -> None:
    stack.chat.requests.clear()
    tool = {
        "type": "file_search",
        "vector_store_ids": [stack.stores["pg_vector"]],
        "max_num_results": 1,
        "filters": {"type": "eq", "key": "topic", "value": "returns"},
    }

    stack.proxy.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": QUESTION}], extra_body={"tools": [tool]}
    )

    sent = json.dumps(stack.chat.requests[0]["messages"])
    assert ANSWER in sent
    assert not any(text in sent for text in TEXTS if text != ANSWER)


def test_the_proxy_hands_our_errors_on(stack: Stack) -> None:
    with pytest.raises(NotFoundError, match=r"No vector store found with id .*vs_none"):
        stack.proxy.post("/vector_stores/vs_none/search", body=SEARCH | {"model": "quiver"}, cast_to=object)
