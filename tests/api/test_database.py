from typing import Any

import psycopg

from api.tables.database import Database
from tests.conftest import make_settings

DISCONNECT_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


async def test_a_connection_that_a_look_at_the_idle_ones_missed_is_looked_at_before_it_is_used(
    settings: dict[str, Any], database: str
) -> None:
    quiver = Database(make_settings(**settings))
    await quiver.open()
    try:
        async with quiver.connection() as connection:
            await connection.execute("SELECT")
        await quiver.check_connections()
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
            await other.execute(DISCONNECT_OTHERS)

        async with quiver.connection() as connection:
            row = await (await connection.execute("SELECT 1 AS one")).fetchone()
    finally:
        await quiver.close()

    assert row == {"one": 1}
