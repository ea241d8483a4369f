"""What makes the generated pages, imported as MkDocs does."""

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .blocks import ROOT


def load(name: str) -> ModuleType:
    """Import a module of docs/site."""
    folder = str(ROOT / "docs/site")
    if folder not in sys.path:
        sys.path.append(folder)
    return import_module(name)


@cache
def generated() -> dict[str, Any]:
    """Return path -> content of all generated pages."""
    return dict(load("hooks").generated())
