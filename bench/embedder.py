"""How fast the embedder is: against the server everybody writes first, infinity-emb, and the processor's own bound.

python -m bench.embedder [--data DIRECTORY] [--infinity PATH/TO/infinity_emb] [--engines openvino,torch]

The servers run at once, on the same cores, and are asked in turns; the one that is asked has the cores to itself. The
client has a core of its own where there are two. Texts per core-second are counted by the server's own CPU time, which
other programs on the machine disturb least. After each server comes its engine's turn, alone in a process.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from bench.texts import Asked, asked, nearest_shared, sentences
from embedder.engines import sources
from embedder.engines.choices import processor

ROOT = Path(__file__).parents[1]
MODEL = "all-minilm-l6-v2"
START_SECONDS = 600  # a first start exports, and may quantise
LOADS = {"1 client": ("short", 1), "8 clients": ("short", 8), "64 clients": ("short", 64), "8 x 64 texts": ("mixed", 8)}
WARM_UP_SECONDS = 1.0  # of each short load, before it is measured: a turn begins with what others left in the caches
LAYERED = ("1 client", "64 clients")  # where what surrounds the engine is told


@dataclass
class Measured:
    """One server under one load, all rounds together."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    texts: int = 0
    tokens: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    def add(self, other: "Measured") -> None:
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.texts += other.texts
        self.tokens += other.tokens
        self.failed += other.failed
        self.latencies += other.latencies


@dataclass
class Served:
    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str
    start_seconds: float
    measured: dict[str, Measured] = field(default_factory=lambda: {name: Measured() for name in LOADS})

    @property
    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in self.processes))

    def peak_megabytes(self) -> int:
        peaks = [Path(f"/proc/{process.pid}/status").read_text() for process in self.processes]
        return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in peaks) // 1024


def commands(options: argparse.Namespace, directory: Path) -> dict[str, list[str]]:
    """How each server is started, but for its port."""
    python = sys.executable
    found = {"plain": [python, str(ROOT / "bench" / "plain_server.py"), str(directory)]}
    if options.infinity:
        found["infinity"] = [os.path.abspath(options.infinity), "v2", "--model-id", str(directory)]
        found["infinity"] += ["--engine", "torch", "--device", "cpu", "--served-model-name", MODEL, "--host"]
        found["infinity"] += ["127.0.0.1", "--url-prefix", "/v1", "--port"]
    for engine in options.engines.split(","):
        found[f"embedder {engine}"] = [python, "-m", "embedder", "--port"]
    return found


@contextmanager
def served(name: str, command: list[str], *, cores: set[int], cache: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    own = {"EMBEDDER_ENGINE": name.partition(" ")[2], "EMBEDDER_CACHE_DIR": str(cache), "EMBEDDER_LOG_LEVEL": "error"}
    environment = {**os.environ, **quiet, **own, "PYTHONPATH": str(ROOT) if name.startswith("embedder") else ""}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, str(port)],
            env=environment,
            cwd=tempfile.gettempdir(),
            stdout=log,
            stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        started = time.perf_counter()
        try:
            wait_until_ready(process, port, log=log)
            yield Served(name, process, port, "/v1/embeddings", time.perf_counter() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, *, log: object) -> None:
    """Until the server embeds: a port that is open may still be loading."""
    body = json.dumps({"model": MODEL, "input": ["ready?"]}).encode()
    until = time.perf_counter() + START_SECONDS
    while time.perf_counter() < until:
        if process.poll() is not None:
            log.seek(0)
            raise RuntimeError(log.read().decode()[-2000:])
        try:
            ask(port, body)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
        else:
            return
    raise TimeoutError("The server did not become ready.")


