"""ONNX Runtime: graphs exported from torch, run without it."""

from pathlib import Path
from typing import Any

import numpy as np

from embedder.engines import OVERHEAD_TOKENS, as_asked
from embedder.engines.rows import Computed
from embedder.engines.tokenizing import Arrays

GRAPH_FILE = "model.onnx"
# Fused operators that are slower than their parts: of an addition and a layer's normalisation six times (a seventh of a
# batch in 8 bits), of a bias and GELU by a fifth.
SLOW_FUSIONS = ["SkipLayerNormFusion", "BiasGeluFusion"]


class OnnxSession:
    shape = staticmethod(as_asked)
    overhead_tokens = OVERHEAD_TOKENS

    def __init__(self, directory: Path, *, name: str, threads: int) -> None:
        import onnxruntime

        library: Any = onnxruntime  # its types leave out what is compiled
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores from those who tokenise and answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.name = name
        self._session = library.InferenceSession(
            str(directory / GRAPH_FILE),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOW_FUSIONS,
        )

    def compute(self, arrays: Arrays) -> Computed:
        return np.asarray(self._session.run(None, arrays)[0], dtype=np.float32)

    def close(self) -> None:
        del self._session
