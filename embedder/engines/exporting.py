"""Graphs for OpenVINO and ONNX Runtime made of a torch model, in full precision or 8 bits, without a network."""

import logging
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from embedder.engines import Text, Tokens
from embedder.engines.checking import check_texts, odd_texts, prose
from embedder.engines.exports import Recipe
from embedder.engines.onnx_session import GRAPH_FILE as ONNX_FILE
from embedder.engines.openvino_session import GRAPH_FILE as OPENVINO_FILE
from embedder.engines.openvino_session import openvino
from embedder.engines.tokenizing import Arrays, TextTokenizer, padded
from embedder.engines.torch_models import OUTPUTS, Original, describe

if TYPE_CHECKING:
    import torch

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ONNX_OPSET = 17
CALIBRATION_TEXTS = 160  # with 80, all-minilm-l6-v2 comes out at 0.9975 instead of 0.9978
# How much of the activations' spread is moved into the weights. Of all-minilm-l6-v2, mean and least cosine over 1,000
# sentences: 0.5: 0.9916, 0.971; 0.95, NNCF's own: 0.9960, 0.981 (both with 80 texts); 0.7: 0.9976, 0.994; 0.75: 0.9976,
# 0.9915; 0.8: 0.9978, 0.988.
SMOOTHNESS = 0.75


class Plain:
    """A plain transformer: what its tokenizer gives is all that it reads, so that any library can run it."""

    def __init__(self, original: Original, *, tokenizer: str, recipe: Recipe) -> None:
        self.original = original
        self.tokenizer = tokenizer
        self.recipe = recipe

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        return TextTokenizer(self.tokenizer, window=self.recipe.window).tokenize(texts, prompt="")


def as_plain(original: Original) -> Plain | None:
    """The model as a plain transformer; None when its own library reads some text otherwise than its tokenizer."""
    backend = getattr(original.model.tokenizer, "backend_tokenizer", None)
    if backend is None or not pools_everything(original) or (original.kind == "rerank" and not original.activation):
        return None
    texts = [*check_texts(original.kind), *odd_texts(original.kind)]
    features = original.features(texts[:2])
    arrays = [name for name, value in features.items() if hasattr(value, "shape")]
    if not set(arrays) <= set(INPUTS):
        return None
    recipe = replace(describe(original), inputs=[name for name in INPUTS if name in arrays])
    plain = Plain(original, tokenizer=cast("str", backend.to_str()), recipe=recipe)
    for text in texts:
        features = original.features([text])
        ours = padded(plain.tokenize([text]), recipe)
        if any(not np.array_equal(features[name].numpy(), ours[name]) for name in recipe.inputs):
            return None
    return plain


def pools_everything(original: Original) -> bool:
    """Whether the vector is made of all tokens; some models leave those of the prompt out."""
    return all(getattr(module, "include_prompt", True) for module in original.model)


def traceable(plain: Plain) -> "tuple[torch.nn.Module, tuple[torch.Tensor, ...]]":
    """The model as a function of its arrays, and an example of them: two texts, one of them padded."""
    import torch

    texts = sorted(check_texts(plain.recipe.kind), key=len)
    features = plain.original.features([texts[-1], texts[len(texts) // 2]])
    constants = {name: value for name, value in features.items() if name not in plain.recipe.inputs}

    class OfArrays(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain.original.model

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            given: dict[str, Any] = dict(zip(plain.recipe.inputs, arrays, strict=True))
            return self.inner({**given, **constants})[OUTPUTS[plain.recipe.kind]]

    return OfArrays().eval(), tuple(features[name] for name in plain.recipe.inputs)


def export_openvino(plain: Plain, directory: Path) -> None:
    library = openvino()
    library.save_model(converted(plain), directory / OPENVINO_FILE, compress_to_fp16=False)


def export_openvino_int8(plain: Plain, directory: Path) -> None:
    """Weights and activations in 8 bits, the activations' ranges found on prose (smooth quantisation)."""
    os.environ.setdefault("NNCF_CI", "1")  # otherwise each use is reported to its makers
    library = openvino()
    with quiet():
        import nncf

        arrays = [list(sample.values()) for sample in samples(plain)]
        quantized = nncf.quantize(
            converted(plain),
            nncf.Dataset(arrays),
            subset_size=len(arrays),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHNESS),
                disable_bias_correction=True,  # it takes as long again, and changed nothing
            ),
        )
    library.save_model(quantized, directory / OPENVINO_FILE, compress_to_fp16=False)


def converted(plain: Plain) -> Any:
    import torch

    module, example = traceable(plain)
    with torch.inference_mode(), quiet():
        model = openvino().convert_model(module, example_input=example)
    for port, name in zip(model.inputs, plain.recipe.inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino().PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    return model


def export_onnx(plain: Plain, directory: Path) -> None:
    import torch

    from embedder.engines.onnx_graph import simplify  # it imports onnx, which not everybody has

    module, example = traceable(plain)
    axes = {name: {0: "texts", 1: "tokens"} for name in plain.recipe.inputs}
    with torch.inference_mode(), quiet(), plain_attention(plain.original.model):
        torch.onnx.export(  # pyright: ignore[reportUnknownMemberType]  # its types name an optional package
            module,
            example,
            str(directory / ONNX_FILE),
            input_names=plain.recipe.inputs,
            output_names=["rows"],
            dynamic_axes={**axes, "rows": {0: "texts"}},
            opset_version=ONNX_OPSET,
            dynamo=False,  # the newer exporter needs two more packages and gives no other graph
        )
        simplify(directory / ONNX_FILE)


def export_onnx_int8(plain: Plain, directory: Path) -> None:
    """Weights and activations in 8 bits, as for OpenVINO."""
    from embedder.engines.onnx_int8 import quantize  # it imports onnx, which not everybody has

    with TemporaryDirectory(dir=directory) as full, quiet():
        export_onnx(plain, Path(full))
        quantize(Path(full) / ONNX_FILE, directory / ONNX_FILE, samples=samples(plain), smoothness=SMOOTHNESS)


def samples(plain: Plain) -> list[Arrays]:
    """What a model is shown to find the ranges of its activations."""
    texts = prose()[-CALIBRATION_TEXTS:]
    inputs = [(text[:80], text) for text in texts] if plain.recipe.kind == "rerank" else texts
    return [padded([tokens], plain.recipe) for tokens in plain.tokenize(inputs)]


@contextmanager
def plain_attention(model: Any) -> Generator[None]:
    """Attention as the matrix products that it is.

    What torch's own function for it becomes guards each row against an empty mask, which costs ONNX Runtime 6 % at 64
    tokens and 21 % at 256. (Its fused operator for attention is slower than either, up to 128 tokens.)
    """
    changed = [(part, part.config._attn_implementation) for part in transformers_of(model)]
    for part, _ in changed:
        part.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, implementation in changed:
            part.set_attn_implementation(implementation)


def transformers_of(model: Any) -> list[Any]:
    from transformers import PreTrainedModel

    return [part for part in model.modules() if isinstance(part, PreTrainedModel)]


@contextmanager
def quiet() -> Generator[None]:
    """Exporters warn of what they trace and of their own age, and draw progress bars; the result is checked anyway."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