def ask(port: int, body: bytes) -> dict:
    request = urllib.request.Request(  # our own server
        f"http://127.0.0.1:{port}/v1/embeddings", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
        return json.load(answer)


def vectors(server: Served, texts: list[str]) -> np.ndarray:
    found: list[list[float]] = []
    for start in range(0, len(texts), 50):
        answer = ask(server.port, json.dumps({"model": MODEL, "input": texts[start : start + 50]}).encode())
        found += [one["embedding"] for one in sorted(answer["data"], key=lambda one: one["index"])]
    rows = np.array(found, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def load(
    server: Served, name: str, what: Asked, *, bodies: Path, seconds: float, client_cores: set[int], skip: int
) -> Measured:
    _, clients = LOADS[name]
    asking = ["--bodies", str(bodies), "--clients", str(clients), "--seconds", str(seconds), "--skip", str(skip)]
    cpu = server.cpu_seconds()
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "load.py"), "127.0.0.1", str(server.port), server.path, *asking],
        capture_output=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, client_cores),
    )
    answer = json.loads(done.stdout)
    return Measured(
        seconds=answer["elapsed"],
        cpu_seconds=server.cpu_seconds() - cpu,
        texts=what.texts * len(answer["numbers"]),
        tokens=sum(what.tokens[number] for number in answer["numbers"]),
        failed=sum(times for status, times in answer["statuses"].items() if status != "200"),
        latencies=answer["latencies"],
    )


def take_turn(
    name: str,
    asking: Callable[..., Measured],
    measured: dict[str, Measured],
    *,
    seconds: float,
    skip: int,
    is_warmed: bool = True,
) -> None:
    if is_warmed:
        asking(seconds=WARM_UP_SECONDS, skip=skip)
    measured[name].add(asking(seconds=seconds, skip=skip))


