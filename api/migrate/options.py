"""What the command line said."""

from dataclasses import dataclass, field
from pathlib import Path

from api.migrate.checks import MAX_TEXT_BYTES
from api.migrate.fields import Fields


@dataclass(frozen=True)
class SourceOptions:
    """Where the rows are."""

    place: str  # a path or an address
    kind: str | None = None  # one of `opening.KINDS`; None: told from the place
    table: str | None = None
    query: str | None = None
    collection: str | None = None
    key: str | None = None
    source_key: str | None = None
    texts: Path | None = None  # of vectors in a NumPy file
    fields: Fields = field(default_factory=Fields)


@dataclass(frozen=True)
class Options:
    source: SourceOptions
    store: str | None = None
    name: str | None = None
    api_url: str | None = None
    api_key: str | None = None
    embedding_model: str | None = None
    re_embed: bool = False
    dimension: int | None = None
    max_text_bytes: int = MAX_TEXT_BYTES
    rejects: Path | None = None
    dry_run: bool = False
    verify_only: bool = False
    verifies: bool = True
    yes: bool = False
