"""Search from SQL: quiver_semantic_search finds what the API finds."""

from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from openai import AsyncOpenAI

from api.services import adoption
from api.tables import migrations
from tests.api.synced_tables import execute, fetch
from tests.conftest import Serve, make_settings, raw
from tests.fake_embedder import embed
from tests.postgres_tools import run_script

TEXT = Path(__file__).parents[2] / "infra" / "pgai" / "semantic_search.sql"

FIND = "SELECT id, score, attributes, content FROM quiver_semantic_search(%s, %s::vector, 2)"
CHUNKS = [
    {"id": "returns", "content": "items may be returned", "metadata": {"lang": "en"}},
    {"id": "bread", "content": "bread is baked", "metadata": {"lang": "en"}},
    {"id": "brot", "content": "das brot ist warm", "metadata": {"lang": "de"}},
]


def vector(text: str) -> str:
    return str(embed(text).tolist())


async def filled(openai: AsyncOpenAI, http: httpx.AsyncClient) -> str:
    store = (await openai.vector_stores.create()).id
    answer = await http.post(f"/v1/vector_stores/{store}/embeddings/batch", json={"embeddings": CHUNKS})
    assert answer.status_code == 200, answer.text
    return store


async def test_it_finds_what_the_api_finds(openai: AsyncOpenAI, http: httpx.AsyncClient, database: str) -> None:
    store = await filled(openai, http)
    body = {"query": "bread", "max_num_results": 2, "ranking_options": {"search_mode": "vector"}}
    found = (await http.post(f"/v1/vector_stores/{store}/search", json=body)).json()["data"]
    rows = await fetch(database, FIND, store, vector("bread"))

    assert [(row[0], row[2], row[3]) for row in rows] == [
        (result["file_id"], result["attributes"], result["content"][0]["text"]) for result in found
    ]
    assert [row[1] for row in rows] == pytest.approx([result["score"] for result in found], abs=1e-3)


async def test_it_filters(openai: AsyncOpenAI, http: httpx.AsyncClient, database: str) -> None:
    store = await filled(openai, http)
    query = 'SELECT id FROM quiver_semantic_search(%s, %s::vector, filter => \'{"lang": "de"}\')'

    assert await fetch(database, query, store, vector("bread")) == [("brot",)]


async def test_it_searches_the_table_that_is_mapped(
    empty_database: str, serve: Serve, settings: dict[str, Any]
) -> None:
    await execute(
        empty_database,
        'CREATE SCHEMA pgvector; CREATE EXTENSION vector SCHEMA pgvector; CREATE SCHEMA "k b";'
        'CREATE TABLE "k b"."Do\'c $1" ("Id" uuid, tenant uuid, body varchar(100), vec pgvector.vector(384), '
        "meta json, created timestamp)",
    )
    fields = {
        "schema": "k b",
        "table": "Do'c $1",
        "id_field": "Id",
        "content_field": "body",
        "metadata_field": "meta",
        "embedding_field": "vec",
        "vector_store_id_field": "tenant",
        "created_at_field": "created",
    }
    mapped = settings | {"database_url": empty_database, "db_fields": fields}
    await migrations.apply(empty_database)
    await adoption.adopt(make_settings(**mapped))
    async with serve(**mapped) as openai:
        store = (await openai.vector_stores.create()).id
        body = {"embeddings": [{"content": "bread is baked", "metadata": {"lang": "en"}}]}
        await raw(openai).post(f"/v1/vector_stores/{store}/embeddings/batch", json=body)
    async with await psycopg.AsyncConnection.connect(empty_database) as connection:
        await connection.execute("SET search_path = nowhere")
        query = "SELECT content FROM public.quiver_semantic_search(%s, %s::pgvector.vector)"
        rows = await (await connection.execute(query, [store, vector("bread")])).fetchall()

    assert rows == [("bread is baked",)]


async def test_a_text_is_embedded_by_the_function_that_is_there(
    openai: AsyncOpenAI, http: httpx.AsyncClient, database: str
) -> None:
    # In place of the one in PL/Python, which the embedded server has not.
    store = await filled(openai, http)
    await execute(
        database,
        "CREATE SCHEMA ai; CREATE TABLE ai.known (url text, text text, vector vector);"
        "CREATE FUNCTION ai.fastapi_hf_embed(url text, input_text text, api_key text DEFAULT NULL, "
        "input_type text DEFAULT NULL, verbose boolean DEFAULT false) RETURNS vector LANGUAGE sql AS "
        "$$ SELECT vector FROM ai.known WHERE known.url = $1 AND text = $2 $$",
    )
    await execute(
        database, "INSERT INTO ai.known VALUES ('http://embedder/embed', 'bread', %s::vector)", vector("bread")
    )
    run_script(TEXT, database, embed_url="http://embedder/embed")
    rows = await fetch(database, "SELECT id FROM quiver_semantic_search_text(%s, 'bread', 1)", store)

    assert rows == [("bread",)]