def bound(directory: Path, cores: set[int]) -> tuple[float, float]:
    """Float32 multiplications and additions a second, measured, and the tokens a second that they would do for."""
    program = (
        "import time, numpy as np; a, b = (np.ones(s, np.float32) for s in ((1024, 384), (384, 1536))); a @ b\n"
        "def once():\n t = time.perf_counter(); a @ b; return time.perf_counter() - t\n"
        "print(2 * 1024 * 384 * 1536 / min(once() for _ in range(300)))"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(len(cores))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    config = json.loads((directory / "config.json").read_text())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    operations = 2 * layers * (4 * width * width + 2 * width * inner)  # attention's own, 1 to 5 %, not counted
    return float(done.stdout), float(done.stdout) / operations


class Alone:
    """A server's engine in a process of its own, without HTTP and queue."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.measured: dict[str, Measured] = {name: Measured() for name in LAYERED}

    def ask(self, name: str, *, seconds: float, skip: int) -> Measured:
        assert self._process.stdin is not None  # a pipe, as below
        wanted = {"clients": LOADS[name][1], "seconds": seconds, "skip": skip}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self.line())
        return Measured(cpu_seconds=answer["cpu_seconds"], texts=answer["texts"], latencies=answer["latencies"])

    def line(self) -> bytes:
        assert self._process.stdout is not None  # a pipe, as below
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError("The engine alone has ended.")


@contextmanager
def alone(engine: str, *, bodies: Path, cores: set[int], cache: Path) -> Iterator[Alone]:
    command = [sys.executable, "-m", "bench.in_process", engine, "--bodies", str(bodies), "--cache", str(cache)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    ) as process:
        engine_alone = Alone(process)
        engine_alone.line()
        yield engine_alone
        assert process.stdin is not None  # a pipe
        process.stdin.close()  # which ends it


def layer(server: Served, engine: Alone) -> str:
    """What HTTP and the queue cost: of the server's processor time, and of a single client's."""
    busy, busy_alone = (side.measured["64 clients"] for side in (server, engine))
    single, single_alone = (statistics.median(side.measured["1 client"].latencies) for side in (server, engine))
    alone_rate = busy_alone.texts / busy_alone.cpu_seconds
    share = 1 - busy.texts / busy.cpu_seconds / alone_rate
    return f"{server.name:26} {alone_rate:18.0f} {share:16.1%} {(single - single_alone) * 1000:14.2f}"


def table(servers: list[Served], checked: dict[str, str]) -> Iterator[str]:
    yield (
        f"{'server':26} {'load':13} {'texts/s':>8} {'tokens/s':>9} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'texts/core-s':>12} {'x plain':>8} {'x, core-s':>9} {'failed':>6}"
    )
    plain = servers[0]
    for server in servers:
        for name, measured in server.measured.items():
            sizes = sorted(measured.latencies) or [float("nan")]
            p50, p99 = statistics.median(sizes) * 1000, sizes[min(len(sizes) - 1, int(len(sizes) * 0.99))] * 1000
            of_plain = plain.measured[name]
            ratio = measured.texts / measured.seconds / (of_plain.texts / of_plain.seconds)
            by_core = measured.texts / measured.cpu_seconds
            by_core_ratio = by_core / (of_plain.texts / of_plain.cpu_seconds)
            yield (
                f"{server.name:26} {name:13} {measured.texts / measured.seconds:8.0f} "
                f"{measured.tokens / measured.seconds:9.0f} {p50:8.1f} {p99:8.1f} {by_core:12.0f} "
                f"{ratio:8.2f} {by_core_ratio:9.2f} {measured.failed:6}"
            )
    yield ""
    yield f"{'server':26} {'ready after s':>13} {'peak MB':>8}   vectors against the plain server's"
    for server in servers:
        yield f"{server.name:26} {server.start_seconds:13.1f} {server.peak_megabytes():8}   {checked[server.name]}"


def compare(expected: np.ndarray, found: np.ndarray) -> str:
    cosines = (expected * found).sum(axis=1)
    shared = nearest_shared(expected, found)
    return f"cosine {cosines.mean():.5f} mean, {cosines.min():.5f} least; {shared:.1%} of the ten nearest the same"


def started(stack: ExitStack, found: dict[str, list[str]], *, cores: set[int], cache: Path) -> Iterator[Served]:
    for name, command in found.items():
        try:
            if name.startswith("embedder"):  # the first start exports; the second is what one waits for
                with served(name, command, cores=cores, cache=cache):
                    pass
            yield stack.enter_context(served(name, command, cores=cores, cache=cache))
        except (RuntimeError, OSError) as error:
            print(f"{name} does not start here: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="directory with corpus.jsonl.gz; without it Python's help pages are read"
    )
    parser.add_argument("--infinity", help="the command infinity_emb, of infinity-emb[server,torch]")
    parser.add_argument("--engines", default="auto,openvino,onnx,torch,openvino-int8,onnx-int8")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one load, in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1, help="cores the servers may use")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "quiver" / "models")
    options = parser.parse_args()
    if options.data and not (options.data / "corpus.jsonl.gz").exists():
        parser.error(f"{options.data} has no corpus.jsonl.gz: name the directory of one set")
    usable = sorted(os.sched_getaffinity(0))
    cores = set(usable[: options.cores])
    client_cores = set(usable[options.cores :]) or cores
    directory = sources.bundled()
    what = asked(options.data, directory, model=MODEL)
    rate, tokens = bound(directory, cores)
    print(f"{len(cores)} core(s) for the server; matrix products: {rate / 1e9:.0f} GFLOP/s in float32, measured,")
    print(f"which would do for {tokens:.0f} tokens/s of {MODEL} if nothing else took time.")
    if "vnni" in processor():
        print(f"In 8 bits the processor multiplies four times as many at once (VNNI): {4 * tokens:.0f} tokens/s.")
    print()
    with ExitStack() as stack:
        bodies = {kind: Path(stack.enter_context(tempfile.NamedTemporaryFile()).name) for kind in what}
        for kind, file in bodies.items():
            file.write_bytes(b"\n".join(what[kind].bodies))
        servers = list(started(stack, commands(options, directory), cores=cores, cache=options.cache))
        texts = sentences(options.data)
        expected = vectors(servers[0], texts)
        checked = {server.name: compare(expected, vectors(server, texts)) for server in servers}
        engines = {
            server.name: stack.enter_context(
                alone(server.name.partition(" ")[2], bodies=bodies["short"], cores=cores, cache=options.cache)
            )
            for server in servers
            if server.name.startswith("embedder")
        }
        for round_number in range(options.rounds):
            for name, (kind, _) in LOADS.items():
                for server in servers:
                    asking = partial(load, server, name, what[kind], bodies=bodies[kind], client_cores=client_cores)
                    turn = partial(take_turn, name, seconds=options.seconds, skip=round_number * 997)
                    turn(asking, server.measured, is_warmed=kind == "short")
                    if server.name in engines and name in LAYERED:
                        turn(partial(engines[server.name].ask, name), engines[server.name].measured)
        print("\n".join(table(servers, checked)))
        print(f"\n{'server':26} {'alone, texts/core-s':>18} {'layer, 64 clients':>16} {'1 client, ms':>14}")
        for server in servers:
            if server.name in engines:
                print(layer(server, engines[server.name]))


if __name__ == "__main__":
    main()
