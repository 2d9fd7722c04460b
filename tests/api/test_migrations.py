import asyncio
import shutil
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from api.errors import ConfigurationError, DatabaseUnavailable
from api.tables import migrations
from api.tables.columns import Embeddings, VectorStores
from api.tables.database_url import parse_url

HISTORY = [migration.name for migration in migrations.read_history()]

# What `prisma db push` makes of litellm-pgvector's schema, with a store and rows in it.
LITELLM_PGVECTOR = """
    CREATE EXTENSION vector;
    CREATE TABLE vector_stores (
        id text PRIMARY KEY,
        name text NOT NULL,
        file_counts jsonb,
        status text NOT NULL DEFAULT 'completed',
        usage_bytes integer DEFAULT 0,
        created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
        expires_after jsonb,
        expires_at timestamp(3),
        last_active_at timestamp(3),
        metadata jsonb
    );
    CREATE TABLE embeddings (
        id text PRIMARY KEY,
        vector_store_id text NOT NULL REFERENCES vector_stores(id) ON DELETE CASCADE ON UPDATE CASCADE,
        content text NOT NULL,
        embedding vector(1536) NOT NULL,
        metadata jsonb,
        created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP
    );
    INSERT INTO vector_stores (id, name, usage_bytes, created_at)
         VALUES ('store', 'Handbook', NULL, '2025-01-02 03:04:05');
    INSERT INTO embeddings (id, vector_store_id, content, embedding)
         SELECT 'chunk_' || i, 'store', 'text', array_fill(i, ARRAY[1536])::vector
           FROM generate_series(1, 20) AS i
"""

# Somebody else's table that happens to have our table's name.
FOREIGN_EMBEDDINGS = """
    CREATE EXTENSION vector;
    CREATE TABLE embeddings ("Key" text PRIMARY KEY, body text, vec vector(384))
"""

