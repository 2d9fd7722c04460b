import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.texts import nearest_shared, sentences
from embedder import engines
from embedder.engines import Engine, EngineChoice, ModelSpec, Precision, SparseVector, choices, onnx_int8, sources
from embedder.engines.choices import Choice
from embedder.engines.loading import Kept
from embedder.engines.openvino_session import few_shapes
from embedder.engines.rows import normalized
from embedder.engines.torch_models import open_original
from embedder.engines.trial import choose_engine, chosen
from embedder.errors import ModelUnavailable
from tests.embedder import tiny_models
from tests.embedder.conftest import Load, vectors

FULL_PRECISION: list[EngineChoice] = ["torch", "onnx", "openvino"]
IN_8_BITS: list[EngineChoice] = ["onnx-int8", "openvino-int8"]
TEXTS = ["the cat sat on the mat.", "dogs ran", "the " * 40, ""]
PAIRS = [("the cat", "the cat sat on the mat"), ("dog", "the dogs ran."), ("mat", "cat " * 60)]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_splade(tmp_path_factory.mktemp("splade"))


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


@pytest.fixture(scope="session")
def tiny_outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_bert(tmp_path_factory.mktemp("outliers"), outliers=True)


@pytest.mark.parametrize("engine", FULL_PRECISION)
def test_its_vectors_are_what_sentence_transformers_computes(load: Load, tiny_bert: Path, engine: EngineChoice) -> None:
    loaded = load(tiny_bert, engine=engine, dtype="float32")

    computed = vectors(loaded, TEXTS)

    assert loaded.name == f"{engine}-f32"
    assert (loaded.facts.kind, loaded.facts.dimensions, loaded.facts.max_tokens) == ("dense", 32, 16)
    assert computed.dtype == np.float32
    assert np.allclose(computed, tiny_models.vectors(tiny_bert, TEXTS), atol=1e-5)


@pytest.mark.parametrize("engine", FULL_PRECISION)
def test_its_sparse_vectors_are_what_sentence_transformers_computes(
    load: Load, tiny_splade: Path, engine: EngineChoice
) -> None:
    loaded = load(tiny_splade, engine=engine, dtype="float32")

    rows = loaded.run(loaded.tokenize(TEXTS))

    dense: NDArray[np.float32] = np.zeros((len(TEXTS), len(tiny_models.WORDS)), dtype=np.float32)
    for place, row in enumerate(rows):
        assert isinstance(row, SparseVector)
        dense[place, row.indices] = row.values
    assert loaded.facts.kind == "sparse"
    assert np.allclose(dense, tiny_models.sparse_vectors(tiny_splade, TEXTS), atol=1e-5)


@pytest.mark.parametrize("engine", FULL_PRECISION)
def test_its_scores_are_what_sentence_transformers_computes(
    load: Load, tiny_cross_encoder: Path, engine: EngineChoice
) -> None:
    loaded = load(tiny_cross_encoder, engine=engine, dtype="float32")

    computed = vectors(loaded, PAIRS)

    assert (loaded.facts.kind, loaded.facts.activation) == ("rerank", "sigmoid")
    assert np.allclose(computed, tiny_models.scores(tiny_cross_encoder, PAIRS), atol=1e-5)


def test_scores_can_be_left_as_the_model_gives_them(load: Load, tiny_cross_encoder: Path) -> None:
    logits = vectors(load(tiny_cross_encoder, engine="openvino", activation="identity"), PAIRS)
    scores = vectors(load(tiny_cross_encoder, engine="openvino"), PAIRS)

    assert np.allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-6)


def test_tokens_are_counted_before_and_after_the_cut(load: Load, tiny_bert: Path) -> None:
    tokens = load(tiny_bert, engine="openvino").tokenize(TEXTS)

    assert [one.total for one in tokens] == [9, 5, 42, 2]
    assert [len(one.ids) for one in tokens] == [9, 5, 16, 2]


def test_the_window_can_be_made_shorter_but_not_longer(load: Load, tiny_bert: Path) -> None:
    short = load(tiny_bert, engine="openvino", max_tokens=8)

    assert [len(one.ids) for one in short.tokenize(["the " * 40])] == [8]
    assert load(tiny_bert, engine="openvino", max_tokens=1000).facts.max_tokens == 16


def test_a_prompt_is_put_before_each_text(load: Load, tiny_bert: Path) -> None:
    loaded = load(tiny_bert, engine="openvino")

    assert loaded.tokenize(["sat"], prompt="the cat ") == loaded.tokenize(["the cat sat"])


