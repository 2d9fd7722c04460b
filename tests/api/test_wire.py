"""Vectors as requests bring them: many at once are read as each by itself is."""

from base64 import b64encode

import numpy as np
import pytest

from api.errors import InvalidRequest
from api.wire import read_vector, read_vectors


def encoded(*vector: float) -> str:
    return b64encode(np.array(vector, dtype="<f4").tobytes()).decode()


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 6, 384])  # those that are no multiple of three have padding
def test_many_in_base64_are_read_as_each_by_itself(dimension: int) -> None:
    texts = [encoded(*row) for row in np.random.default_rng(1).normal(size=(5, dimension))]

    together = read_vectors(texts, param_of=str)

    alone = [read_vector(text, param="embedding") for text in texts]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("good", [encoded(1.0, 2.0, 3.0), encoded(1.0, 2.0)])
@pytest.mark.parametrize(
    "bad",
    [
        "",
        "AAAA",
        "AACAPwAAAEAAAEBA"[:-1],
        "AACAPwAAAEAAAEB\n",
        "AACAPwAAAEAAAEB!",
        "AACAPwAAAEAAAEB=",
        "=ACAPwAAAEAAAEBA",
        "AACAPwAAAEA==EBA",
        encoded(0.0, 0.0, 0.0),
        encoded(1.0, float("nan"), 0.0),
    ],
)
def test_of_many_the_one_that_is_wrong_is_named(good: str, bad: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_vectors([good, good, bad, good], param_of=lambda place: f"embeddings.{place}.embedding")

    assert refused.value.param == "embeddings.2.embedding"


def test_of_bad_ones_that_make_a_good_whole_the_first_is_named() -> None:
    """Cut in the middle of a float, they are base64 of six bytes each."""
    whole = b64encode(np.array([1.0, 2.0, 3.0], dtype="<f4").tobytes()).decode()

    with pytest.raises(InvalidRequest) as refused:
        read_vectors([whole[:8], whole[8:]], param_of=str)

    assert refused.value.param == "0"
