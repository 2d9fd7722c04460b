"""OpenVINO: graphs converted from torch, run without it."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from embedder.engines.rows import Computed
from embedder.engines.tokenizing import Arrays

GRAPH_FILE = "model.xml"  # its weights lie beside it, in model.bin


def openvino() -> ModuleType:
    """The library, without its telemetry: it reports each import to its makers, unless that package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  # None: Python's own sign for "not to be imported"
    import openvino

    return openvino


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession:
    def __init__(self, directory: Path, *, name: str, bfloat16: bool, threads: int) -> None:
        core = openvino().Core()
        model = core.read_model(directory / GRAPH_FILE)
        self.name = name
        self._compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
                "ENABLE_CPU_PINNING": False,  # pinned, two models would share a core while another idles
            },
        )
        self._request = self._compiled.create_infer_request()

    def compute(self, arrays: Arrays) -> Computed:
        outputs = self._request.infer(list(arrays.values()), share_inputs=True, share_outputs=True)
        return np.asarray(outputs[0], dtype=np.float32)

    def close(self) -> None:
        del self._request, self._compiled
