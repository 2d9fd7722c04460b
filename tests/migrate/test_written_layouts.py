"""Tables that the real LangChain and the real LlamaIndex wrote."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import packages
from tests.migrate.running import chunks, migrate, query

# They themselves, and what they import beyond our own packages.
PACKAGES = """
    langchain-postgres==0.0.19 llama-index-vector-stores-postgres==0.9.0
    asyncpg==0.32.0 banks==2.5.1 colorama==0.4.6 dataclasses-json==0.6.7 deprecated==1.3.1 filetype==1.2.0
    greenlet==3.5.6 griffecli==2.4.1 griffelib==2.4.1 jsonpatch==1.47 jsonpointer==3.12 langchain-core==1.7.2
    langsmith==0.15.0 llama-index-core==0.14.25 llama-index-instrumentation==0.6.0 llama-index-workflows==2.26.1
    marshmallow==3.26.2 mypy-extensions==1.2.0 psycopg2-binary==2.9.13 requests-toolbelt==1.0.0 sqlalchemy==2.0.58
    tinytag==2.3.2 typing-inspect==0.9.0 uuid-utils==0.19.0 wrapt==2.5.2 xxhash==4.1.0 zstandard==0.25.0
"""

LANGCHAIN = """
import sys
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGVector

class Numbers(Embeddings):
    def embed_documents(self, texts):
        return [[float(text.split()[-1]), 1.0, 2.0] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]

host, database = sys.argv[1:]
for name in ("faq", "wiki"):
    address = f"postgresql+psycopg://postgres@/{database}?host={host}"
    collection = PGVector(embeddings=Numbers(), collection_name=name, connection=address)
    for i in range(10):
        collection.add_texts([f"{name} {i}"], [{"i": i}], ids=[f"{name}-{i}"])
"""

LLAMAINDEX = """
import sys
from llama_index.core.schema import TextNode
from llama_index.vector_stores.postgres import PGVectorStore

host, database = sys.argv[1:]
for name, is_hybrid in (("handbook", False), ("both", True)):
    index = PGVectorStore.from_params(
        connection_string=f"postgresql+psycopg2://postgres@/{database}?host={host}",
        async_connection_string=f"postgresql+asyncpg://postgres@/{database}?host={host}",
        table_name=name, embed_dim=3, hybrid_search=is_hybrid, text_search_config="english")
    index.add([TextNode(id_=f"{name}-{i}", text=f"text {i}", embedding=[float(i), 1.0, 2.0], metadata={"i": i})
               for i in range(10)])
"""


@pytest.fixture(scope="session")
def libraries() -> Path:
    return packages.installed("langchain-llamaindex", PACKAGES)


def write(libraries: Path, program: str, url: str, home: Path) -> None:
    address = urlsplit(url)
    packages.run(libraries, program, parse_qs(address.query)["host"][0], address.path[1:], home=home)


async def test_what_langchain_wrote_is_migrated(
    libraries: Path, empty_database: str, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    await query(empty_database, "CREATE EXTENSION vector")
    write(libraries, LANGCHAIN, empty_database, tmp_path)

    assert await migrate(settings, empty_database)

    stores = await query(database, "SELECT name, file_counts ->> 'completed' AS rows FROM vector_stores ORDER BY name")
    assert stores == [{"name": "faq", "rows": "10"}, {"name": "wiki", "rows": "10"}]
    rows = {row["id"]: row for row in await chunks(database)}
    assert (rows["wiki-7"]["content"], rows["wiki-7"]["metadata"]) == ("wiki 7", {"i": 7})
    assert rows["wiki-7"]["numbers"] == pytest.approx([7 / 54**0.5, 1 / 54**0.5, 2 / 54**0.5], abs=1e-3)


async def test_what_llamaindex_wrote_is_migrated(
    libraries: Path, empty_database: str, settings: dict[str, Any], database: str, tmp_path: Path
) -> None:
    await query(empty_database, "CREATE EXTENSION vector")
    write(libraries, LLAMAINDEX, empty_database, tmp_path)

    assert await migrate(settings, empty_database)

    stores = await query(database, "SELECT name, file_counts ->> 'completed' AS rows FROM vector_stores ORDER BY name")
    assert stores == [{"name": "both", "rows": "10"}, {"name": "handbook", "rows": "10"}]
    rows = {row["id"]: row for row in await chunks(database)}
    assert (rows["both-7"]["content"], rows["both-7"]["metadata"]["i"]) == ("text 7", 7)
    assert not [name for name in rows["both-7"]["metadata"] if name.startswith("_node")]
