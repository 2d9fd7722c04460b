"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from docs.settings_reference import PAGE, render

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_settings_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text())]

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page: Path) -> None:
    known = set(re.findall(r"[A-Z][A-Z_]+", render()))

    named = set(
        re.findall(r"\b(?:DB_FIELDS__|EMBEDDING__|EMBEDDER_|MAX_|QUIVER_DEV|DATABASE_)[A-Z_]+\b", page.read_text())
    )

    assert named <= known


def test_the_readmes_tree_is_there() -> None:
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2].split("```")[1]

    names = [line.split()[0] for line in tree.strip().splitlines() if not line.startswith(" ")]

    assert [name for name in names if not (ROOT / name).exists()] == []
