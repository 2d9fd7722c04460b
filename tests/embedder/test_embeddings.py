from base64 import b64decode

import httpx
import numpy as np
from numpy.typing import NDArray
from openai import OpenAI

from embedder.engines import Engine

MODEL = "all-minilm-l6-v2"
REFUND = "Items can be sent back within 30 days; we then refund what you paid."
COOKING = "Simmer the onions in butter until they are golden."


def embed(client: OpenAI, texts: str | list[str]) -> NDArray[np.float32]:
    answer = client.embeddings.create(model=MODEL, input=texts)
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_a_text_becomes_one_unit_vector_of_384_dimensions(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input="Hello")

    assert answer.object == "list"
    assert answer.model == MODEL
    assert [(item.object, item.index) for item in answer.data] == [("embedding", 0)]
    assert len(answer.data[0].embedding) == 384
    assert np.isclose(np.linalg.norm(answer.data[0].embedding), 1, atol=1e-6)


def test_many_texts_come_back_in_their_order(client: OpenAI) -> None:
    texts = [f"{'word ' * (number % 7)}number {number}" for number in range(70)]
    answer = client.embeddings.create(model=MODEL, input=texts)

    alone = embed(client, texts[41])
    assert [item.index for item in answer.data] == list(range(70))
    assert np.allclose(answer.data[41].embedding, alone[0], atol=1e-5)


def test_a_text_has_the_same_vector_alone_and_among_others_of_other_lengths(client: OpenAI) -> None:
    alone = embed(client, REFUND)
    among = embed(client, [COOKING * 20, REFUND, "Hi"])

    assert np.abs(alone[0] - among[1]).max() < 1e-5


def test_floats_and_base64_are_the_same_vectors(client: OpenAI, http: httpx.Client) -> None:
    floats = client.embeddings.create(model=MODEL, input=[REFUND, COOKING], encoding_format="float")
    body = {"model": MODEL, "input": [REFUND, COOKING], "encoding_format": "base64"}
    encoded = [item["embedding"] for item in http.post("/v1/embeddings", json=body).json()["data"]]

    decoded = np.array([np.frombuffer(b64decode(row), dtype="<f4") for row in encoded])
    assert np.array_equal(np.array([item.embedding for item in floats.data], dtype=np.float32), decoded)


def test_a_question_is_nearer_to_its_answer_than_to_another_matter(client: OpenAI) -> None:
    question, refund, cooking = embed(client, ["how do I return an item?", REFUND, COOKING])

    assert question @ refund > question @ cooking + 0.2


def test_usage_counts_the_tokens_the_model_reads(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input=["Hello", "Hello world"])

    begin_and_end = 2 * 2
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == begin_and_end + 1 + 2


def test_a_text_longer_than_the_window_is_cut_to_it(client: OpenAI) -> None:
    window = client.embeddings.create(model=MODEL, input="word " * 254)
    longer = client.embeddings.create(model=MODEL, input="word " * 254 + "cut off " * 100)

    assert longer.usage.prompt_tokens == 256
    assert longer.data[0].embedding == window.data[0].embedding


def test_optional_fields_may_be_null_and_foreign_ones_are_ignored(client: OpenAI) -> None:
    extra = {"dimensions": None, "encoding_format": None, "user": None, "input_type": "query", "metadata": {"a": 1}}
    answer = client.embeddings.create(model=MODEL, input="Hello", extra_body=extra)

    assert np.allclose(answer.data[0].embedding, embed(client, "Hello")[0], atol=1e-6)


def test_the_models_own_dimension_may_be_asked_for(client: OpenAI) -> None:
    answer = client.embeddings.create(model=MODEL, input="Hello", dimensions=384)

    assert len(answer.data[0].embedding) == 384


def test_text_of_any_script_and_strange_characters_has_a_vector(client: OpenAI) -> None:
    vectors = embed(client, ["  ", "\x00", "東京", "e\u0301\u200d\U0001f469", "\n", "a" * 10_000])

    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_served_vectors_are_the_engines(client: OpenAI, minilm: Engine) -> None:
    rows = np.array(minilm.run(minilm.tokenize([REFUND])))
    assert np.allclose(embed(client, REFUND), rows / np.linalg.norm(rows), atol=1e-6)


def test_the_model_is_listed(client: OpenAI) -> None:
    models = client.models.list()

    assert models.object == "list"
    assert [(model.id, model.object) for model in models.data] == [(MODEL, "model")]
    assert models.data[0].created > 0
