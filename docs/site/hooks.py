"""What MkDocs calls while it builds the site: pages that are generated, and folders in the navigation."""

from pathlib import Path
from typing import Any

import commands_page
import licences_page
import notebook_page
import packages_picture
import python_pages
import settings_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PICTURE = "<!-- the picture of the packages is put here in the site, drawn from the imports -->"
CARD = "src/leukoscope/bundles/default/card.md"
COPIED = {
    "explanation/card.md": CARD,
    "about/changelog.md": "CHANGELOG.md",
    "about/security.md": "SECURITY.md",
    "about/contributing.md": "CONTRIBUTING.md",
}


def generated() -> dict[str, str]:
    """Return all pages and pictures that are made of the program itself, as path -> content."""
    return {
        "reference/commands.md": commands_page.page(),
        "reference/settings.md": settings_page.page(),
        "about/licences.md": licences_page.page(),
        notebook_page.NAME: notebook_page.page(),
        "images/packages.svg": packages_picture.picture(),
        **python_pages.pages(),
        **{page: (ROOT / source).read_text(encoding="utf-8") for page, source in COPIED.items()},
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page of a folder where the navigation names the folder; leave out what is empty."""
    docs = Path(config.docs_dir)
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} | set(python_pages.names())
    config.nav = _expanded(config.nav, sorted(pages))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in the picture of the packages, and let links to the card, which lies beside the code, find its page."""
    packages = "![Packages, and who imports whom](../images/packages.svg)"
    return markdown.replace(PICTURE, packages).replace(f"../../{CARD}", "card.md").replace("](docs/", "](../")


def _expanded(nav: list[Any], pages: list[str]) -> list[Any]:
    found: list[Any] = []
    for entry in nav:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
        if isinstance(value, list):
            inside = _expanded(value, pages)
            found += [{title: inside}] if inside else []
        elif value.endswith("/"):
            inside = _index_first([page for page in pages if page.startswith(value)])
            found += [{title: inside}] if title else inside
        else:
            found.append(entry)
    return found


def _index_first(pages: list[str]) -> list[str]:
    return sorted(pages, key=lambda page: (not page.endswith("/index.md"), page))
