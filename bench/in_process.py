"""What an engine does with the questions when nothing is around it: in the batches of a full queue, and one by one.

python -m bench.in_process ENGINE --bodies FILE --cache DIRECTORY --seconds S   prints one JSON object
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from embedder.engines import BUNDLED_MODEL, Engine, ModelSpec, Tokens, load

WAITING = 64  # questions that a full queue chooses from
BATCH = 16  # of them are of like length


def batches(engine: Engine, texts: list[str]) -> Iterator[list[Tokens]]:
    tokens = engine.tokenize(texts)
    while True:
        for start in range(0, len(tokens) - WAITING + 1, WAITING):
            alike = sorted(tokens[start : start + WAITING], key=lambda one: len(one.ids))
            yield from (alike[place : place + BATCH] for place in range(0, WAITING, BATCH))


def run(engine: Engine, texts: list[str], *, seconds: float) -> dict[str, float]:
    count, cpu, until = 0, time.process_time(), time.perf_counter() + seconds
    for batch in batches(engine, texts):
        engine.run(batch)
        count += len(batch)
        if time.perf_counter() >= until:
            break
    cpu = time.process_time() - cpu
    taken: list[float] = []
    until = time.perf_counter() + seconds
    for one in cycle(engine.tokenize(texts)):
        started = time.perf_counter()
        engine.run([one])
        taken.append(time.perf_counter() - started)
        if time.perf_counter() >= until:
            break
    return {"texts_per_core_second": count / cpu, "p50_seconds": statistics.median(taken)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine")
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    texts = [json.loads(body)["input"][0] for body in options.bodies.read_bytes().splitlines()]
    engine = load(ModelSpec(BUNDLED_MODEL, engine=options.engine), cache=options.cache)
    run(engine, texts[:WAITING], seconds=options.seconds / 4)  # its first runs are slow
    print(json.dumps(run(engine, texts, seconds=options.seconds)))


if __name__ == "__main__":
    main()
