"""Work on many items: a progress bar on a terminal, silence in a pipe, and threads that keep the order."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


_shown = True


def show_bars(shown: bool) -> None:
    """Show progress bars, or leave them out, from now on in this process."""
    global _shown  # noqa: PLW0603  # a choice of the whole program, made once by the command line
    _shown = shown


def track(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged while the terminal shows a bar with the label and the time left."""
    if not _shown or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # imported here: only a terminal pays for it
    from rich.progress import track as rich_track

    yield from rich_track(items, description=label, total=total, console=Console(stderr=True), transient=True)


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, threads: int | None = None) -> Iterator[R]:
    """Yield work(item) in order from some threads, else one per core, holding only a few results at a time.

    Threads serve because decoding, hashing and resizing release Python's lock.
    """
    threads = threads or os.cpu_count() or 1
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, item) for item in islice(waiting, 4 * threads)]
        while running:
            yield running.pop(0).result()
            running.extend(pool.submit(work, item) for item in islice(waiting, 1))