INSERT_CHUNK = """
    INSERT INTO embeddings (vector_store_id, id, content, embedding)
         SELECT 'store', 'chunk_new', content, embedding FROM embeddings WHERE id = 'chunk_1'
      RETURNING seq
"""


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A copy of the migrations that a test may spoil."""
    return Path(shutil.copytree(migrations.MIGRATIONS, tmp_path / "migrations"))


async def query(database_url: str, statement: LiteralString, **parameters: object) -> list[dict[str, Any]]:
    conninfo, _ = parse_url(database_url)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        await connection.execute("SET timezone = 'UTC'")
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(statement, parameters or None)
        return await cursor.fetchall() if cursor.description else []


def add_migration(history: Path, name: str, script: str) -> None:
    (history / name).mkdir()
    (history / name / "migration.sql").write_text(script)


async def test_an_empty_database_gets_the_whole_history(empty_database: str) -> None:
    before = await migrations.status(empty_database)
    applied = await migrations.apply(empty_database)
    after = await migrations.status(empty_database)

    assert before == migrations.Status(applied=[], pending=HISTORY)
    assert applied == HISTORY
    assert after == migrations.Status(applied=HISTORY, pending=[])


async def test_asking_for_the_status_changes_nothing(empty_database: str) -> None:
    assert await migrations.pending(empty_database) == HISTORY

    assert await query(empty_database, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []


async def test_migrating_twice_applies_nothing_the_second_time(database: str) -> None:
    books = await query(database, "SELECT * FROM _prisma_migrations")

    assert await migrations.apply(database) == []
    assert await query(database, "SELECT * FROM _prisma_migrations") == books


async def test_the_books_are_prismas(database: str) -> None:
    rows = await query(database, "SELECT * FROM _prisma_migrations ORDER BY started_at")

    assert [row["migration_name"] for row in rows] == HISTORY
    assert [row["checksum"] for row in rows] == [migration.checksum for migration in migrations.read_history()]
    assert all(row["started_at"] <= row["finished_at"] for row in rows)
    assert [row["applied_steps_count"] for row in rows] == [1] * len(HISTORY)
    assert [row["logs"] or row["rolled_back_at"] for row in rows] == [None] * len(HISTORY)


async def test_concurrent_migrations_apply_each_migration_once(empty_database: str) -> None:
    applied = await asyncio.gather(*(migrations.apply(empty_database) for _ in range(4)))

    assert sorted(name for names in applied for name in names) == HISTORY
    assert await migrations.pending(empty_database) == []


async def test_who_waits_too_long_for_another_migration_is_told_so(empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database) as other:
        await other.execute("SELECT pg_advisory_lock(%s)", [migrations.PRISMA_LOCK])
        with pytest.raises(ConfigurationError, match="Another migration of this database"):
            await migrations.apply(empty_database, lock_timeout_seconds=0.1)

    assert await migrations.apply(empty_database) == HISTORY


async def test_an_edited_migration_is_refused_by_name(database: str, history: Path) -> None:
    with (history / HISTORY[0] / "migration.sql").open("a") as script:
        script.write("-- one more line\n")

    with pytest.raises(ConfigurationError, match=f"'{HISTORY[0]}' was edited after it was applied"):
        await migrations.apply(database, directory=history)
    with pytest.raises(ConfigurationError, match=HISTORY[0]):
        await migrations.status(database, directory=history)


async def test_a_migration_that_failed_under_prisma_is_refused_until_it_is_resolved(database: str) -> None:
    await query(
        database, "UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name = %(name)s", name=HISTORY[0]
    )

    with pytest.raises(ConfigurationError, match=f"'{HISTORY[0]}' failed earlier.*migrate resolve --rolled-back"):
        await migrations.apply(database)

    await query(database, "UPDATE _prisma_migrations SET rolled_back_at = now() WHERE finished_at IS NULL")
    assert await migrations.apply(database) == [HISTORY[0]]


async def test_a_database_of_a_later_quiver_is_left_as_it_is(database: str, history: Path) -> None:
    shutil.rmtree(history / HISTORY[-1])

    assert await migrations.apply(database, directory=history) == []
    assert (await migrations.status(database, directory=history)).newer == [HISTORY[-1]]


# The first of the two is one that none of the later ones needs.
@pytest.mark.parametrize(
    "missing", ["20261121000004_idempotency_keys", HISTORY[-1]], ids=["before ours", "and ours are lacking"]
)
async def test_a_strange_migration_is_refused_by_name(empty_database: str, history: Path, missing: str) -> None:
    add_migration(history, "20260101000000_of_another_application", "SELECT 1")
    shutil.rmtree(history / missing)
    await migrations.apply(empty_database, directory=history)

    with pytest.raises(ConfigurationError, match="does not know, '20260101000000_of_another_application'"):
        await migrations.apply(empty_database)


async def test_a_table_in_use_is_waited_for_without_keeping_others_waiting(database: str, history: Path) -> None:
    add_migration(history, "30000101000000_later", "ALTER TABLE files ADD COLUMN colour text")
    async with await psycopg.AsyncConnection.connect(database) as reader:
        await reader.execute("SELECT count(*) FROM files")
        with pytest.raises(ConfigurationError, match="another session held a table all the while"):
            await migrations.apply(database, directory=history, lock_timeout_seconds=0.1)
        migrating = asyncio.create_task(migrations.apply(database, directory=history))
        await reader.rollback()

    assert await migrating == ["30000101000000_later"]


async def test_a_migration_without_a_script_is_refused(empty_database: str, history: Path) -> None:
    (history / HISTORY[-1] / "migration.sql").unlink()

    with pytest.raises(ConfigurationError, match=f"'{HISTORY[-1]}' has no migration.sql"):
        await migrations.apply(empty_database, directory=history)
    assert await query(empty_database, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []


async def test_a_broken_migration_is_rolled_back_whole_and_runs_once_it_is_repaired(
    database: str, history: Path
) -> None:
    add_migration(history, "30000101000000_broken", "CREATE TABLE half (id int); SELECT 1 / 0;")
    with pytest.raises(
        ConfigurationError, match="'30000101000000_broken' failed and was rolled back: division by zero"
    ):
        await migrations.apply(database, directory=history)
    after_failure = await migrations.status(database, directory=history)

    (history / "30000101000000_broken" / "migration.sql").write_text("CREATE TABLE half (id int)")

    assert after_failure.pending == ["30000101000000_broken"]
    assert await migrations.apply(database, directory=history) == ["30000101000000_broken"]


async def test_migrations_before_a_broken_one_stay(empty_database: str, history: Path) -> None:
    add_migration(history, "30000101000000_broken", "SELECT 1 / 0")

    with pytest.raises(ConfigurationError, match="division by zero"):
        await migrations.apply(empty_database, directory=history)

    assert await migrations.pending(empty_database) == []


async def test_the_schema_in_the_address_is_created_and_used(empty_database: str) -> None:
    url = f'{empty_database}&schema=my "Own"&connection_limit=5'
    await query(empty_database, "CREATE EXTENSION vector")

    assert await migrations.apply(url) == HISTORY
    assert await migrations.pending(url) == []
    assert await migrations.pending(empty_database) == HISTORY
    tables = await query(empty_database, "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename !~ '^(pg|sql)_'")
    assert tables == [{"schemaname": 'my "Own"'}]


async def test_two_schemas_of_one_database_share_the_extension(empty_database: str) -> None:
    assert await migrations.apply(f"{empty_database}&schema=one") == HISTORY
    assert await migrations.apply(f"{empty_database}&schema=two") == HISTORY


async def test_a_role_without_the_right_to_create_the_extension_is_told_what_to_do(empty_database: str) -> None:
    await query(empty_database, "CREATE ROLE modest LOGIN; GRANT CREATE ON SCHEMA public TO modest")

    with pytest.raises(ConfigurationError, match="let an administrator run CREATE EXTENSION vector"):
        await migrations.apply(empty_database.replace("postgres@", "modest@"))
    await query(empty_database, "DROP OWNED BY modest; DROP ROLE modest")


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="check DATABASE_URL"):
        await migrations.apply(f"postgresql://postgres@/quiver?host={tmp_path}")


async def test_a_litellm_pgvector_database_keeps_its_rows_where_they_are(empty_database: str) -> None:
    await query(empty_database, LITELLM_PGVECTOR)
    await query(empty_database, "CREATE TABLE before AS SELECT pg_relation_filenode('embeddings') AS file")

    await migrations.apply(empty_database)

    [file] = await query(empty_database, "SELECT pg_relation_filenode('embeddings') AS file")
    assert [file] == await query(empty_database, "SELECT file FROM before")
    assert await query(empty_database, "SELECT count(*), count(seq) AS numbered FROM embeddings") == [
        {"count": 20, "numbered": 0}
    ]
    assert await query(empty_database, INSERT_CHUNK) == [{"seq": 1}]


async def test_a_litellm_pgvector_store_becomes_one_of_ours(empty_database: str) -> None:
    await query(
        empty_database,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database()); END $$",
    )
    await query(empty_database, LITELLM_PGVECTOR)

    await migrations.apply(empty_database)

    [store] = await query(empty_database, "SELECT * FROM vector_stores")
    assert store["created_at"].isoformat() == "2025-01-02T03:04:05+00:00"
    assert (store["name"], store["usage_bytes"], store["file_counts"]["total"]) == ("Handbook", 0, 0)


async def test_adopted_and_fresh_stores_have_the_same_columns(empty_database: str, database: str) -> None:
    columns = """
        SELECT column_name, data_type, is_nullable, column_default
          FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name = 'vector_stores'
      ORDER BY column_name
    """
    await query(empty_database, LITELLM_PGVECTOR)

    await migrations.apply(empty_database)

    assert await query(empty_database, columns) == await query(database, columns)


async def test_an_adopted_table_has_the_indexes_that_a_fresh_one_has(empty_database: str) -> None:
    await query(empty_database, LITELLM_PGVECTOR)

    await migrations.apply(empty_database)

    indexes = await query(empty_database, "SELECT indexname FROM pg_indexes WHERE tablename = 'embeddings' ORDER BY 1")
    assert [index["indexname"] for index in indexes] == [
        "embeddings_metadata_idx",
        "embeddings_pkey",
        "embeddings_vector_store_id_file_id_idx",
        "embeddings_vector_store_id_id_idx",
        "embeddings_vector_store_id_seq_idx",
    ]


async def test_a_table_with_other_column_names_is_left_alone(empty_database: str) -> None:
    await query(empty_database, FOREIGN_EMBEDDINGS)

    await migrations.apply(empty_database)

    columns = await query(
        empty_database, "SELECT column_name FROM information_schema.columns WHERE table_name = 'embeddings'"
    )
    assert [column["column_name"] for column in columns] == ["Key", "body", "vec"]


@pytest.mark.parametrize("names", [Embeddings, VectorStores])
async def test_every_generated_name_is_a_column(database: str, names: type[Embeddings | VectorStores]) -> None:
    columns = await query(
        database,
        "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass AND attnum > 0",
        table=names.TABLE,
    )
    generated = {value for name, value in vars(names).items() if name.isupper() and name != "TABLE"}

    assert generated == {column["attname"] for column in columns}


async def test_vectors_and_attributes_are_stored_in_the_row_and_texts_outside(database: str) -> None:
    storage = (
        "SELECT attname, attstorage::text FROM pg_attribute WHERE attrelid = 'embeddings'::regclass AND attnum > 0"
    )
    columns = {row["attname"]: row["attstorage"] for row in await query(database, storage)}
    options = await query(database, "SELECT reloptions FROM pg_class WHERE oid = 'embeddings'::regclass")

    assert (columns["embedding"], columns["metadata"], columns["content"]) == ("m", "m", "x")
    assert options == [{"reloptions": ["toast_tuple_target=128"]}]


async def test_vectors_of_any_dimension_lie_side_by_side(database: str) -> None:
    rows = """
        INSERT INTO embeddings (vector_store_id, id, content, embedding)
             VALUES ('a', '1', 'x', '[1,2]'), ('b', '1', 'x', '[1,2,3]')
          RETURNING vector_dims(embedding) AS dimension, seq
    """

    assert await query(database, rows) == [{"dimension": 2, "seq": 1}, {"dimension": 3, "seq": 2}]


@pytest.mark.parametrize(
    ("url", "conninfo", "schema"),
    [
        ("postgresql://u:p%40ss@db:5433/x", "user=u password=p@ss dbname=x host=db port=5433", None),
        ("postgres://u@db/x?schema=own&connection_limit=5", "user=u dbname=x host=db", "own"),
        ("postgresql://u@db/x?sslmode=require&pgbouncer=true", "user=u dbname=x host=db sslmode=require", None),
        ("postgresql:///x?host=/run&schema=a%20b&connect_timeout=3", "dbname=x host=/run connect_timeout=3", "a b"),
        ("postgresql://u@db/x?schema=", "user=u dbname=x host=db", None),
        ("host=/run dbname=x", "host=/run dbname=x", None),
    ],
)
def test_prismas_parameters_are_taken_out_of_an_address(url: str, conninfo: str, schema: str | None) -> None:
    parsed, found = parse_url(url)

    assert (conninfo_to_dict(parsed), found) == (conninfo_to_dict(conninfo), schema)


@pytest.mark.parametrize(
    "url", ["mysql://db/x", "postgresql://u:secret%@db/x", "postgresql://db/x?colour=red", "nonsense"]
)
def test_what_is_no_address_of_postgresql_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address of a PostgreSQL database") as failure:
        parse_url(url)

    assert "secret" not in str(failure.value)


def test_a_demand_for_verified_tls_that_only_prisma_reads_is_not_dropped() -> None:
    with pytest.raises(ConfigurationError, match="sslmode=verify-full"):
        parse_url("postgresql://u@db/x?sslaccept=strict")
