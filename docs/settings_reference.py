"""Writes docs/settings.md from the settings classes: `make docs`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic_settings import BaseSettings

from api.settings import Settings
from embedder.settings import Settings as EmbedderSettings

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Read from the environment and from a `.env` in the working directory; the environment wins. Names may be written in any
case. An empty value counts as unset, a name that Quiver does not know is left alone. This page is generated from the
code: `make docs`.
"""


def render() -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD,
            "## API, worker and `quiver up`\n",
            *_table(Settings),
            "\n## Embedder\n",
            *_table(EmbedderSettings),
            "",
        ]
    )


def _table(settings: type[BaseSettings]) -> Iterator[str]:
    yield "| setting | default | what it does |"
    yield "| --- | --- | --- |"
    prefix = settings.model_config.get("env_prefix", "")
    for name, default, description in _rows(settings, prefix.upper()):
        yield f"| `{name}` | {default} | {description} |"


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for field, info in model.model_fields.items():
        alias = info.validation_alias
        name = str(alias.choices[0]) if isinstance(alias, AliasChoices) else field
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _rows(info.annotation, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", _shown(info.default, info.default_factory), info.description or ""


def _shown(default: Any, factory: Any) -> str:
    if factory is not None:
        return "per user"
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(render())
