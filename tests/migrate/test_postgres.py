"""Tables and queries of PostgreSQL, of whatever types, into stores."""

import re
from typing import Any

import httpx
import numpy as np
import pytest

from api.errors import ConfigurationError, DatabaseUnavailable
from api.migrate.sources.postgres import SourceUnavailable
from tests.migrate.running import DIMENSION, chunks, migrate, query, rejects

ROWS = 250

SOURCE = f"""
    CREATE EXTENSION vector;
    CREATE TABLE documents (id bigint PRIMARY KEY, body text, vec {{type}}, info jsonb, lang text);
    INSERT INTO documents
    SELECT i, 'text of ' || i, {{cast}}, jsonb_build_object('n', i), 'en'
    FROM generate_series(1, {ROWS}) AS i,
         LATERAL (SELECT array_agg(sin(i * 31.7 + k)::real ORDER BY k) AS numbers
                  FROM generate_series(1, {DIMENSION}) AS k) AS made
"""  # noqa: S608  # of this file alone
CASTS = {
    "vector": "numbers::vector",
    f"vector({DIMENSION})": "numbers::vector",
    f"halfvec({DIMENSION})": "numbers::vector::halfvec",
    f"sparsevec({DIMENSION})": "numbers::vector::sparsevec",
    "real[]": "numbers",
    "double precision[]": "numbers::double precision[]",
    "numeric[]": "numbers::numeric[]",
    "jsonb": "to_jsonb(numbers)",
    "json": "to_json(numbers)",
    "text": "numbers::vector::text",
}


@pytest.fixture
async def source(empty_database: str) -> str:
    await query(empty_database, SOURCE.format(type=f"vector({DIMENSION})", cast="numbers::vector"))
    return empty_database


def unit(number: int) -> np.ndarray[Any, Any]:
    numbers = np.sin(number * 31.7 + np.arange(1, DIMENSION + 1))
    return numbers / np.linalg.norm(numbers)


@pytest.mark.parametrize("vector_type", CASTS)
async def test_a_table_is_migrated_whatever_type_its_vectors_have(
    vector_type: str, empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, SOURCE.format(type=vector_type, cast=CASTS[vector_type]))

    assert await migrate(settings, empty_database, table="documents", content="body", vector="vec")

    rows = {row["id"]: row for row in await chunks(database)}
    assert len(rows) == ROWS
    assert rows["7"]["content"] == "text of 7"
    assert rows["7"]["metadata"] == {"n": 7}
    assert np.allclose(rows["7"]["numbers"], unit(7), atol=1e-3)


async def test_the_fields_are_guessed(source: str, settings: dict[str, Any], database: str) -> None:
    assert await migrate(settings, source)

    row = (await chunks(database))[0]
    assert (row["id"], row["content"], row["metadata"]) == ("1", "text of 1", {"n": 1})


async def test_what_is_migrated_is_found_by_a_search(
    source: str, settings: dict[str, Any], http: httpx.AsyncClient
) -> None:
    await migrate(settings, source, name="documents", attributes=("lang",))

    (store,) = (await http.get("/v1/vector_stores")).json()["data"]
    found = await http.post(f"/v1/vector_stores/{store['id']}/search", json={"query_embedding": unit(9).tolist()})
    assert (store["name"], store["file_counts"]["completed"]) == ("documents", ROWS)
    assert found.json()["data"][0]["content"][0]["text"] == "text of 9"
    assert found.json()["data"][0]["attributes"] == {"n": 9, "lang": "en"}


async def test_a_query_is_as_good_as_a_table(source: str, settings: dict[str, Any], database: str) -> None:
    statement = "SELECT 'row-' || id AS id, body, vec FROM documents WHERE id % 10 = 0;"

    assert await migrate(settings, source, query=statement)

    assert len(await chunks(database)) == ROWS // 10
    assert (await chunks(database))[0]["id"] == "row-10"


