"""ONNX graphs in 8 bits: weights with a range for each channel, activations with one range, found on samples.

A few channels of the activations are much larger than the rest, and would leave them no room. So a part of that spread
is moved into the weights first: a channel is divided by what the weights that read it are multiplied by (SmoothQuant,
Xiao and others 2023, https://arxiv.org/abs/2211.10438).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from onnxruntime.quantization import quantize_static as quantize_by_library  # pyright: ignore[reportUnknownVariableType]  # partly untyped

from embedder.engines.onnx_graph import keep_needed
from embedder.engines.tokenizing import Arrays

PRODUCTS = ["Gemm", "MatMul"]
LARGE_BYTES = 2**30  # weights of more lie in a file of their own; a file of protobuf holds no more than twice that
LEAST = 1e-5  # for a channel that is always 0

Channels = NDArray[np.float32]


def quantize(full: Path, to: Path, *, samples: Sequence[Arrays], smoothness: float) -> None:
    """Write a model in 8 bits.

    Args:
        full: the model in float32.
        to: the file to write.
        samples: what it is shown, so that the ranges of its activations are known.
        smoothness: how much of their spread goes into the weights, from 0 to 1.
    """
    model: Any = onnx.load(full)  # pyright: ignore[reportUnknownMemberType]  # partly untyped
    name_weights(model.graph)
    spreads = observed(full, sorted({product.input[0] for product in products(model.graph)}), samples)
    keep_needed(model.graph, list(smoothed(model.graph, spreads, smoothness=smoothness)))
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # or the library asks for it
    is_large = model.ByteSize() > LARGE_BYTES
    with TemporaryDirectory(dir=to.parent) as working:
        onnx.save(model, Path(working) / "smooth.onnx", save_as_external_data=is_large)  # pyright: ignore[reportUnknownMemberType]  # as above
        quantize_by_library(
            Path(working) / "smooth.onnx",
            to,
            Samples(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            nodes_to_quantize=[product.name for product in products(model.graph)],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large,
            extra_options={"OpTypesToExcludeOutputQuantization": PRODUCTS},
        )


class Samples(CalibrationDataReader):
    def __init__(self, samples: Iterable[Arrays]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> Any:
        return next(self._samples, None)  # None: that was all


def products(graph: Any) -> list[Any]:
    """Those of activations with weights."""
    weights = tables(graph)
    return [node for node in graph.node if node.op_type in PRODUCTS and node.input[1] in weights]


def tables(graph: Any) -> dict[str, Any]:
    """Weights of two dimensions."""
    return {one.name: one for one in graph.initializer if len(one.dims) == 2}


def name_weights(graph: Any) -> None:
    """Let weights that several nodes read have one name: what is equal comes out of torch once, and with aliases."""
    names = {one.name: one.name for one in graph.initializer}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = node.input[0]


def observed(file: Path, names: Sequence[str], samples: Iterable[Arrays]) -> dict[str, Channels]:
    """The largest value, by magnitude, of each channel of these arrays."""
    telling: Any = onnx.load(file, load_external_data=False)  # pyright: ignore[reportUnknownMemberType]  # partly untyped
    telling.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    file = file.with_name("observed.onnx")  # beside the model, whose weights may lie in a file of their own
    onnx.save(telling, file)  # pyright: ignore[reportUnknownMemberType]  # as above
    session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    file.unlink()
    largest: dict[str, Any] = dict.fromkeys(names, LEAST)
    for sample in samples:
        for name, array in zip(names, session.run(names, sample), strict=True):
            largest[name] = np.maximum(largest[name], np.abs(array).reshape(-1, array.shape[-1]).max(axis=0))
    return largest


def smoothed(graph: Any, spreads: Mapping[str, Channels], *, smoothness: float) -> Iterator[Any]:
    """The graph's nodes, of which products read divided channels and multiplied weights. Products have names then."""
    weights = {name: cast("Any", onnx.numpy_helper).to_array(table) for name, table in tables(graph).items()}
    readers: dict[str, list[Any]] = {}
    for product in products(graph):
        readers.setdefault(product.input[0], []).append(product)
    factors: dict[str, Channels] = {}
    for node in graph.node:
        array = node.input[0] if node.input else ""
        if node.op_type not in PRODUCTS or node.input[1] not in weights:
            yield node
            continue
        if array not in factors:
            read = [np.abs(weights[one.input[1]]).max(axis=1 - channels(one)) for one in readers[array]]
            factors[array] = spreads[array] ** smoothness / np.maximum(np.max(read, axis=0), LEAST) ** (1 - smoothness)
            graph.initializer.append(from_array(1 / factors[array], f"{array}/divisors"))
            yield helper.make_node("Mul", [array, f"{array}/divisors"], [f"{array}/smooth"])
        product = onnx.NodeProto()
        product.CopyFrom(node)
        product.name = f"{node.output[0]}/product"
        product.input[0], product.input[1] = f"{array}/smooth", f"{node.output[0]}/weights"
        scaled = weights[node.input[1]] * np.expand_dims(factors[array], 1 - channels(node))
        graph.initializer.append(from_array(scaled, product.input[1]))
        yield product


def channels(product: Any) -> int:
    """Which dimension of a product's weights meets the channels."""
    return int(any(one.name == "transB" and one.i for one in product.attribute))


def from_array(array: NDArray[Any], name: str) -> Any:
    return cast("Any", onnx.numpy_helper).from_array(np.asarray(array, dtype=np.float32), name)
