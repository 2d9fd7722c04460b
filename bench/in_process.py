"""What an engine does with the questions when no server is around it: tokenised and run, in the batches of a full queue
or one by one.

python -m bench.in_process ENGINE --bodies FILE --cache DIRECTORY

Each line of its input, {"clients": N, "seconds": S, "skip": M}, is answered by a line; the first says that it is ready.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from typing import cast

from embedder.engines import BUNDLED_MODEL, Engine, ModelSpec, load
from embedder.queue import Job, Queue
from embedder.settings import Settings


def batches(engine: Engine, texts: Sequence[str], *, clients: int) -> list[list[str]]:
    """The texts as the server's own queue puts them together, when each client asks again as it is answered."""
    limits = Settings()
    queue = Queue(
        max_batch_tokens=limits.max_batch_tokens,
        max_batch_texts=limits.max_batch_texts,
        shape=engine.shape,
        overhead_tokens=engine.overhead_tokens,
    )
    questions = iter(enumerate(engine.tokenize(texts)))
    formed: list[list[str]] = []
    answered = clients
    while True:
        for number, tokens in islice(questions, answered):
            queue.put(Job(), [(number, tokens)])
        if not queue.backlog.tokens:
            return formed
        batch = queue.take()
        queue.finish(batch)
        formed.append([texts[cast("int", entry.key)] for entry in batch])
        answered = len(batch)


def run(engine: Engine, formed: Sequence[list[str]], *, seconds: float, skip: int) -> dict[str, object]:
    texts, latencies = 0, list[float]()
    cpu, begun = time.process_time(), time.perf_counter()
    for turn in count(skip):
        batch = formed[turn % len(formed)]
        started = time.perf_counter()
        engine.run(engine.tokenize(batch))
        ended = time.perf_counter()
        texts += len(batch)
        latencies.append(ended - started)
        if ended - begun >= seconds:
            break
    return {"texts": texts, "cpu_seconds": time.process_time() - cpu, "latencies": latencies}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    texts = [json.loads(body)["input"][0] for body in options.bodies.read_bytes().splitlines()]
    engine = load(ModelSpec(BUNDLED_MODEL, engine=options.engine), cache=options.cache)
    formed: dict[int, list[list[str]]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        clients = wanted["clients"]
        if clients not in formed:
            formed[clients] = batches(engine, texts, clients=clients)
        print(json.dumps(run(engine, formed[clients], seconds=wanted["seconds"], skip=wanted["skip"])), flush=True)


if __name__ == "__main__":
    main()
