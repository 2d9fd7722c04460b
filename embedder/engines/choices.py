"""Which engines there are for a model on this machine, and which of them is fastest."""

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from embedder.engines import EngineChoice, ModelSpec, Precision
from embedder.engines.cores import usable_cores
from embedder.engines.exports import installed
from embedder.engines.openvino_session import has_bfloat16
from embedder.errors import ModelUnavailable

Library = Literal["torch", "onnx", "openvino"]
PACKAGES: dict[EngineChoice, list[str]] = {
    "torch": ["torch"],
    "onnx": ["onnxruntime", "onnx"],
    "onnx-int8": ["onnxruntime", "onnx"],
    "openvino": ["openvino"],
    "openvino-int8": ["openvino", "nncf"],
}
CPU_INFO = Path("/proc/cpuinfo")
TOLD = ("model name", "flags", "CPU implementer", "CPU part", "Features")  # by x86, and by ARM
SHORT: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "int8"}


@dataclass(frozen=True)
class Choice:
    """A library that runs the model, and the numbers it computes in."""

    library: Library
    precision: Precision

    @property
    def name(self) -> str:
        return f"{self.library}-{SHORT[self.precision]}"


def candidates(spec: ModelSpec) -> list[Choice]:
    """The engines that the specification leaves open and this machine can run.

    Raises:
        ModelUnavailable: the one it asks for needs a package that is not there, or has no such precision here.
    """
    for package in PACKAGES.get(spec.engine, []):
        if installed(package) is None:
            raise ModelUnavailable(
                f"The engine {spec.engine!r} needs the package {package!r}: pip install 'quiver[embedder]'"
            )
    if spec.engine == "onnx-int8":
        return [Choice("onnx", "int8")]
    if spec.engine == "openvino-int8":
        return [Choice("openvino", "int8")]
    found = [choice for library in libraries(spec) for choice in of_library(library, spec)]
    if spec.dtype != "auto":
        found = [choice for choice in found if choice.precision == spec.dtype]
    if not found and spec.engine != "auto":
        raise ModelUnavailable(
            f"The engine {spec.engine!r} does not compute in {spec.dtype!r} on this machine; "
            "declare the model without 'dtype', or with 'engine: auto'."
        )
    return found or [Choice("torch", "float32" if spec.dtype == "auto" else spec.dtype)]


def libraries(spec: ModelSpec) -> list[Library]:
    if spec.engine in ("torch", "onnx", "openvino"):
        return [spec.engine]
    if accelerator(spec) is not None:
        return ["torch"]
    known: list[Library] = ["openvino", "onnx", "torch"]
    return [library for library in known if all(map(installed, PACKAGES[library]))]


def of_library(library: Library, spec: ModelSpec) -> list[Choice]:
    if library == "openvino" and has_bfloat16():
        return [Choice(library, "bfloat16"), Choice(library, "float32")]
    if library == "torch" and (spec.dtype != "auto" or accelerator(spec) == "cuda"):
        precisions: list[Precision] = ["bfloat16", "float16", "float32"]
        return [
            Choice(library, precision) for precision in precisions if spec.dtype != "auto" or precision != "float16"
        ]
    return [Choice(library, "float32")]


def accelerator(spec: ModelSpec) -> Literal["cuda", "mps"] | None:
    """What torch would compute on; told without importing it."""
    if spec.device in ("cuda", "mps"):
        return spec.device
    if spec.device == "cpu":
        return None
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    try:
        has_cuda = "+cpu" not in version("torch")
    except PackageNotFoundError:
        return None
    return "cuda" if has_cuda and Path("/dev/nvidiactl").exists() else None


def hardware(spec: ModelSpec) -> str:
    """What a measurement of speed holds for."""
    return f"{processor()}, {spec.threads or usable_cores()} threads"


def processor() -> str:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    return " ".join(told[name] for name in TOLD if name in told) or platform.machine()