def test_ids_become_text_again(load: Load, tiny_bert: Path) -> None:
    loaded = load(tiny_bert, engine="openvino")

    assert loaded.decode(loaded.tokenize(["the cat sat"])[0].ids) == "the cat sat"


@pytest.mark.parametrize("engine", FULL_PRECISION)
def test_a_text_alone_and_among_256_gets_the_same_vector(load: Load, tiny_bert: Path, engine: EngineChoice) -> None:
    loaded = load(tiny_bert, engine=engine)
    texts = [" ".join(["cat", "dog", "mat"][: 1 + place % 3] * (1 + place % 5)) for place in range(256)]

    together = vectors(loaded, texts)

    for place in range(0, 256, 17):
        assert np.allclose(vectors(loaded, [texts[place]])[0], together[place], atol=1e-5)


def test_each_layer_of_an_onnx_model_is_one_operator_for_all_tokens(
    load: Load, tiny_bert: Path, tiny_cache: Path
) -> None:
    load(tiny_bert, engine="onnx").close()

    file = next(tiny_cache.glob("tiny-bert-onnx-f32-*/model.onnx"))
    model: Any = onnx.load(file)  # pyright: ignore[reportUnknownMemberType]  # partly untyped
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Gemm") == 6 * 2  # six layers with weights in each of two transformer layers
    assert operators.count("MatMul") == 2 * 2  # attention's own
    assert operators.count("Shape") < 10


@pytest.mark.parametrize("engine", ["openvino", "openvino-int8"])
def test_a_batch_that_is_padded_with_texts_gives_the_same_vectors(load: Load, tiny_bert: Path, engine: str) -> None:
    loaded = load(tiny_bert, engine=engine)
    texts = ["the cat sat", *["dog mat"] * 8]

    together = vectors(loaded, texts)

    assert loaded.shape(9, 5)[0] > len(together) == 9
    assert np.allclose(vectors(loaded, texts[:1])[0], together[0], atol=1e-5)


@given(st.integers(1, 256), st.integers(1, 512))
def test_openvino_s_batches_have_few_shapes_and_hold_what_they_are_asked_to(texts: int, longest: int) -> None:
    rows, columns = few_shapes(texts, longest)

    assert texts <= rows <= texts * 3 / 2
    assert longest <= columns < longest + 16
    assert few_shapes(rows, columns) == (rows, columns)


def test_rows_stay_what_they_are_when_the_engine_runs_again(load: Load, tiny_bert: Path) -> None:
    loaded = load(tiny_bert, engine="openvino", normalize=False)
    first = vectors(loaded, TEXTS)
    before = first.copy()

    vectors(loaded, TEXTS[::-1])

    assert np.array_equal(first, before)


def test_the_bundled_models_vector_does_not_depend_on_its_company(minilm: Engine) -> None:
    texts = ["How is the bill paid?", *["A kitten sleeps on the sill. " * (1 + place % 4) for place in range(255)]]

    assert np.allclose(vectors(minilm, texts[:1])[0], vectors(minilm, texts)[0], atol=1e-5)


def test_a_precision_can_be_declared(load: Load, tiny_bert: Path) -> None:
    loaded = load(tiny_bert, engine="torch", dtype="bfloat16")
    computed, exact = vectors(loaded, TEXTS), tiny_models.vectors(tiny_bert, TEXTS)

    assert loaded.name == "torch-bf16"
    assert 0.999 < (computed * exact).sum(1).mean() < 1
    assert not np.allclose(computed, exact, atol=1e-5)


@pytest.mark.parametrize(("engine", "dtype"), [("openvino", "float16"), ("onnx", "bfloat16"), ("onnx", "float16")])
def test_a_precision_that_an_engine_lacks_is_refused(
    load: Load, tiny_bert: Path, engine: EngineChoice, dtype: str
) -> None:
    with pytest.raises(ModelUnavailable, match=f"'{engine}' does not compute in '{dtype}'"):
        load(tiny_bert, engine=engine, dtype=dtype)


@pytest.mark.parametrize(("engine", "exports"), [("onnx", 1), ("onnx-int8", 2)])
def test_an_export_that_rounds_is_checked_on_each_kind_of_processor(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineChoice, exports: int
) -> None:
    spec = ModelSpec(str(tiny_bert), engine=engine, threads=1)
    engines.load(spec, cache=tmp_path).close()
    other = tmp_path / "cpuinfo"
    other.write_text("model name : another\nflags : none\n")
    monkeypatch.setattr(choices, "CPU_INFO", other)

    engines.load(spec, cache=tmp_path).close()

    assert len(list(tmp_path.glob("*/model.onnx"))) == exports


