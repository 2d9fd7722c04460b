"""ONNX graphs as ONNX Runtime computes them fastest.

A linear layer of a batch of texts comes out of torch as a matrix product and an addition, each a walk over memory; of
the batch's tokens in one long row it is a single operator. And the shapes that torch puts together in each layer are
put together once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from onnx import helper

SIZES = ((2, 5), (3, 7))  # texts, and tokens of each: a length that is the same for both is a constant
Shape = tuple[int, ...]


def simplify(file: Path) -> None:
    """Rewrite a model that takes arrays of the shape (texts, tokens); it computes the same. Weights are not read."""
    model: Any = onnx.load(file, load_external_data=False)  # pyright: ignore[reportUnknownMemberType]  # partly untyped
    keep_needed(model.graph, Rewriter(model.graph, observed(model, file.parent)).nodes())
    onnx.save(model, file)  # pyright: ignore[reportUnknownMemberType]  # as above


def keep_needed(graph: Any, nodes: Sequence[Any]) -> None:
    """Make a graph of those of the nodes and weights that its outputs come from."""
    wanted, needed = {one.name for one in graph.output}, list[Any]()
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            needed.append(node)
    weights = [one for one in graph.initializer if one.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(needed))
    graph.initializer.extend(weights)


def observed(model: Any, directory: Path) -> list[dict[str, Shape]]:
    """What shapes the inputs of products and the results of reshaping have at each size, whatever the arrays hold."""
    told = [node.input[0] for node in model.graph.node if node.op_type == "MatMul"]
    told += [node.output[0] for node in model.graph.node if node.op_type == "Reshape"]
    names = sorted(set(told))
    telling: Any = onnx.ModelProto()
    telling.CopyFrom(model)
    del telling.graph.output[:]
    telling.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    file = directory / "observed.onnx"  # beside the model, whose weights may lie in a file of their own
    try:
        onnx.save(telling, file)  # pyright: ignore[reportUnknownMemberType]  # as above
        session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        inputs = [one.name for one in session.get_inputs()]
        runs = [session.run(names, {name: np.zeros(size, dtype=np.int64) for name in inputs}) for size in SIZES]
    finally:
        file.unlink(missing_ok=True)
    return [dict(zip(names, (array.shape for array in arrays), strict=True)) for arrays in runs]


class Rewriter:
    def __init__(self, graph: Any, shapes: list[dict[str, Shape]]) -> None:
        self._graph = graph
        self._shapes = shapes
        self._weights = {one.name: tuple(one.dims) for one in graph.initializer}
        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] in self._weights:  # weights that are equal are kept once
                self._weights[node.output[0]] = self._weights[node.input[0]]
        self._origins: dict[str, str] = {}  # what each reshaped array was before
        self._rows: dict[str, str] = {}  # of arrays, by their origin: the same with a row for each token
        self._targets: dict[Shape, str] = {}  # (texts, tokens, ...), by what follows
        self._beginning: list[Any] = []

    def nodes(self) -> list[Any]:
        biases = self._biases()
        rewritten = [new for node in self._graph.node for new in self._rewritten(node, biases)]
        return [*self._beginning, *rewritten]

    def _biases(self) -> dict[str, tuple[str, str]]:
        """For each product of all tokens with weights to which only a bias is added: the bias, and the sum."""
        users: dict[str, list[Any]] = {}
        for node in self._graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        found: dict[str, tuple[str, str]] = {}
        for node in self._graph.node:
            if node.op_type != "MatMul" or len(self._weights.get(node.input[1], ())) != 2:
                continue
            product, using = node.output[0], users.get(node.output[0], [])
            if self._of_each_token(node.input[0]) is None or [user.op_type for user in using] != ["Add"]:
                continue
            for name in using[0].input:
                if len(self._weights.get(name, ())) == 1:
                    found[product] = name, using[0].output[0]
        return found

    def _rewritten(self, node: Any, biases: dict[str, tuple[str, str]]) -> Iterator[Any]:
        if node.output[0] in biases:
            yield from self._linear(node, *biases[node.output[0]])
        elif node.op_type == "Reshape" and (shape := self._of_each_token(node.output[0])) is not None:
            yield self._reshape(node.input[0], self._target(shape), to=node.output[0])
        elif node.op_type != "Add" or node.output[0] not in {total for _, total in biases.values()}:
            yield node

    def _linear(self, product: Any, bias: str, total: str) -> Iterator[Any]:
        array: str = product.input[0]
        origin = self._origins.get(array, array)
        if origin not in self._rows:
            self._rows[origin] = f"{origin}/rows"
            shape = self._constant([-1, self._weights[product.input[1]][0]])
            yield self._reshape(origin, shape, to=self._rows[origin])
        yield helper.make_node("Gemm", [self._rows[origin], product.input[1], bias], [product.output[0]])
        yield self._reshape(product.output[0], self._target((self._weights[product.input[1]][1],)), to=total)

    def _reshape(self, array: str, target: str, *, to: str) -> Any:
        self._origins[to] = self._origins.get(array, array)
        return helper.make_node("Reshape", [self._origins[to], target], [to])

    def _of_each_token(self, name: str) -> Shape | None:
        """The shape of what an array holds for each token, if that is what it holds."""
        seen = [shapes.get(name, ()) for shapes in self._shapes]
        is_so = all(shape[:2] == size for shape, size in zip(seen, SIZES, strict=True))
        return seen[0][2:] if is_so and len({shape[2:] for shape in seen}) == 1 and seen[0][2:] else None

    def _target(self, shape: Shape) -> str:
        if not self._targets:
            self._beginning.append(helper.make_node("Shape", [self._graph.input[0].name], ["texts_and_tokens"]))
        if shape not in self._targets:
            name = self._targets[shape] = "x".join(["texts_and_tokens", *map(str, shape)])
            self._beginning.append(
                helper.make_node("Concat", ["texts_and_tokens", self._constant(shape)], [name], axis=0)
            )
        return self._targets[shape]

    def _constant(self, numbers: Sequence[int]) -> str:
        name = "x".join(["shape", *map(str, numbers)])
        if name not in self._weights:
            self._weights[name] = (len(numbers),)
            self._graph.initializer.append(
                cast("Any", onnx.numpy_helper).from_array(np.array(numbers, dtype=np.int64), name)
            )
        return name
