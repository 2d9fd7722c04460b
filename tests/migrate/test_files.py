"""JSON Lines, CSV, Parquet and NumPy: the same rows in, the same chunks out, and a position to go on from."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.errors import ConfigurationError
from api.migrate import opening
from api.migrate.options import SourceOptions
from api.migrate.sources.parquet import pyarrow
from tests.migrate.running import chunks, migrate, query, rejects, vector, write_lines

ROWS: list[dict[str, Any]] = [
    {"id": f"row-{i:05}", "text": f'text "{i}",\nover lines', "embedding": vector(i), "metadata": {"n": i}}
    for i in range(10_500)
]


def write_csv(directory: Path) -> Path:
    path = directory / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(ROWS[0])
        for row in ROWS:
            writer.writerow([row["id"], row["text"], json.dumps(row["embedding"]), json.dumps(row["metadata"])])
    return path


def write_parquet(directory: Path) -> Path:
    path = directory / "rows.parquet"
    arrow = pyarrow("pyarrow")
    table = arrow.table(
        {
            "id": [row["id"] for row in ROWS],
            "text": [row["text"] for row in ROWS],
            "embedding": arrow.array([row["embedding"] for row in ROWS], arrow.list_(arrow.float32())),
            "metadata": [row["metadata"] for row in ROWS],
        }
    )
    pyarrow("pyarrow.parquet").write_table(table, path, row_group_size=3500)
    return path


def write_npz(directory: Path) -> Path:
    path = directory / "rows.npz"
    np.savez(
        path,
        id=np.array([row["id"] for row in ROWS]),
        text=np.array([row["text"] for row in ROWS]),
        embedding=np.array([row["embedding"] for row in ROWS], dtype=np.float32),
        metadata=np.array([json.dumps(row["metadata"]) for row in ROWS]),
    )
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "jsonl": lambda directory: write_lines(directory / "rows.jsonl", *ROWS),
    "csv": write_csv,
    "parquet": write_parquet,
    "npz": write_npz,
}


@pytest.mark.parametrize("kind", WRITERS)
async def test_a_file_is_migrated(kind: str, settings: dict[str, Any], database: str, tmp_path: Path) -> None:
    assert await migrate(settings, WRITERS[kind](tmp_path))

    rows = await chunks(database)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert [(row["content"], row["metadata"]) for row in rows] == [(row["text"], row["metadata"]) for row in ROWS]
    assert (await query(database, "SELECT name FROM vector_stores"))[0]["name"] == "rows"


@pytest.mark.parametrize("kind", WRITERS)
async def test_reading_goes_on_behind_every_position(kind: str, tmp_path: Path) -> None:
    async with opening.open_sources(SourceOptions(str(WRITERS[kind](tmp_path)))) as (source,):
        batches = [batch async for batch in source.read()]
        second = [batch async for batch in source.read(batches[0].position)]

    assert len(batches) > 2
    assert [record.id for batch in second for record in batch.records] == [
        record.id for batch in batches[1:] for record in batch.records
    ]


async def test_vectors_of_numpy_find_their_texts_in_another_file(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "vectors.npy", np.array([vector(i) for i in range(3)]))
    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")

    assert await migrate(settings, tmp_path / "vectors.npy", texts=tmp_path / "texts.txt")

    rows = await chunks(database)
    assert [(row["id"], row["content"]) for row in rows] == [
        ("vectors_000000001", "one"),
        ("vectors_000000002", "two"),
        ("vectors_000000003", "three"),
    ]


async def test_arrays_that_do_not_fit_are_said_so(settings: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([vector(i) for i in range(3)]))
    np.save(tmp_path / "flat.npy", np.array(vector(1)))
    (tmp_path / "texts.txt").write_text("one\ntwo\n")

    with pytest.raises(ConfigurationError, match=r"texts.txt has 2 lines, and .*vectors.npy has 3 rows"):
        await migrate(settings, tmp_path / "vectors.npy", texts=tmp_path / "texts.txt")
    with pytest.raises(ConfigurationError, match=r"flat.npy has 1 dimensions; vectors have two"):
        await migrate(settings, tmp_path / "flat.npy", texts=tmp_path / "texts.txt")


async def test_a_number_beside_the_arrays_of_an_npz_is_of_no_row(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    vectors = np.array([vector(i) for i in range(2)])
    np.savez(tmp_path / "rows.npz", version=np.array(3), text=np.array(["one", "two"]), embedding=vectors)

    assert await migrate(settings, tmp_path / "rows.npz")

    assert [(row["content"], row["metadata"]) for row in await chunks(database)] == [("one", None), ("two", None)]


async def test_text_that_is_not_in_utf_8_is_told_and_not_changed(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    ids = {"one": ("caf\xe9", "fr"), "two": ("tea", "fran\xe7ais"), "three": ("tea", "en")}
    lines = [f"{id};{text};{vector(1)};{lang}\n" for id, (text, lang) in ids.items()]
    rows = "".join(["id;text;embedding;lang\n", *lines])
    (tmp_path / "latin.csv").write_bytes(rows.encode("latin-1"))

    assert await migrate(settings, tmp_path / "latin.csv")

    assert {row["id"]: row["reason"] for row in rejects(settings)} == {
        "one": "the text or the id is not in UTF-8",
        "two": "the metadata is no JSON, or not in UTF-8",
    }
    assert [row["id"] for row in await chunks(database)] == ["three"]


async def test_columns_that_go_nowhere_are_named(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row: dict[str, Any] = {"id": "a", "text": "b", "embedding": vector(1), "metadata": {}, "title": "t", "lang": "en"}

    await migrate(settings, write_lines(tmp_path / "rows.jsonl", row), attributes=("lang",), dry_run=True)

    assert re.search(r"^  left out +title$", capsys.readouterr().err, re.MULTILINE)


async def test_categories_and_decimals_of_parquet_become_attributes(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    arrow = pyarrow("pyarrow")
    columns = {
        "text": ["one"],
        "numbers": arrow.array([vector(1)], arrow.list_(arrow.float64(), 8)),
        "lang": arrow.array(["en"]).dictionary_encode(),
        "price": arrow.array([2], arrow.decimal128(5, 2)),
    }
    pyarrow("pyarrow.parquet").write_table(arrow.table(columns), tmp_path / "rows.parquet")

    assert await migrate(settings, tmp_path / "rows.parquet", content="text")

    assert [row["metadata"] for row in await chunks(database)] == [{"lang": "en", "price": 2}]


async def test_fields_in_objects_are_reached_by_dots(settings: dict[str, Any], database: str, tmp_path: Path) -> None:
    row = {"key": 7, "doc": {"body": "deep", "lang": "en"}, "vectors": {"small": vector(1)}}

    assert await migrate(
        settings, write_lines(tmp_path / "deep.jsonl", row), content="doc.body", vector="vectors.small", metadata="doc"
    )

    (chunk,) = await chunks(database)
    assert (chunk["id"], chunk["content"], chunk["metadata"]) == ("7", "deep", row["doc"])


async def test_lines_that_cannot_go_are_written_down_with_the_reason(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    good = {"id": "good", "text": "text", "embedding": vector(1), "metadata": {"a": 1}}
    path = write_lines(
        tmp_path / "rows.jsonl",
        good,
        {**good, "id": "numbers", "embedding": [1, 2]},
        {**good, "id": "words", "embedding": "none of your business"},
        {**good, "id": "infinite", "embedding": [1e39, *vector(1)[1:]]},
        {**good, "id": "x" * 257},
        {**good, "id": "list", "metadata": [1]},
        {**good, "id": "nul", "text": "a\x00b"},
        {**good, "id": "place", "chunk_index": "seven"},
        {**good, "id": "manner", "chunking_strategy": "recursive"},
        {**good, "id": "parts", "text": ["a", "b"]},
        good,
    )
    path.write_bytes(
        path.read_bytes() + b'{"id": \n[1]\n' + b'{"id": "nan", "text": "t", "embedding": "[NaN,1,1,1,1,1,1,1]"}'
    )

    assert await migrate(settings, path)

    assert {row["id"][:8]: row["reason"].partition(":")[0] for row in rejects(settings)} == {
        "numbers": "the vector has 2 dimensions, not 8",
        "words": "the vector is neither a list of numbers nor base64 of float32",
        "infinite": "the vector has a number that is not finite",
        "xxxxxxxx": "the id is longer than 256 characters",
        "list": "the metadata is no JSON object",
        "nul": "the text or the id has the character U+0000, which PostgreSQL cannot store",
        "place": "the chunk index is no whole number",
        "manner": "the chunking strategy is no JSON object",
        "parts": "the id or the text is a list or an object",
        "good": "the id stands twice",
        "rows_000": "line 13 is no JSON object",
        "nan": "the vector has a number that is not finite",
    }
    assert [row["id"] for row in await chunks(database)] == ["good"]


async def test_rejected_rows_that_are_put_right_go_where_the_others_are(
    settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    row = {"id": "row", "text": "text", "embedding": vector(1), "metadata": {"a": 1}}
    await migrate(settings, write_lines(tmp_path / "rows.jsonl", row, {**row, "id": "late", "embedding": None}))
    (late,) = rejects(settings)
    (store,) = await query(database, "SELECT id FROM vector_stores")

    right = write_lines(tmp_path / "right.jsonl", {**late, "embedding": vector(2)})
    assert await migrate(settings, right, store=store["id"], rejects=tmp_path / "none.jsonl")

    assert [chunk["id"] for chunk in await chunks(database)] == ["late", "row"]


async def test_texts_without_vectors_are_embedded(
    settings: dict[str, Any], database: str, tmp_path: Path, openai: Any
) -> None:
    rows = [{"id": f"row-{i}", "text": f"word{i}"} for i in range(20)]

    assert await migrate(settings, write_lines(tmp_path / "texts.jsonl", *rows))

    (store,) = (await openai.vector_stores.list()).data
    found = await openai.vector_stores.search(store.id, query="word7")
    assert found.data[0].content[0].text == "word7"


async def test_vectors_can_be_made_anew_by_another_model(
    settings: dict[str, Any], database: str, tmp_path: Path, embedder: Any
) -> None:
    rows = [{"id": f"row-{i}", "text": f"word{i}", "embedding": vector(i)} for i in range(20)]

    assert await migrate(
        settings, write_lines(tmp_path / "texts.jsonl", *rows), re_embed=True, embedding_model="other-model"
    )

    assert {call["model"] for call in embedder.calls} == {"other-model"}
    (store,) = await query(database, "SELECT embedding_model, embedding_dimension FROM vector_stores")
    assert store == {"embedding_model": "other-model", "embedding_dimension": embedder.dimension}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "no JSON objects"),
        ("empty.csv", b"", "no line of names"),
        ("no.parquet", b"PAR1", "no Parquet file"),
        ("no.npy", b"NUMPY", "cannot be read as a NumPy file"),
        ("no.npz", b"PK\x03\x04", "cannot be read as a NumPy file"),
        ("none.npz", b"PK\x05\x06" + bytes(18), "no arrays with rows"),
        ("store.snapshot", b"", "no snapshot of Qdrant's"),
        ("letter.docx", b"", "say it with --from"),
    ],
)
async def test_a_file_that_is_none_is_said_so(
    name: str, content: bytes, message: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigurationError, match=message):
        await migrate(settings, tmp_path / name)