def test_processors_that_compute_otherwise_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "CPU_INFO", tmp_path / "cpuinfo")
    kinds = ["model name: A\nflags: sse", "model name: A\nflags: sse avx512_vnni", "CPU part: 0xd0c", "CPU part: 0xd40"]

    told: set[str] = set()
    for kind in kinds:
        choices.CPU_INFO.write_text(kind)
        told.add(choices.processor())

    assert len(told) == len(kinds)


def test_auto_remembers_which_engine_was_fastest(load: Load, tiny_bert: Path, tiny_cache: Path) -> None:
    first, second = load(tiny_bert), load(tiny_bert)

    assert first.name == second.name
    assert list(tiny_cache.glob("tiny-bert-auto-*/choice.json"))


@pytest.mark.parametrize(("seconds", "winner"), [(0.95, "onnx-f32"), (0.85, "openvino-f32")])
def test_auto_takes_openvino_where_it_is_clearly_faster(seconds: float, winner: str) -> None:
    taken = {Choice("openvino", "float32"): seconds, Choice("onnx", "float32"): 1.0, Choice("torch", "float32"): 0.7}

    assert chosen(taken).name == winner


@pytest.mark.parametrize("engine", IN_8_BITS)
def test_an_engine_in_8_bits_is_near_the_original(load: Load, tiny_bert: Path, engine: EngineChoice) -> None:
    computed = vectors(load(tiny_bert, engine=engine), TEXTS)

    assert (computed * tiny_models.vectors(tiny_bert, TEXTS)).sum(1).mean() > 0.98
    assert not np.allclose(computed, tiny_models.vectors(tiny_bert, TEXTS), atol=1e-5)


@pytest.mark.parametrize("engine", IN_8_BITS)
def test_in_8_bits_a_texts_vector_does_not_depend_on_its_company(
    load: Load, tiny_bert: Path, engine: EngineChoice
) -> None:
    loaded = load(tiny_bert, engine=engine)

    together = vectors(loaded, TEXTS)

    assert np.allclose(np.concatenate([vectors(loaded, [text]) for text in TEXTS]), together, atol=1e-6)


def test_a_large_onnx_model_in_8_bits_has_its_weights_in_a_file_of_their_own(
    load: Load, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vectors(load(tiny_bert, engine="onnx-int8"), TEXTS)
    monkeypatch.setattr(onnx_int8, "LARGE_BYTES", 0)

    loaded = engines.load(ModelSpec(str(tiny_bert), engine="onnx-int8", threads=1), cache=tmp_path)

    assert np.array_equal(vectors(loaded, TEXTS), expected)
    assert next(tmp_path.glob("*/model.onnx.data")).stat().st_size > 1000


def test_models_of_the_other_kinds_run_in_8_bits(load: Load, tiny_splade: Path, tiny_cross_encoder: Path) -> None:
    sparse, rerank = (load(tiny, engine="onnx-int8") for tiny in (tiny_splade, tiny_cross_encoder))

    assert (sparse.name, len(sparse.run(sparse.tokenize(TEXTS)))) == ("onnx-int8", len(TEXTS))
    assert np.allclose(vectors(rerank, PAIRS), tiny_models.scores(tiny_cross_encoder, PAIRS), atol=0.05)


def test_an_engine_below_its_bound_is_refused(tiny_outliers: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"mean cosine to the original is .* below the bound of 0\.99"):
        engines.load(ModelSpec(str(tiny_outliers), engine="onnx-int8", threads=1), cache=tmp_path)

    assert not list(tmp_path.glob("*/model.onnx"))


def test_an_engine_below_its_bound_never_wins(tiny_outliers: Path, tmp_path: Path) -> None:
    choices = [Choice("onnx", "int8"), Choice("torch", "float32")]
    original = open_original(str(tiny_outliers), kind="dense", device="cpu", threads=1)

    engine = choose_engine(original, Kept(tmp_path, ModelSpec(str(tiny_outliers)), "any", choices))

    assert engine.name == "torch-f32"


def test_an_exported_model_is_loaded_without_torch_or_telemetry(load: Load, tiny_bert: Path, tiny_cache: Path) -> None:
    load(tiny_bert, engine="openvino", dtype="float32")
    program = (
        "import sys; from pathlib import Path; from embedder import engines; "
        "spec = engines.ModelSpec(sys.argv[1], engine='openvino', dtype='float32'); "
        "engine = engines.load(spec, cache=Path(sys.argv[2])); "
        "print(engine.name, engine.run(engine.tokenize(['the cat'])).shape); "
        "unwanted = ('torch', 'transformers', 'sentence_transformers', 'openvino_telemetry'); "
        "sys.exit(' '.join(name for name in unwanted if sys.modules.get(name)) or 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_bert), str(tiny_cache)], stdout=subprocess.PIPE, text=True, check=True
    )

    assert done.stdout == "openvino-f32 (1, 32)\n"


def test_a_changed_model_is_exported_anew(load: Load, tiny_bert: Path) -> None:
    before = sources.fingerprint(tiny_bert)
    config = tiny_bert / "1_Pooling" / "config.json"
    saved = config.read_text()
    config.write_text(saved + " ")

    assert sources.fingerprint(tiny_bert) != before
    config.write_text(saved)
    assert sources.fingerprint(tiny_bert) == before


def test_a_torn_export_is_made_again(load: Load, tiny_bert: Path, tmp_path: Path) -> None:
    spec = ModelSpec(str(tiny_bert), engine="openvino", threads=1)
    expected = vectors(engines.load(spec, cache=tmp_path), TEXTS)
    next(tmp_path.glob("*/model.xml")).write_text("<net")

    assert np.allclose(vectors(engines.load(spec, cache=tmp_path), TEXTS), expected)


def test_a_model_is_served_although_nothing_can_be_kept(tiny_bert: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "cache"
    occupied.write_text("a file")

    loaded = engines.load(ModelSpec(str(tiny_bert), engine="openvino", threads=1), cache=occupied)

    assert vectors(loaded, TEXTS).shape == (4, 32)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_bundled_model_is_known_by_its_public_names(name: str) -> None:
    assert engines.public_name(name) == "all-minilm-l6-v2"
    assert sources.find(name) == sources.bundled()


def test_a_model_in_a_directory_goes_by_the_directorys_name(tiny_bert: Path) -> None:
    assert engines.public_name(str(tiny_bert)) == "tiny-bert"


def test_a_directory_that_is_not_there_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"There is no directory '.*nowhere'; set EMBEDDER_MODEL"):
        load(tmp_path / "nowhere")


def test_a_directory_without_a_model_is_named(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"cannot be loaded \(.*\); set EMBEDDER_MODEL"):
        load(tmp_path)


def test_a_model_with_a_torn_file_is_named(load: Load, tiny_bert: Path, tmp_path: Path) -> None:
    for file in (file for file in tiny_bert.rglob("*") if file.is_file()):
        copy = tmp_path / file.relative_to(tiny_bert)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes()[:1000])

    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load(tmp_path)


