"""OpenVINO: graphs converted from torch, run without it."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from embedder.engines import Precision, Shape
from embedder.engines.rows import Computed
from embedder.engines.tokenizing import Arrays

GRAPH_FILE = "model.xml"  # its weights lie beside it, in model.bin
# Each shape of a batch gets kernels of its own, 4 MB in 8 bits, and by default thousands are kept: 240 batches of
# all-minilm-l6-v2 grew to 1.3 GB. With fewer than 100, short queries of changing length compile again and again.
KEPT_KERNELS = 300
# In 8 bits a shape that was not met lately costs 20 ms, a third of a batch of short queries; in float32 4 ms.
INT8_SHORT, INT8_STEP, INT8_LONG_STEP = 32, 4, 16  # tokens: 6,300 a second beyond `SHORT` by this step, 5,600 without


def openvino() -> ModuleType:
    """The library, without its telemetry: it reports each import to its makers, unless that package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  # None: Python's own sign for "not to be imported"
    import openvino

    return openvino


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def float_shape(texts: int, longest: int) -> Shape:
    """One of two numbers of texts in each doubling, so that the kernels of each shape are soon there.

    The queue fills batches to such a number; with texts of short queries' lengths to choose from, it pads no more.
    """
    step = 1 << max(0, texts.bit_length() - 2)
    return -(-texts // step) * step, longest


def int8_shape(texts: int, longest: int) -> Shape:
    """The same, with fewer lengths as well."""
    rows, _ = float_shape(texts, longest)
    step = INT8_STEP if longest <= INT8_SHORT else INT8_LONG_STEP
    return rows, -(-longest // step) * step


class OpenVinoSession:
    def __init__(self, directory: Path, *, name: str, precision: Precision, threads: int) -> None:
        core = openvino().Core()
        model = core.read_model(directory / GRAPH_FILE)
        self.name = name
        self.shape = int8_shape if precision == "int8" else float_shape
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
                "CPU_RUNTIME_CACHE_CAPACITY": KEPT_KERNELS,
                "ENABLE_CPU_PINNING": False,  # pinned, two models would share a core while another idles
            },
        )
        self._request = self._compiled.create_infer_request()

    def compute(self, arrays: Arrays) -> Computed:
        outputs = self._request.infer(list(arrays.values()), share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0], dtype=np.float32)

    def close(self) -> None:
        del self._request, self._compiled