async def test_names_that_need_quotes_are_taken_as_they_are_written(
    source: str, settings: dict[str, Any], database: str
) -> None:
    await query(source, 'CREATE SCHEMA "My Schema"')
    await query(
        source,
        'CREATE TABLE "My Schema"."Odd ""Ta.b%l" AS '
        'SELECT id AS "The %Id", body AS "Te.xt", vec::real[] AS "Ve""c", \'x\' AS chunk_index FROM documents',
    )

    table = '"My Schema"."Odd ""Ta.b%l"'
    assert await migrate(settings, source, table=table, id="The %Id", content="Te.xt", attributes=("chunk_index",))

    rows = await chunks(database)
    assert (len(rows), rows[0]["content"], rows[0]["metadata"]) == (ROWS, "text of 1", {"chunk_index": "x"})
    assert (await query(database, "SELECT name FROM vector_stores"))[0]["name"] == 'Odd "Ta.b%l'


async def test_what_has_the_names_of_exported_columns_is_checked(
    source: str, settings: dict[str, Any], database: str
) -> None:
    await query(source, "ALTER TABLE documents ADD chunk_index numeric, ADD chunking_strategy text, ADD file_id text")
    await query(source, "UPDATE documents SET chunk_index = 1.5 WHERE id = 1")
    await query(source, "UPDATE documents SET chunking_strategy = 'recursive' WHERE id = 2")
    await query(source, "UPDATE documents SET chunk_index = 4, file_id = 'file' WHERE id = 3")

    assert await migrate(settings, source, table="documents")

    assert {row["id"]: row["reason"] for row in rejects(settings)} == {
        "1": "the chunk index is no whole number",
        "2": "the chunking strategy is no JSON object",
    }
    assert [row["chunk_index"] for row in await chunks(database) if row["file_id"] == "file"] == [4]


async def test_rows_that_cannot_go_are_written_down_with_the_reason(
    source: str, settings: dict[str, Any], database: str
) -> None:
    await query(source, "ALTER TABLE documents ALTER vec TYPE vector")
    await query(source, "UPDATE documents SET vec = '[1,2]' WHERE id = 3")
    await query(source, "UPDATE documents SET vec = NULL WHERE id = 4")
    await query(source, "UPDATE documents SET vec = '[0,0,0,0,0,0,0,0]' WHERE id = 5")
    await query(source, "UPDATE documents SET body = '  ' WHERE id = 6")
    await query(source, "UPDATE documents SET body = repeat('x', 5000) WHERE id = 7")

    assert await migrate(settings, source, table="documents", max_text_bytes=1000)

    assert {row["id"]: row["reason"] for row in rejects(settings)} == {
        "3": "the vector has 2 dimensions, not 8",
        "4": "it has no vector",
        "5": "the vector is zero, which has no direction to compare",
        "6": "it has no text",
        "7": "the text is longer than 1000 bytes",
    }
    assert len(await chunks(database)) == ROWS - 5


async def test_a_second_run_brings_what_came_after_the_first(
    source: str, settings: dict[str, Any], database: str
) -> None:
    await migrate(settings, source, table="documents")
    await query(source, "INSERT INTO documents SELECT max(id) + 1, 'new', avg(vec) FROM documents")

    assert await migrate(settings, source, table="documents")

    assert len(await chunks(database)) == ROWS + 1
    assert len(await query(database, "SELECT id FROM vector_stores")) == 1


