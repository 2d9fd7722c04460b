"""How many of a large store's chunks fit a filter: by a sample, which is good for a minute.

It only decides how they are looked for. A search by a sample that is off is slower, and as right.
"""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from api.field_mapping import ChunkTable
from api.schemas.filters import Filter
from api.tables.chunks import statement_names
from api.tables.database import Connection
from api.tables.vector_index import Segment
from api.tables.vector_search import compile_condition

PROBES: Final = 100
SAMPLE_SECONDS: Final = 60
MAX_SAMPLES: Final = 10_000  # of some hundred bytes each

# Of chunks here and there in the store, how many fit the filter.
SAMPLE = """
SELECT coalesce(avg(probe.fits::integer), 0)::float8 AS share,
       (SELECT sum(living_count) FROM vector_indexes WHERE vector_store_id = %(vector_store_id)s)::float8 AS chunks
FROM (SELECT min(seq) AS first FROM {table} WHERE {vector_store_id} = {store}) AS numbered
CROSS JOIN generate_series(0, {probes} - 1) AS step
CROSS JOIN LATERAL (
    SELECT ({condition}) IS TRUE AS fits FROM {table}
    WHERE {vector_store_id} = {store}
      AND seq >= first + (({last} - first) * ((step + mod(step * 0.618, 1)) / {probes}))::bigint
    ORDER BY seq
    LIMIT 1
) AS probe
"""


@dataclass(frozen=True)
class Sample:
    share: float  # of the chunks that were looked at
    chunks: float  # that have an index


class FilterSamples:
    """The samples of the last minute. One for a process."""

    def __init__(self) -> None:
        self._samples: OrderedDict[tuple[str, bytes], tuple[float, Sample]] = OrderedDict()

    async def get(
        self,
        connection: Connection,
        table: ChunkTable,
        vector_store_id: str,
        segments: tuple[Segment, ...],
        filter: Filter,
    ) -> Sample:
        """The sample of a store that has these segments, taken if there is none."""
        key = vector_store_id, hashlib.blake2b(filter.model_dump_json().encode(), digest_size=16).digest()
        taken, sample = self._samples.get(key, (0.0, None))
        if sample is None or time.monotonic() - taken > SAMPLE_SECONDS:
            sample = await _take(connection, table, vector_store_id, segments, filter)
            self._samples[key] = time.monotonic(), sample
            self._samples.move_to_end(key)
            if len(self._samples) > MAX_SAMPLES:
                self._samples.popitem(last=False)
        return sample


async def _take(
    connection: Connection, table: ChunkTable, vector_store_id: str, segments: tuple[Segment, ...], filter: Filter
) -> Sample:
    condition, params = compile_condition(table, filter)
    last = max((segment.until for segment in segments if segment.until is not None), default=None)
    names = statement_names(table, vector_store_id) | {"last": sql.Literal(last), "probes": sql.Literal(PROBES)}
    statement = sql.SQL(SAMPLE).format(**names, condition=condition)
    row = await (
        await connection.execute(statement, params | {"vector_store_id": vector_store_id}, prepare=False)
    ).fetchone()
    assert row is not None  # an aggregate always has one
    return Sample(row["share"], row["chunks"] or 0)
