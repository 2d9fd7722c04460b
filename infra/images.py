"""Builds the images, starts each as hardened as it will run, and prints its size, and how soon it is up and down again.

`make images` runs it, with docker, or with podman where there is no docker. What pip is told on this machine (another
index, say) the build is told as well, as a secret that leaves no trace in the image.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
TAG = os.environ.get("TAG", "dev")
KEY = "sk-for-this-trial-alone"
NOWHERE = "127.0.0.1:9"
USER = "10001:10001"
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
STOP_SECONDS = 15
LIST_PACKAGES = """
import importlib.metadata
for package in importlib.metadata.distributions():
    print(package.name + "==" + package.version.partition("+")[0])
"""
# In the image's own Python, on which ours stands.
FIND_TOOLS = """
import importlib.metadata, importlib.util, shutil
print(*filter(shutil.which, ("pip", "cc", "gcc", "g++", "ld", "as", "make", "cargo", "git", "curl", "wget")))
print(*(package.name for package in importlib.metadata.distributions()))
print(*filter(importlib.util.find_spec, ["ensurepip"]))
"""


@dataclass(frozen=True)
class Image:
    """What is built and tried; `trial` is what a container runs, where it is no server that can be asked."""

    target: str
    memory: str = "512m"
    healthy_within_seconds: int = 60
    environment: dict[str, str] = field(default_factory=dict[str, str])
    trial: tuple[str, ...] = ()
    without: tuple[str, ...] = ("torch", "litellm")  # heavy packages of other parts

    @property
    def name(self) -> str:
        return f"localhost/quiver-{self.target}:{TAG}"


WITHOUT_DATABASE = {"DATABASE_URL": f"postgresql://nobody@{NOWHERE}/none", "SERVER_API_KEY": KEY}
PROXY = {
    "LITELLM_MASTER_KEY": KEY,
    "EMBEDDER_BASE_URL": f"http://{NOWHERE}/v1",
    "QUIVER_BASE_URL": f"http://{NOWHERE}/v1",
    "QUIVER_API_KEY": KEY,
    "PG_VECTOR_API_BASE": f"http://{NOWHERE}",
    "PG_VECTOR_API_KEY": KEY,
}
# It starts only with the packages for traces. The others would wait for the collector when they are stopped.
TRACED = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{NOWHERE}"}
IMAGES = [
    Image("api", environment=WITHOUT_DATABASE),
    Image("worker", environment=WITHOUT_DATABASE),
    Image("embedder", memory="1g", environment=TRACED, without=("litellm", "psycopg")),
    Image(
        "lambda",
        environment=WITHOUT_DATABASE | {"FILES_DIR": "s3://none"},
        trial=("infra/lambda_trial.py", "python", "-m", "awslambdaric", "api.lambda_handler.handler"),
    ),
    Image("proxy", memory="1500m", healthy_within_seconds=180, environment=PROXY, without=("torch",)),
]


def main(targets: list[str]) -> None:
    """Build and try the targets, all of them unless some are named."""
    engine = find_engine()
    images = [image for image in IMAGES if not targets or image.target in targets]
    with build_options(engine) as options:
        build(engine, images, options)
    print(f"\n{'image':<12}{'size':>8}{'healthy after':>16}{'stopped after':>16}")
    for image in images:
        size = int(run(engine, "image", "inspect", "--format", "{{.Size}}", image.name)) / 1e6
        require_user(engine, image)
        require_pinned_packages(engine, image)
        require_no_tools(engine, image)
        up, down = answer_once(engine, image) if image.trial else try_out(engine, image)
        print(f"{image.target:<12}{size:>5.0f} MB{up:>14.1f} s{down:>14.1f} s", flush=True)


def build(engine: str, images: list[Image], options: list[str]) -> None:
    """Build images, unless BUILD=no says that those that are there will do."""
    for image in images if os.environ.get("BUILD") != "no" else []:
        print(f"Building {image.target}", flush=True)
        run(engine, "build", *options, "--target", image.target, "--tag", image.name, ".", shown=True)


def find_engine() -> str:
    for engine in ("docker", "podman"):
        if shutil.which(engine) and subprocess.run([engine, "info"], capture_output=True, check=False).returncode == 0:
            return engine
    sys.exit("Neither docker nor podman works here: install one of them, or start its service.")


@contextmanager
def build_options(engine: str) -> Generator[list[str]]:
    """The options of a build on this machine, BUILD_OPTIONS among them."""
    pip = dict[str, str]()
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        pip[name.rpartition(".")[2]] = value.strip("'\"")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write("[global]\n")
        config.writelines(
            f"{name} = {pip[name]}\n" for name in pip.keys() & {"index-url", "extra-index-url", "find-links"}
        )
        config.flush()
        options = ["--network=host", f"--secret=id=pip.conf,src={config.name}"]
        if engine == "podman":  # docker's builds can have no directory of this machine
            named = [Path(word.removeprefix("file://")) for value in pip.values() for word in value.split()]
            places = {place.parent if place.name == "simple" else place for place in named}  # its files lie beside it
            options += [f"--volume={place}:{place}:ro" for place in places if place.is_absolute() and place.is_dir()]
            options += ["--isolation=chroot", "--format=docker"]  # the image format that knows HEALTHCHECK
        yield [*options, *shlex.split(os.environ.get("BUILD_OPTIONS", ""))]


def require_pinned_packages(engine: str, image: Image) -> None:
    """Every package inside is one of constraints.txt, in its version, and none is of a part that is not inside."""
    pinned = {normal(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    listed = run(engine, "run", "--rm", "--entrypoint=python", image.name, "-c", LIST_PACKAGES).splitlines()
    inside = {normal(package) for package in listed if not package.startswith("quiver==")}
    if heavy := {package.partition("==")[0] for package in inside} & set(image.without):
        sys.exit(f"{image.name} has packages of other parts: {', '.join(sorted(heavy))}")
    if strangers := sorted(inside - pinned):
        sys.exit(f"{image.name} has packages that constraints.txt does not name: {', '.join(strangers)}")


def require_no_tools(engine: str, image: Image) -> None:
    """Nothing is left to install, compile or download with."""
    python = "--entrypoint=/usr/local/bin/python"
    if found := run(engine, "run", "--rm", python, image.name, "-c", FIND_TOOLS).split():
        sys.exit(f"{image.name} has tools that only its build needed: {', '.join(found)}")


def normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower() + "==" + requirement.partition("==")[2]


def try_out(engine: str, image: Image) -> tuple[float, float]:
    """Start a container and stop it; the seconds until it is healthy, and until it has ended."""
    environment = [f"--env={name}={value}" for name, value in image.environment.items()]
    began = time.monotonic()
    memory = f"--memory={image.memory}"
    container = run(engine, "run", "--detach", *HARDENED, memory, *environment, image.name).split()[-1]
    try:
        check = [engine, "exec", container, *health_check(engine, image)]
        while subprocess.run(check, capture_output=True, check=False).returncode != 0:
            if time.monotonic() - began > image.healthy_within_seconds:
                run(engine, "logs", container, shown=True)
                sys.exit(
                    f"{image.name} is not healthy within {image.healthy_within_seconds} seconds; its log is above."
                )
            time.sleep(0.2)
        healthy = time.monotonic()
        run(engine, "stop", f"--time={STOP_SECONDS}", container)
        stopped = time.monotonic()
        status = run(engine, "inspect", "--format={{.State.ExitCode}}", container).strip()
        if status != "0":
            sys.exit(f"{image.name} does not end well when it is asked to: its exit status is {status}.")
        return healthy - began, stopped - healthy
    finally:
        run(engine, "rm", "--force", container)


def answer_once(engine: str, image: Image) -> tuple[float, float]:
    """Run an image's trial in it; the seconds until it was passed, and none to stop."""
    environment = [f"--env={name}={value}" for name, value in image.environment.items()]
    script, *command = image.trial
    began = time.monotonic()
    options = [
        f"--memory={image.memory}",
        *environment,
        f"--volume={ROOT / script}:/trial.py:ro",
        "--entrypoint=python",
    ]
    run(engine, "run", "--rm", *HARDENED, *options, image.name, "/trial.py", *command)
    return time.monotonic() - began, 0.0


def require_user(engine: str, image: Image) -> None:
    user = run(engine, "image", "inspect", "--format={{.Config.User}}", image.name).strip()
    if user != USER:
        sys.exit(f"{image.name} runs as {user!r}, not as {USER!r}.")


def health_check(engine: str, image: Image) -> list[str]:
    """The command of the image's HEALTHCHECK, for this to ask more often than every ten seconds."""
    inspected = json.loads(run(engine, "image", "inspect", image.name))[0]
    check = inspected.get("HealthCheck") or inspected.get("Healthcheck") or inspected["Config"]["Healthcheck"]
    return check["Test"][1:]


def run(*command: str, shown: bool = False) -> str:
    """What a command prints; it goes to the screen instead when it is to be shown. A failure ends the program."""
    caught = None if shown else subprocess.PIPE
    done = subprocess.run(command, cwd=ROOT, stdout=caught, stderr=caught, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stderr or ''}{shlex.join(command[:3])} ... failed with status {done.returncode}.")
    return done.stdout or ""


if __name__ == "__main__":
    main(sys.argv[1:])
