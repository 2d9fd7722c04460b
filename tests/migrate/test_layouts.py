"""Databases that other programs made: litellm-pgvector, LangChain and LlamaIndex."""

from typing import Any

import pytest

from api.errors import ConfigurationError
from tests.migrate.running import chunks, migrate, query, rejects

# As their libraries create them: langchain-postgres 0.0.x, langchain-community, llama-index-vector-stores-postgres.
COLLECTIONS = """
    CREATE EXTENSION IF NOT EXISTS vector;
    CREATE TABLE langchain_pg_collection (uuid uuid PRIMARY KEY, name varchar NOT NULL UNIQUE, cmetadata json);
    INSERT INTO langchain_pg_collection
    VALUES ('00000000-0000-0000-0000-000000000001', 'faq', NULL), ('00000000-0000-0000-0000-000000000002', 'wiki', NULL)
"""
LANGCHAIN = """
    CREATE TABLE langchain_pg_embedding (
        id varchar PRIMARY KEY, collection_id uuid REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE,
        embedding vector, document varchar, cmetadata jsonb);
    INSERT INTO langchain_pg_embedding
    SELECT 'doc-' || i, ('00000000-0000-0000-0000-00000000000' || 1 + i % 2)::uuid,
           ARRAY[i, 1, 2]::vector, 'text ' || i, jsonb_build_object('i', i)
    FROM generate_series(1, 20) AS i
"""
OLD_LANGCHAIN = """
    CREATE TABLE langchain_pg_embedding (
        collection_id uuid REFERENCES langchain_pg_collection (uuid) ON DELETE CASCADE,
        embedding vector, document varchar, cmetadata json, custom_id varchar, uuid uuid PRIMARY KEY);
    INSERT INTO langchain_pg_embedding
    SELECT ('00000000-0000-0000-0000-00000000000' || 1 + i % 2)::uuid,
           ARRAY[i, 1, 2]::vector, 'text ' || i, json_build_object('i', i), NULL, md5(i::text)::uuid
    FROM generate_series(1, 20) AS i
"""
LLAMAINDEX = """
    CREATE EXTENSION vector;
    CREATE TABLE data_handbook (
        id bigserial PRIMARY KEY, text varchar NOT NULL, metadata_ json, node_id varchar, embedding vector(3));
    INSERT INTO data_handbook (text, metadata_, node_id, embedding)
    SELECT 'text ' || i, json_build_object('doc_id', 'd'), 'node-' || i, ARRAY[i, 1, 2]::vector
    FROM generate_series(1, 20) AS i
"""
LITELLM_PGVECTOR = """
    CREATE EXTENSION vector;
    CREATE TABLE vector_stores (
        id text PRIMARY KEY, name text NOT NULL, file_counts jsonb, status text NOT NULL DEFAULT 'completed',
        usage_bytes integer DEFAULT 0, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, expires_after jsonb,
        expires_at timestamp(3), last_active_at timestamp(3), metadata jsonb);
    CREATE TABLE embeddings (
        id text PRIMARY KEY, vector_store_id text NOT NULL REFERENCES vector_stores (id), content text NOT NULL,
        embedding vector(3) NOT NULL, metadata jsonb, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
    INSERT INTO vector_stores (id, name, metadata, expires_after) VALUES
        ('vs-a', 'Handbook', '{"team": "x"}', '{"anchor": "last_active_at", "days": 7}'), ('vs-b', 'Empty', NULL, NULL);
    INSERT INTO embeddings (id, vector_store_id, content, embedding, metadata, created_at)
    SELECT 'chunk-' || i, 'vs-a', 'text ' || i, ARRAY[i, 1, 2]::vector, '{"a": 1}', '2025-01-02 03:04:05'
    FROM generate_series(1, 20) AS i
"""


@pytest.mark.parametrize("layout", [LANGCHAIN, OLD_LANGCHAIN], ids=["langchain-postgres", "langchain-community"])
async def test_langchains_collections_become_stores(
    layout: str, empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, COLLECTIONS)
    await query(empty_database, layout)

    assert await migrate(settings, empty_database)

    found = await query(database, "SELECT name, file_counts ->> 'completed' AS rows FROM vector_stores ORDER BY name")
    assert found == [{"name": "faq", "rows": "10"}, {"name": "wiki", "rows": "10"}]
    assert all(row["content"] == f"text {row['metadata']['i']}" for row in await chunks(database))


async def test_one_collection_can_be_chosen(empty_database: str, settings: dict[str, Any], database: str) -> None:
    await query(empty_database, COLLECTIONS)
    await query(empty_database, LANGCHAIN)

    assert await migrate(settings, empty_database, collection="wiki")

    assert {row["id"] for row in await chunks(database)} == {f"doc-{i}" for i in range(1, 21, 2)}
    with pytest.raises(ConfigurationError, match="no collection 'wikki', but 'faq', 'wiki'"):
        await migrate(settings, empty_database, collection="wikki")


async def test_llamaindexs_tables_become_stores(empty_database: str, settings: dict[str, Any], database: str) -> None:
    await query(empty_database, LLAMAINDEX)

    assert await migrate(settings, empty_database)

    rows = await chunks(database)
    assert {row["id"] for row in rows} == {f"node-{i}" for i in range(1, 21)}
    assert rows[0]["metadata"] == {"doc_id": "d"}
    assert [store["name"] for store in await query(database, "SELECT name FROM vector_stores")] == ["handbook"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "No table of that database has pgvector's vectors"),
        ({"kind": "langchain"}, "no tables of LangChain's: langchain_pg_embedding is not there"),
        ({"kind": "llamaindex"}, "That database has no table of LlamaIndex's"),
        ({"kind": "litellm-pgvector"}, "not litellm-pgvector's: it has no table 'vector_stores'"),
    ],
)
async def test_what_is_not_there_is_one_sentence(
    options: dict[str, Any], message: str, empty_database: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await migrate(settings, empty_database, **options)


async def test_litellm_pgvectors_stores_keep_their_ids(
    empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, LITELLM_PGVECTOR)

    assert await migrate(settings, empty_database, kind="litellm-pgvector")

    stores = await query(database, "SELECT id, name, metadata, expires_after FROM vector_stores ORDER BY id")
    assert [store["id"] for store in stores] == ["vs-a", "vs-b"]
    assert (stores[0]["name"], stores[0]["metadata"]) == ("Handbook", {"team": "x"})
    assert stores[0]["expires_after"] == {"anchor": "last_active_at", "days": 7}
    rows = await chunks(database)
    assert len(rows) == 20
    assert rows[0]["created_at"].isoformat().startswith("2025-01-02T")


async def test_an_id_that_another_store_has_is_refused_where_one_key_is_for_all(
    empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, LITELLM_PGVECTOR)
    await query(database, "ALTER TABLE embeddings DROP CONSTRAINT embeddings_pkey, ADD PRIMARY KEY (id)")
    await query(database, "CREATE UNIQUE INDEX ON embeddings (vector_store_id, id)")
    await query(
        database, "INSERT INTO embeddings (vector_store_id, id, content, embedding) VALUES ('x', 'chunk-3', '', '[1]')"
    )

    await migrate(settings, empty_database, kind="litellm-pgvector", collection="vs-a", verifies=False)

    assert [(row["id"], row["reason"]) for row in rejects(settings)] == [
        ("chunk-3", "a chunk of another store has this id")
    ]
    assert len(await chunks(database)) == 20
