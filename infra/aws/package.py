"""Builds what AWS Lambda unpacks, build/lambda/api and build/lambda/worker, and looks whether it is small and quick.

Run by `make lambda-package`. Without `--platform` for the machine and the Python it runs on, which a function's
architecture and runtime must then be.
"""

import argparse
import compileall
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "lambda"
MEGABYTE = 1_000_000

UNWANTED_DIRECTORIES = ("__pycache__", "tests", "bin")
UNWANTED_FILES = ("*.pyi", "*.pxd", "*.h", "*.a", "RECORD", "INSTALLER", "direct_url.json")
# hf_xet is for downloads of models, and a tokenizer comes without it.
OF_OTHER_PARTS = (
    *("hf_xet", "hf_xet-*.dist-info", "numpy/distutils", "numpy/f2py"),
    *("embedder", "api/up", "api/migrate", "api/cli.py", "api/client.py", "api/server.py"),
    *("api/keys_cli.py", "api/stores_cli.py", "api/sync_cli.py"),
)

# In a new interpreter, as a new environment is: seconds, and what must not have been loaded by then. Of the processor's
# time, for Lambda gives a whole one to the start, and this machine may be busy.
IMPORT = """
import sys, time
import {module}
print(time.process_time(), *({{"torch", "litellm", "boto3", "botocore", "numpy", "pytest"}} & sys.modules.keys()))
"""
IMPORTS = 5  # the quickest counts, and the first one only fills the disk's cache


class Package(NamedTuple):
    name: str
    extras: str
    module: str
    megabytes: int
    seconds: float
    is_without_numpy: bool


PACKAGES = (
    Package("api", "lambda", "api.lambda_handler", megabytes=50, seconds=1.0, is_without_numpy=True),
    # Lambda's own limit; a new worker's start is nobody's wait.
    Package("worker", "lambda,ingestion", "api.lambda_worker", megabytes=250, seconds=3.0, is_without_numpy=False),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", help="another machine's, such as manylinux_2_28_aarch64")
    parser.add_argument("--python-version", help="with --platform, such as 3.13")
    arguments = parser.parse_args()
    target: list[str] = []
    if arguments.platform:
        target = ["--only-binary=:all:", "--platform", arguments.platform]
        target += ["--python-version", arguments.python_version or f"{sys.version_info[0]}.{sys.version_info[1]}"]
    shutil.rmtree(BUILD, ignore_errors=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(BUILD), str(ROOT))
    wheel = next(BUILD.glob("quiver-*.whl"))
    problems = [problem for package in PACKAGES for problem in _build(package, wheel, target)]
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    return bool(problems)


def _build(package: Package, wheel: Path, target: list[str]) -> Iterator[str]:
    place = BUILD / package.name
    requirement = f"quiver[{package.extras}] @ {wheel.as_uri()}"
    _pip("install", "--target", str(place), "--constraint", str(ROOT / "constraints.txt"), *target, requirement)
    _prune(place)
    megabytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / MEGABYTE
    if megabytes > package.megabytes:
        yield f"{place.name} has {megabytes:.1f} MB unpacked, and may have {package.megabytes}."
    if target:  # neither stripped nor compiled: the tools are this machine's
        print(f"{place.name}: {megabytes:.1f} MB unpacked")
        return
    _strip(place)
    # Lambda's file system cannot be written to: what is not compiled here is compiled in every new environment.
    compileall.compile_dir(place, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    compiled = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / MEGABYTE
    seconds, loaded = _import(place, package.module)
    print(f"{place.name}: {megabytes:.1f} MB unpacked, {compiled:.1f} MB compiled, imports in {seconds:.2f} s")
    if compiled > package.megabytes:
        yield f"{place.name} has {compiled:.1f} MB compiled, and may have {package.megabytes}."
    if seconds > package.seconds:
        yield f"{package.module} imports in {seconds:.2f} s, and may take {package.seconds} s."
    unwanted = loaded if package.is_without_numpy else loaded - {"numpy"}
    if unwanted:
        yield f"{package.module} loads {', '.join(sorted(unwanted))}."


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    subprocess.run(command, check=True)


def _prune(place: Path) -> None:
    unwanted = [path for pattern in OF_OTHER_PARTS for path in place.glob(pattern)]
    unwanted += [path for name in UNWANTED_DIRECTORIES for path in place.rglob(name) if path.is_dir()]
    for path in unwanted:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for pattern in UNWANTED_FILES:
        for path in place.rglob(pattern):
            path.unlink()


def _strip(place: Path) -> None:
    """Take symbols out of libraries that have them, where the machine has the tool; it saves 2.5 MB of obstore's."""
    if shutil.which("strip") is not None:
        for library in place.rglob("*.abi3.so"):
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)


def _import(place: Path, module: str) -> tuple[float, set[str]]:
    program = IMPORT.format(module=module)
    lines = [
        subprocess.run(
            [sys.executable, "-S", "-c", program],
            env={"PYTHONPATH": str(place)},
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(IMPORTS)
    ]
    return min(float(line[0]) for line in lines), set(lines[-1][1:])


if __name__ == "__main__":
    sys.exit(main())
