from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedder.engines import Engine, normalized
from embedder.errors import ModelUnavailable
from tests.embedder import tiny_models
from tests.embedder.conftest import Serve

Load = Callable[..., Engine]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_static(tmp_path_factory.mktemp("static"))


def test_a_model_in_a_directory_is_served_by_the_directorys_name(load: Load, serve: Serve, tiny_bert: Path) -> None:
    with serve(load(model=str(tiny_bert))) as address:
        answer = httpx.post(f"{address}/v1/embeddings", json={"model": "tiny-bert", "input": "the cat sat"}).json()

    assert answer["model"] == "tiny-bert"
    assert len(answer["data"][0]["embedding"]) == 32
    assert answer["usage"]["prompt_tokens"] == 5


def test_its_vectors_are_what_sentence_transformers_computes(load: Load, tiny_bert: Path) -> None:
    texts = ["the cat sat on the mat.", "dogs ran", "the " * 40]
    expected = tiny_models.vectors(tiny_bert, texts)

    encoded = load(model=str(tiny_bert)).encode(texts)

    assert encoded.vectors.dtype == np.float32
    assert np.allclose(encoded.vectors, expected, atol=1e-6)
    assert encoded.tokens == [9, 5, 16]


def test_a_model_of_static_embeddings_counts_its_tokens_too(load: Load, tiny_static: Path) -> None:
    encoded = load(model=str(tiny_static)).encode(["the cat sat", "dog", "the mat ."])

    assert encoded.vectors.shape == (3, 8)
    assert encoded.tokens == [3, 1, 3]


def test_the_served_name_can_be_chosen(load: Load, tiny_bert: Path) -> None:
    assert load(model=str(tiny_bert), served_name="tiny").name == "tiny"


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_bundled_model_is_known_by_its_public_names(load: Load, name: str) -> None:
    assert load(model=name).name == "all-minilm-l6-v2"


def test_a_directory_that_is_not_there_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"There is no directory '.*nowhere'; set EMBEDDER_MODEL"):
        load(model=str(tmp_path / "nowhere"))


def test_a_directory_without_a_model_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"cannot be loaded \(.*\); set EMBEDDER_MODEL"):
        load(model=str(tmp_path))


def test_a_model_with_a_torn_file_is_named(load: Load, tiny_bert: Path, tmp_path: Path) -> None:
    for file in (file for file in tiny_bert.rglob("*") if file.is_file()):
        copy = tmp_path / file.relative_to(tiny_bert)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(model=str(tmp_path))


def test_vectors_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        normalized(np.array([[1, np.nan]], dtype=np.float32))


def test_a_vector_of_zeros_stays_one() -> None:
    assert normalized(np.zeros((1, 3), dtype=np.float32)).tolist() == [[0, 0, 0]]
