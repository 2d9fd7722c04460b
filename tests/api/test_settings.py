"""Settings under litellm-pgvector's names, from the environment and a `.env` that others share."""

from pathlib import Path

import pytest

from api.embeddings import Embeddings
from api.errors import ConfigurationError
from api.settings import EmbeddingSettings, Settings
from api.tables.database_url import parse_url

LITELLM_PGVECTOR_ENV = """
DATABASE_URL="postgresql://user:pass@db:5432/vectordb?schema=public"
OPENAI_API_KEY="sk-a-real-key-of-the-server"
HOST="0.0.0.0"
PORT=8123
EMBEDDING__MODEL="text-embedding-ada-002"
EMBEDDING__BASE_URL="http://localhost:4000"
EMBEDDING__API_KEY="sk-1234"
EMBEDDING__DIMENSIONS=1536
DB_FIELDS__ID_FIELD="uid"
DB_FIELDS__CONTENT_FIELD="body"
DB_FIELDS__METADATA_FIELD="meta"
DB_FIELDS__EMBEDDING_FIELD="vec"
DB_FIELDS__VECTOR_STORE_ID_FIELD="store"
DB_FIELDS__CREATED_AT_FIELD="at"
SOMETHING__ELSE=1
NEXT_PUBLIC_URL=https://example.com
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of ours set, in a directory without a `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "SERVER_API_KEY", "OPENAI_API_KEY", "HOST", "PORT", "EMBEDDING__MODEL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_dotenv_of_litellm_pgvector_works_unchanged(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(LITELLM_PGVECTOR_ENV)

    settings = Settings()

    assert settings.database_url is not None and settings.server_api_key is not None
    assert settings.database_url.get_secret_value().endswith("?schema=public")
    assert settings.server_api_key.get_secret_value() == "sk-a-real-key-of-the-server"
    assert (settings.host, settings.port) == ("0.0.0.0", 8123)  # noqa: S104  # what the file says
    assert (settings.embedding.model, settings.embedding.dimensions) == ("text-embedding-ada-002", 1536)
    assert (settings.db_fields.id_field, settings.db_fields.content_field) == ("uid", "body")
    assert (settings.db_fields.metadata_field, settings.db_fields.embedding_field) == ("meta", "vec")
    assert (settings.db_fields.vector_store_id_field, settings.db_fields.created_at_field) == ("store", "at")


def test_server_api_key_wins_over_its_second_name(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OPENAI_API_KEY", "for-openai")
    environment.setenv("SERVER_API_KEY", "for-quiver")

    key = Settings().server_api_key

    assert key is not None and key.get_secret_value() == "for-quiver"


def test_server_api_key_wins_wherever_it_stands(environment: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("SERVER_API_KEY=for-quiver")
    environment.setenv("OPENAI_API_KEY", "for-openai")

    key = Settings().server_api_key

    assert key is not None
    assert key.get_secret_value() == "for-quiver"


@pytest.mark.parametrize("url", ["http://proxy:port", "http://[::1", "proxy:4000", "ftp://proxy"])
def test_an_embedding_service_without_an_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EMBEDDING__BASE_URL"):
        Embeddings(EmbeddingSettings(base_url=url))


def test_the_table_and_its_schema_can_be_named(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DB_FIELDS__TABLE", "Docs")
    environment.setenv("DB_FIELDS__SCHEMA", "kb")

    fields = Settings().db_fields

    assert (fields.table, fields.schema_name) == ("Docs", "kb")


def test_secrets_do_not_show(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SERVER_API_KEY", "very-secret-key")
    environment.setenv("DATABASE_URL", "postgresql://user:very-secret-password@db/x")

    assert "very-secret" not in repr(Settings())


def test_prismas_parameters_are_taken_out_of_the_url() -> None:
    conninfo, schema = parse_url("postgresql://u:p%40ss@db:5433/x?schema=my%20kb&connection_limit=5&sslmode=require")

    assert schema == "my kb"
    assert "sslmode=require" in conninfo and "connection_limit" not in conninfo and "port=5433" in conninfo


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        parse_url("mysql://u@db/x")
