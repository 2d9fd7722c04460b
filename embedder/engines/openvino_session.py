"""OpenVINO: graphs converted from torch, run without it."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from embedder.engines import OVERHEAD_TOKENS, Precision, Shape
from embedder.engines.rows import Computed
from embedder.engines.tokenizing import Arrays

GRAPH_FILE = "model.xml"  # its weights lie beside it, in model.bin
# Each shape of a batch gets kernels of its own, 4 MB in 8 bits, and by default thousands are kept: 240 batches of
# all-minilm-l6-v2 grew to 1.3 GB. With fewer than 100, short queries of changing length compile again and again.
KEPT_KERNELS = 300
# A shape that was not met lately costs 20 ms in 8 bits, a third of a batch of short queries, and 4 ms in float32.
SHORT, STEP, LONG_STEP = 32, 4, 16  # tokens: 6,300 a second beyond `SHORT` by this step in 8 bits, 5,600 without
# Where it computes fastest, in bfloat16 and 8 bits; of batches of 27 short queries 4 % more a second than of 18.
QUICK_OVERHEAD_TOKENS = 64
# A single text is computed in 1.9 ms instead of 2.7, padding and all, where it has the shape of the one before.
SINGLE_STEP = 8


def openvino() -> ModuleType:
    """The library, without its telemetry: it reports each import to its makers, unless that package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  # None: Python's own sign for "not to be imported"
    import openvino

    return openvino


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def few_shapes(texts: int, longest: int) -> Shape:
    """One of two numbers of texts in each doubling, of few lengths, so that the kernels of each shape are soon there.

    The queue fills batches to such a number; with texts of short queries' lengths to choose from, it pads no more.
    """
    rows_step = 1 << max(0, texts.bit_length() - 2)
    step = LONG_STEP if longest > SHORT else SINGLE_STEP if texts == 1 else STEP
    return -(-texts // rows_step) * rows_step, -(-longest // step) * step


class OpenVinoSession:
    shape = staticmethod(few_shapes)

    def __init__(self, directory: Path, *, name: str, precision: Precision, threads: int) -> None:
        core = openvino().Core()
        model = core.read_model(directory / GRAPH_FILE)
        self.name = name
        self.overhead_tokens = OVERHEAD_TOKENS if precision == "float32" else QUICK_OVERHEAD_TOKENS
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
