"""Jobs of ingestion in procrastinate's queue, put there through its SQL functions within our own transactions.

Turns keep the queue fair: a store's first waiting file is served in the round that comes next and each further one
a round later, so that a store with thousands of files delays nobody else's (start-time fair queueing: Goyal, Vin and
Cheng, 1996). A job's priority is its turn, negated; sweeps have priority 0 and go first.
"""

from collections.abc import Sequence

from api.tables.database import Connection

QUEUE = "ingestion"
TASK = "ingest_file"

ENQUEUE = """
SELECT procrastinate_defer_jobs_v1(array_agg(
    ROW(%(queue)s, %(task)s, -turn, NULL, NULL,
        jsonb_build_object('vector_store_id', vector_store_id, 'file_id', file_id),
        NULL)::procrastinate_job_to_defer_v1
    ORDER BY turn, file_id))
FROM vector_store_files
WHERE vector_store_id = %(vector_store_id)s AND file_id = ANY(%(file_ids)s)
"""

# A job that waits for another try has had its turn.
CURRENT_TURN = """
SELECT coalesce(-max(priority), 0) AS turn FROM procrastinate_jobs
WHERE status = 'todo' AND queue_name = %(queue)s AND scheduled_at IS NULL
"""

# Somebody emptied the queue, or restored a dump without it. As a difference of sets: a join is looked up row by row
# where the statistics are of the time before a big batch, in 9 s and not in 0.02 s for 20,000 files.
LIST_LOST = """
SELECT vector_store_id, file_id FROM vector_store_files WHERE status = 'in_progress'
EXCEPT
SELECT args ->> 'vector_store_id', args ->> 'file_id' FROM procrastinate_jobs
WHERE status IN ('todo', 'doing') AND queue_name = %(queue)s
LIMIT 1000
"""

COUNT = """
SELECT queue_name, status::text AS status, count(*) AS count FROM procrastinate_jobs
WHERE status IN ('todo', 'doing') GROUP BY queue_name, status
"""

# Those of the locks that a job holds which nobody has taken yet.
LIST_WAITING = "SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY(%(locks)s)"

# A job that waits for another try is not due before that, nor one before the end of another that has its lock.
COUNT_DUE = """
SELECT count(*) AS due FROM procrastinate_jobs AS job
WHERE status = 'todo' AND queue_name = ANY(%(queues)s) AND (scheduled_at IS NULL OR scheduled_at <= now())
  AND NOT EXISTS (SELECT FROM procrastinate_jobs AS other WHERE other.lock = job.lock AND other.status = 'doing')
"""


async def current_turn(connection: Connection) -> int:
    row = await (await connection.execute(CURRENT_TURN, {"queue": QUEUE})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["turn"]


async def enqueue(connection: Connection, vector_store_id: str, file_ids: Sequence[str]) -> None:
    """Have workers ingest files of a store, each in its turn."""
    params = {"queue": QUEUE, "task": TASK, "vector_store_id": vector_store_id, "file_ids": list(file_ids)}
    await connection.execute(ENQUEUE, params)


async def list_lost(connection: Connection) -> list[tuple[str, str]]:
    """Files that wait without a job, as (store, file)."""
    rows = await (await connection.execute(LIST_LOST, {"queue": QUEUE})).fetchall()
    return [(row["vector_store_id"], row["file_id"]) for row in rows]


async def count_due(connection: Connection, queues: Sequence[str]) -> int:
    row = await (await connection.execute(COUNT_DUE, {"queues": list(queues)})).fetchone()
    assert row is not None  # an aggregate always has one
    return row["due"]


async def count(connection: Connection) -> dict[tuple[str, str], int]:
    """How many jobs wait (`todo`) and are being done (`doing`), by queue and status."""
    rows = await (await connection.execute(COUNT)).fetchall()
    return {(row["queue_name"], row["status"]): row["count"] for row in rows}
