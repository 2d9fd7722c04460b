"""How much of what is nearest the searches of a large store find, with filters of any selectivity and at any moment.

make bench-recall   100,000 chunks of 384 dimensions; a few minutes

Every figure is recall@10 against a comparison with all chunks in numpy, and the median of a search's milliseconds with
nobody else asking, behind the API's routes.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
from psycopg import sql

from api.resources import Resources
from api.schemas.search import SearchRequest
from api.services import search, vector_indexes
from api.up.embedded_postgres import EmbeddedPostgres
from api.vectors import Vectors
from bench import generated, stack

TOP = 10
DELETED_TENTHS = (1, 4, 8)  # of the chunks by their number

Attributes = dict[str, Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sought:
    """A filter, and the chunks that it fits as Python sees it."""

    filter: dict[str, Any] | None
    fits: Callable[[Attributes], bool]


def equal(key: str, value: Any) -> Sought:
    return Sought({"type": "eq", "key": key, "value": value}, lambda own: own[key] == value)


def among(key: str, values: list[Any]) -> Sought:
    chosen = set(values)
    return Sought({"type": "in", "key": key, "value": values}, lambda own: own[key] in chosen)


def below(key: str, value: int) -> Sought:
    return Sought({"type": "lt", "key": key, "value": value}, lambda own: own[key] < value)


def both(one: Sought, other: Sought) -> Sought:
    together = {"type": "and", "filters": [one.filter, other.filter]}
    return Sought(together, lambda own: one.fits(own) and other.fits(own))


NO_FILTER = Sought(None, lambda _: True)
SHARES = ("50 %", "10 %", "1 %", "0.1 %", "0.01 %")
KINDS: Mapping[str, tuple[Sought, ...]] = {
    "eq": (
        equal("is_even", True),
        equal("tenth", "t3"),
        equal("hundredth", "h37"),
        equal("price", 437),
        equal("ticket", 4711),
    ),
    "in": (
        among("language", ["en", "fr"]),
        among("price", list(range(0, 1000, 10))),
        among("price", list(range(7, 1000, 100))),
        among("ticket", list(range(11, 10_000, 1000))),
        among("ticket", [17]),
    ),
    "range": tuple(below("ticket", count) for count in (5000, 1000, 100, 10, 1)),
    "mixed": tuple(
        both(among("language", ["en", "fr"]), below("ticket", count)) for count in (10_000, 2000, 200, 20, 2)
    ),
}


@dataclass
class Corpus:
    """What lies in the store, for the comparison with all."""

    vectors: Vectors
    attributes: list[Attributes]
    is_there: Mask

    def nearest(self, query: Any, mask: Mask) -> set[int]:
        places = np.flatnonzero(mask)
        scores = self.vectors[places] @ query
        return set(places[np.argsort(-scores)[:TOP]].tolist())


def corpus(count: int, dimension: int) -> Corpus:
    blocks = list(generated.blocks(count, dimension))
    attributes = [one for block in blocks for one in block.attributes]
    return Corpus(np.concatenate([block.vectors for block in blocks]), attributes, np.ones(count, dtype=np.bool_))


async def measured(
    opened: Resources, store: str, chunks: Corpus, queries: Vectors, sought: Sought
) -> tuple[float, float]:
    """Recall and milliseconds."""
    mask = np.fromiter(map(sought.fits, chunks.attributes), np.bool_) & chunks.is_there
    shares, seconds = [], []
    for query in queries:
        request = SearchRequest.model_validate(
            {"query_embedding": query.tolist(), "max_num_results": TOP, "filters": sought.filter}
        )
        started = time.perf_counter()
        found = await search.search(opened, store, request)
        seconds.append(time.perf_counter() - started)
        nearest = chunks.nearest(query, mask)
        shares.append(len({int(one["file_id"]) for one in found.page["data"]} & nearest) / max(len(nearest), 1))
    return statistics.mean(shares), statistics.median(seconds) * 1000


async def print_moment(name: str, opened: Resources, store: str, chunks: Corpus, queries: Vectors) -> None:
    cells = [
        await measured(opened, store, chunks, queries, sought)
        for sought in (NO_FILTER, KINDS["eq"][1], KINDS["range"][0], KINDS["range"][2])
    ]
    print(f"| {name} | " + " | ".join(f"{recall:.3f}, {ms:.0f} ms" for recall, ms in cells) + " |", flush=True)


async def run(postgres: EmbeddedPostgres, options: argparse.Namespace) -> None:
    chunks = corpus(options.chunks, options.dimension)
    queries = generated.questions(options.questions, options.dimension)
    store = (await stack.fill(postgres, options.chunks, options.dimension, has_words=False, has_index=False)).id
    async with stack.resources(postgres) as opened:
        print("\n| moment | no filter | `eq` 10 % | range 50 % | range 1 % |\n| --- | --- | --- | --- | --- |")
        await print_moment("before the index", opened, store, chunks, queries)
        started = time.perf_counter()
        building = asyncio.create_task(vector_indexes.care(opened))
        await print_moment("while it is built", opened, store, chunks, queries)
        await building
        built = time.perf_counter() - started
        await print_moment("with the index", opened, store, chunks, queries)
        await delete(opened, store, chunks)
        await print_moment("30 % deleted", opened, store, chunks, queries)
        await vector_indexes.count(opened)
        await vector_indexes.care(opened)
        await print_moment("built anew", opened, store, chunks, queries)
        print(f"\nThe index was built in {built:.0f} s, searches beside it.")
        print(f"\n| filter | {' | '.join(SHARES)} |\n| --- |{' --- |' * len(SHARES)}")
        for kind, filters in KINDS.items():
            cells = [await measured(opened, store, chunks, queries, sought) for sought in filters]
            print(f"| {kind} | " + " | ".join(f"{recall:.3f}, {ms:.0f} ms" for recall, ms in cells) + " |", flush=True)


async def delete(opened: Resources, store: str, chunks: Corpus) -> None:
    statement = sql.SQL(
        "DELETE FROM embeddings WHERE vector_store_id = %(store)s AND right(id, 1)::int = ANY(%(tenths)s)"
    )
    async with opened.database.connection(is_long=True) as connection:
        await connection.execute(statement, {"store": store, "tenths": list(DELETED_TENTHS)})
    chunks.is_there &= ~np.isin(np.arange(len(chunks.is_there)) % 10, DELETED_TENTHS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--questions", type=int, default=60)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    stack.print_machine("psycopg", "pgvector")
    print(f"seed {generated.SEED}, {options.chunks} chunks of {options.dimension} dimensions")
    with stack.postgres(None) as postgres:
        asyncio.run(run(postgres, options))


if __name__ == "__main__":
    main()
