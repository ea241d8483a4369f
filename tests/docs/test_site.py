"""The site builds without a warning, loads nothing from elsewhere, and its pages say what the program is."""

import logging
import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from .blocks import ROOT
from .site import load


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, strictly: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    warned: list[str] = []
    logger = logging.getLogger("mkdocs")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    finally:
        logger.removeHandler(handler)
    assert warned == []
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//"""
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [page.name for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", styles)


def test_every_page_of_the_documentation_is_in_the_site(site: Path) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in written if not (site / page).exists()} == set()
    menu = (site / "index.html").read_text(encoding="utf-8")
    for section in ("evidence/", "reference/python/", "how-to/", "explanation/", "about/"):
        assert f'href="{section}' in menu, section


def test_the_reference_has_every_command_and_every_setting(site: Path) -> None:
    from leukoscope.cli import COMMANDS
    from leukoscope.config import Train

    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    settings = (site / "reference/settings.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'id="leukoscope-{name}"' not in commands] == []
    assert [name for name in Train.model_fields if f"<code>{name}</code>" not in settings] == []


def test_examples_in_docstrings_are_code_in_the_reference(site: Path) -> None:
    page = (site / "reference/python/evaluation.html").read_text(encoding="utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in page
    assert "<blockquote>\n<blockquote>" not in page


def test_the_table_of_packages_is_true_of_the_imports() -> None:
    picture = load("packages_picture")
    text = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.MULTILINE)
    floor = {package: int(number) for number, names in rows for package in re.findall(r"`(\w+)`", names)}
    assert floor.keys() == set(picture.packages())
    wrong = [
        (package, below)
        for package, needs in picture.imports().items()
        for below in needs
        if floor[below] >= floor[package]
    ]
    assert wrong == []


def test_the_picture_of_packages_shows_all_of_them(site: Path) -> None:
    drawn = (site / "images/packages.svg").read_text(encoding="utf-8")
    assert [package for package in load("packages_picture").packages() if f">{package}</text>" not in drawn] == []
    assert "images/packages.svg" in (site / "explanation/architecture.html").read_text(encoding="utf-8")
