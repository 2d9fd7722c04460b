"""Brings the stack of compose.yaml up, runs the main job through it, and takes it down again with all it stored.

`make compose-test` runs it, with docker, or with podman and podman-compose where there is no docker. Where pgvector's
image cannot be pulled, one of our own stands in for it.
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from openai import OpenAI

from infra.images import IMAGES, TAG, build, build_options, find_engine, run

PORT = int(os.environ.get("PORT", "18000"))
PGVECTOR = "docker.io/pgvector/pgvector:pg17"
STAND_IN = f"localhost/quiver-postgres:{TAG}"
ORDER = ["postgres", "migrate", "embedder", "proxy", "api", "worker"]  # podman before 4.6 knows no health
HEALTHY_SECONDS = 240
PROJECT = "quiver-test"
TEXTS = {
    "returns.md": "Goods may be sent back within thirty days, and the money is paid back to the same account.",
    "bread.md": "Rye bread wants sourdough, a hot oven and patience.",
}
QUESTION = "How long do customers have to ask for a refund?"


def main() -> None:
    engine = find_engine()
    with build_options(engine) as options:
        build(engine, IMAGES, options)
        postgres = find_postgres(engine, options)
    keys = {name: secrets.token_hex(24) for name in ("POSTGRES_PASSWORD", "SERVER_API_KEY", "LITELLM_MASTER_KEY")}
    os.environ |= keys | {"POSTGRES_IMAGE": postgres, "TAG": TAG, "PUBLISH": f"127.0.0.1:{PORT}"}
    program = ["docker", "compose"] if engine == "docker" else [str(Path(sys.executable).with_name("podman-compose"))]
    compose = [*program, "--project-name", PROJECT, "--file", "infra/compose.yaml"]
    is_done = False
    try:
        start(engine, compose)
        search_a_file(keys["SERVER_API_KEY"])
        is_done = True
    finally:
        if not is_done:
            run(*compose, "logs", "--tail=30", shown=True)
        run(*compose, "down", "--volumes")


def find_postgres(engine: str, options: list[str]) -> str:
    if subprocess.run([engine, "pull", "--quiet", PGVECTOR], capture_output=True, check=False).returncode == 0:
        return PGVECTOR
    print(f"{PGVECTOR} cannot be pulled; a stand-in is built.", flush=True)
    run(engine, "build", *options, "--file", "tests/compose/Dockerfile", "--tag", STAND_IN, ".", shown=True)
    return STAND_IN


def start(engine: str, compose: list[str]) -> None:
    began = time.monotonic()
    if engine == "docker":
        run(*compose, "up", "--detach", "--no-build", "--wait", shown=True)
    else:
        for service in ORDER:
            run(*compose, "up", "--detach", "--no-build", "--no-deps", service)
            wait_for(engine, service)
            print(f"{time.monotonic() - began:6.1f} s  {service}", flush=True)
    published = run(engine, "ps", f"--filter=label=com.docker.compose.project={PROJECT}", "--format={{.Ports}}").split()
    if published != [f"127.0.0.1:{PORT}->8000/tcp"]:
        sys.exit(f"More or less than the API is published: {published}")


def wait_for(engine: str, service: str) -> None:
    labels = (f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}")
    container = run(engine, "ps", "--all", "--quiet", *(f"--filter=label={label}" for label in labels)).strip()
    if service == "migrate":
        if run(engine, "wait", container).strip() != "0":
            sys.exit("The migration failed.")
        return
    deadline = time.monotonic() + HEALTHY_SECONDS
    while subprocess.run([engine, "healthcheck", "run", container], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            sys.exit(f"{service} is not healthy within {HEALTHY_SECONDS} seconds.")
        time.sleep(0.5)


def search_a_file(key: str) -> None:
    """Put files into a store, and find the one that answers a question."""
    client = OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key=key)
    store = client.vector_stores.create(name="compose")
    files = [(name, text.encode()) for name, text in TEXTS.items()]
    began = time.monotonic()
    batch = client.vector_stores.file_batches.upload_and_poll(store.id, files=files, poll_interval_ms=200)
    if batch.file_counts.completed != len(TEXTS):
        sys.exit(f"The files did not come into the store: {batch.file_counts}")
    print(f"{time.monotonic() - began:6.1f} s  {len(TEXTS)} files uploaded, extracted, embedded and stored")
    began = time.monotonic()
    found = client.vector_stores.search(store.id, query=QUESTION, max_num_results=1).data[0]
    if found.content[0].text != TEXTS["returns.md"]:
        sys.exit(f"The wrong file was found: {found.filename}")
    print(f"{time.monotonic() - began:6.1f} s  the question is answered from {found.filename}, score {found.score:.2f}")


if __name__ == "__main__":
    main()