def test_vectors_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        normalized(np.array([[1, np.nan]], dtype=np.float32))


def test_a_vector_of_zeros_stays_one() -> None:
    assert normalized(np.zeros((1, 3), dtype=np.float32)).tolist() == [[0, 0, 0]]


@pytest.fixture(scope="session")
def sentences_and_vectors() -> tuple[list[str], NDArray[np.float32]]:
    """A thousand sentences, and what sentence-transformers computes of them with the bundled model."""
    texts = sorted(sentences(None), key=len)
    return texts, tiny_models.vectors(sources.bundled(), texts)


LEAST: dict[Precision, tuple[float, float, float]] = {  # cosine in the mean, cosine of each, of the ten nearest
    "float32": (0.9999, 0.9999, 0.999),
    "bfloat16": (0.9999, 0.9999, 0.99),
    "int8": (0.995, 0.98, 0.9),
}


@pytest.mark.parametrize(
    ("engine", "choice"),
    [
        (engine, choice)
        for engine in ("onnx", "openvino", "onnx-int8", "openvino-int8")
        for choice in choices.candidates(ModelSpec("", engine=engine))  # with bfloat16 where the processor has it
    ],
    ids=lambda value: value.name if isinstance(value, Choice) else "",
)
def test_the_bundled_models_vectors_are_true(
    sentences_and_vectors: tuple[list[str], NDArray[np.float32]],
    cache: Path,
    engine: EngineChoice,
    choice: Choice,
) -> None:
    texts, expected = sentences_and_vectors
    dtype = "auto" if choice.precision == "int8" else choice.precision
    loaded = engines.load(ModelSpec(engines.BUNDLED_MODEL, engine=engine, dtype=dtype), cache=cache)
    mean, least, nearest = LEAST[choice.precision]
    computed = np.concatenate([vectors(loaded, texts[start : start + 20]) for start in range(0, len(texts), 20)])

    cosines = (expected * computed).sum(axis=1)
    assert loaded.name == choice.name
    assert (len(cosines), computed.dtype) == (1000, np.float32)
    assert (cosines.mean() >= mean, cosines.min() >= least) == (True, True)
    assert nearest_shared(expected, computed) >= nearest
