"""Progress for anything that lasts: a bar on a terminal, silence in a pipe."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged while a bar with the label and the time left stands on the terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # imported here: only a terminal pays for it
    from rich.progress import track as rich_track

    yield from rich_track(items, description=label, total=total, console=Console(stderr=True), transient=True)