async def test_a_dry_run_writes_nothing(
    source: str, settings: dict[str, Any], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await query(source, "ALTER TABLE documents ALTER vec TYPE vector")
    await query(source, "UPDATE documents SET vec = '[1,2]' WHERE id > 240")

    assert await migrate(settings, source, dry_run=True)

    said = capsys.readouterr().err
    assert f"{ROWS} rows, of which {ROWS - 10} can go and 10 cannot" in said
    assert f"10 rows: the vector has 2 dimensions, not {DIMENSION}" in said
    assert f"Dimensions: 2 (10 rows), {DIMENSION} ({ROWS - 10} rows)" in said
    assert re.search(r"It would take about \d+ s and [\d.]+ [kM]B of the database", said), said
    assert await query(database, "SELECT id FROM vector_stores UNION ALL SELECT id FROM migration_checkpoints") == []


async def test_it_is_shown_first_what_is_taken_for_what(
    source: str, settings: dict[str, Any], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match="say --yes"):
        await migrate(settings, source, yes=False, name="shop")

    said = capsys.readouterr().err
    for role, name in {"id": "id", "text": "body", "vector": "vec", "metadata": "info"}.items():
        assert re.search(rf"^ +{role} +{name}$", said, re.MULTILINE), said
    assert f"{ROWS} rows" in said
    assert "a new store 'shop'" in said
    assert [line for line in said.splitlines() if "text of" in line] == [
        f"  {number}: 'text of {number}', 8 numbers, {{'n': {number}}}" for number in (1, 2, 3)
    ]
    assert await query(database, "SELECT id FROM vector_stores") == []


async def test_float32_as_bytes_the_time_and_the_dimension_can_be_named(
    empty_database: str, settings: dict[str, Any], database: str
) -> None:
    await query(empty_database, "CREATE TABLE documents (id int, body text, raw bytea, written timestamptz)")
    for number, numbers in enumerate([unit(1), unit(2)[:4], unit(3)[:4]]):
        raw = numbers.astype("<f4").tobytes()
        await query(empty_database, "INSERT INTO documents VALUES (%s, 'text', %s, '2025-01-02Z')", number, raw)

    assert await migrate(
        settings, empty_database, table="documents", vector="raw", created_at="written", dimension=DIMENSION
    )

    (row,) = await chunks(database)
    assert (row["id"], row["created_at"].date().isoformat()) == ("0", "2025-01-02")
    assert np.allclose(row["numbers"], unit(1), atol=1e-3)
    assert {row["reason"] for row in rejects(settings)} == {"the vector has 4 dimensions, not 8"}


async def test_a_spoilt_store_does_not_pass_the_verification(
    source: str, settings: dict[str, Any], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate(settings, source)
    await query(database, "DELETE FROM embeddings WHERE id = '100'")
    await query(database, "UPDATE embeddings SET content = 'other' WHERE id <> '1'")

    assert not await migrate(settings, source, verify_only=True)

    said = capsys.readouterr().err
    assert "1 rows are not in the store, such as '100'" in said
    assert "rows have another text" in said


async def test_vectors_that_were_changed_do_not_pass_the_verification(
    source: str, settings: dict[str, Any], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate(settings, source)
    await query(database, "UPDATE embeddings SET embedding = (SELECT embedding FROM embeddings WHERE id = '1')")

    assert not await migrate(settings, source, verify_only=True)

    said = capsys.readouterr().err
    assert "rows have another vector" in said
    assert "are found nearer than they are in the source" in said


async def test_a_database_that_lets_nobody_in_is_one_sentence(source: str, settings: dict[str, Any]) -> None:
    with pytest.raises(SourceUnavailable, match=r'source database: role "nobody" does not exist\. Put that right'):
        await migrate(settings, source.replace("postgres@", "nobody@"), table="documents")
    with pytest.raises(SourceUnavailable, match=r"no connection to the source database: .*refused"):
        await migrate(settings, "postgresql://me@127.0.0.1:1/shop", table="documents")
    with pytest.raises(DatabaseUnavailable, match="check DATABASE_URL"):
        await migrate({**settings, "database_url": "postgresql://me@127.0.0.1:1/q"}, source, table="documents")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "documents", "content": "boddy"}, "no field 'boddy'; it has 'id', 'body', 'vec', 'info', 'lang'"),
        ({"table": "nothing"}, 'relation "nothing" does not exist'),
        ({"table": "documents", "query": "SELECT 1"}, "two ways to say the same"),
        ({"query": "SELECT body, vec FROM documents"}, "name one with --id"),
        ({"query": "SELECT id, vec FROM documents"}, "looks like a text; name it with --text"),
        ({"kind": "oracle"}, "no kind of source called 'oracle'"),
        ({"yes": False}, "say --yes, or --dry-run"),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(
    options: dict[str, Any], message: str, source: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await migrate(settings, source, **options)
