"""`quiver keys` as a program, on a running API."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from api.up import keys
from tests.conftest import KEY
from tests.servers import Server


def run(server: Server, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", "keys", *arguments, "--url", server.base_url]
    root = str(Path(__file__).parents[2])
    set_up = {"PYTHONPATH": root, "PATH": os.environ["PATH"], "SERVER_API_KEY": KEY} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=set_up)


def test_a_key_is_made_listed_and_revoked(server: Server) -> None:
    made = run(server, "create", "chatbot", "--role", "read", "--tenant", "acme", "--days", "1.5")
    key, id = made.stdout.strip(), made.stderr.partition(":")[0]
    headers = {"Authorization": f"Bearer {key}"}
    before = httpx.get(f"{server.base_url}/v1/files", headers=headers)
    listed = run(server, "list")
    revoked = run(server, "revoke", id)

    assert key.startswith("qv_") and before.status_code == 200
    [row] = [line.split("  ") for line in listed.stdout.splitlines()[1:]]
    assert [cell.strip() for cell in row if cell][:6] == [id, "chatbot", f"qv_...{key[-4:]}", "read", "acme", "all"]
    assert time.strftime("%Y-%m-%d", time.gmtime(time.time() + 36 * 3600 - 60)) in listed.stdout
    assert revoked.stdout == f"{id} is revoked\n"
    assert len(run(server, "list").stdout.splitlines()) == 1


def test_the_key_that_quiver_up_made_is_found(server: Server, tmp_path: Path) -> None:
    (tmp_path / keys.FILE_NAME).write_text(json.dumps({"server_api_key": KEY}))
    listed = run(server, "list", SERVER_API_KEY="", QUIVER_DATA_DIR=str(tmp_path))

    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (("create", "a", "--role", "owner"), KEY, "Invalid 'role': input should be 'admin', 'write' or 'read'."),
        (("revoke", "key_1"), KEY, "No API key found with id 'key_1'."),
        (("list",), "wrong-key-wrong-key", "Incorrect API key provided."),
        (("list",), "", "SERVER_API_KEY is not set: set it to the API's key, or to one of yours."),
    ],
)
def test_what_is_wrong_is_one_sentence(
    server: Server, tmp_path: Path, arguments: tuple[str, ...], key: str, message: str
) -> None:
    done = run(server, *arguments, SERVER_API_KEY=key, QUIVER_DATA_DIR=str(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {message}\n")


def test_an_api_that_does_not_answer_is_named(server: Server) -> None:
    server.stop()
    done = run(server, "list")

    assert done.returncode == 1
    assert f"No API answers at {server.base_url}" in done.stderr
