"""Models that no exported graph can stand for: sentence-transformers itself runs them."""

from pathlib import Path

import numpy as np
import pytest

from embedder.batching import shortened
from embedder.errors import ModelUnavailable
from tests.embedder import tiny_models
from tests.embedder.conftest import Load, vectors

TEXTS = ["the cat sat on the mat.", "dogs ran", "the " * 40, ""]


@pytest.fixture(scope="session")
def tiny_static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_static(tmp_path_factory.mktemp("static"))


@pytest.fixture(scope="session")
def tiny_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_words(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def tiny_instructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose pooling leaves the prompt out, which no exported graph can do."""
    return tiny_models.save_bert(tmp_path_factory.mktemp("instructed"), include_prompt=False)


def test_a_model_of_static_embeddings_stays_with_sentence_transformers(load: Load, tiny_static: Path) -> None:
    texts = ["the cat sat", "dog", "the mat ."]

    loaded = load(tiny_static)

    assert loaded.name == "torch-f32"
    assert [one.total for one in loaded.tokenize(texts)] == [3, 1, 3]
    assert np.allclose(vectors(loaded, texts), tiny_models.vectors(tiny_static, texts), atol=1e-6)


def test_a_model_that_cannot_be_exported_says_so_when_asked_to(load: Load, tiny_static: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no plain transformer.*'engine: auto'"):
        load(tiny_static, engine="openvino")


def test_what_sentence_transformers_cuts_is_counted_whole(load: Load, tiny_instructed: Path) -> None:
    loaded = load(tiny_instructed)

    tokens = loaded.tokenize(TEXTS)

    assert loaded.name == "torch-f32"
    assert [one.total for one in tokens] == [9, 5, 42, 2]
    assert [len(one.ids) for one in tokens] == [9, 5, 16, 2]
    assert np.allclose(vectors(loaded, TEXTS), tiny_models.vectors(tiny_instructed, TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("tiny", "reads"),
    [("tiny_instructed", "the cat"), ("tiny_static", "the cat sat on"), ("tiny_words", "the cat sat on")],
)
def test_a_shorter_window_holds_for_what_sentence_transformers_reads(
    load: Load, request: pytest.FixtureRequest, tiny: str, reads: str
) -> None:
    source: Path = request.getfixturevalue(tiny)
    whole, declared = load(source), load(source, max_tokens=4)
    texts = ["the cat sat on mat", "dog"]
    asked = whole.run([shortened(tokens, 4, whole) for tokens in whole.tokenize(texts)])

    assert isinstance(asked, np.ndarray)
    assert not np.allclose(vectors(whole, texts)[0], vectors(whole, [reads])[0], atol=1e-3)
    for rows in (vectors(declared, texts), asked):
        assert np.allclose(rows, vectors(whole, [reads, "dog"]), atol=1e-6)


def test_a_window_that_cannot_be_set_is_refused(load: Load, tmp_path: Path) -> None:
    source = tiny_models.save_bert(tmp_path, own_window=20)

    loaded = load(source)
    shorter = shortened(loaded.tokenize(["the cat sat"])[0], 2, loaded)

    assert vectors(loaded, TEXTS).shape == (4, 32)
    with pytest.raises(ValueError, match="cannot be cut"):
        loaded.run([shorter])
    with pytest.raises(ModelUnavailable, match=r"cannot be set; declare it without 'max_tokens'"):
        load(source, max_tokens=4)


def test_a_precision_is_refused_for_what_only_sentence_transformers_runs(load: Load, tiny_static: Path) -> None:
    with pytest.raises(ModelUnavailable, match="declare it without 'dtype'"):
        load(tiny_static, dtype="bfloat16")
