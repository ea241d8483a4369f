"""Work on many items: progress bars, ordered thread pools, and limits on processors and memory."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_shown = True
_ONE_AT_A_TIME = threading.Lock()


def show_bars(shown: bool) -> None:
    """Switch progress bars on or off for this process."""
    global _shown  # noqa: PLW0603  # a global choice, made once by the command line
    _shown = shown


def track(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged while the terminal shows a bar with the label and the time left."""
    if not _shown or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # imported here because only a terminal needs it
    from rich.progress import track as rich_track

    yield from rich_track(items, description=label, total=total, console=Console(stderr=True), transient=True)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Discard standard error while the block runs; one block at a time."""
    with _ONE_AT_A_TIME:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


_CGROUP, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def processors(cgroup: Path = _CGROUP, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the number of threads for computation: OMP_NUM_THREADS, else the processors available to this process.

    That is the smallest of the machine's, the affinity mask (taskset, Slurm) and a container's quota, rounded up: a
    container with half a processor gets one thread. A service of systemd
    or a job of a cluster may have its quota in a control group below the root, or in any above its own.

    cgroup: folder of the control groups, of version 2 (cpu.max) or 1 (cpu/cpu.cfs_quota_us).
    own_groups: file that names the groups of this process.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([given, *_quotas(cgroup, own_groups)]))


def _quotas(cgroup: Path, own_groups: Path) -> Iterator[int]:
    """Yield the processors that quotas allow, rounded up, where there are any."""
    try:
        groups = [line.split(":", 2) for line in own_groups.read_text(encoding="utf-8").splitlines()]
    except OSError:  # no Linux
        groups = []
    for top, controller in ((cgroup, ""), (cgroup / "cpu", "cpu")):
        own = [path for _, controllers, path in groups if controller in controllers.split(",")]
        paths = [Path(), *(Path(path.lstrip("/")) for path in own)]
        for folder in {top / above for path in paths for above in (path, *path.parents)}:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controller else ("cpu.max",)
            if quota := _quota(folder, names):
                yield quota


def _quota(folder: Path, names: tuple[str, ...]) -> int:
    """Return the processors that one control group allows; 0 where it has no quota."""
    try:
        words = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):  # no such file, or 'max'
        return 0
    return -(-quota // period) if quota > 0 and period > 0 else 0


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait. Call it before PyTorch or scikit-learn is imported.

    By default they spin, and on a busy machine each waits for one that is not running: a step of training on two busy
    processors took 32 s, and 1.8 to 3.3 s with this (5.5 to 11.3 s with one thread). An OMP_WAIT_POLICY in the
    environment takes precedence.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def limit_blas_threads() -> None:
    """Compute matrix products (OpenBLAS) with one thread. Call it before NumPy is imported.

    Threads share even small products, and wait for each other by spinning: on two busy processors 1,800 products of
    under a millisecond took 21 s with two threads and .6 s with one. Where products are large, `blas_threads` gives
    them more. An OPENBLAS_NUM_THREADS in the environment takes precedence.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def blas_threads(number: int) -> Iterator[None]:
    """Compute matrix products with this number of threads while the block runs, in the complete process.

    Use one for many small products, `processors()` for those that take longer than a tenth of a second.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(number, "blas"):
        yield


def bound_memory(more: int) -> None:
    """Limit this process to `more` bytes above its present memory; without effect on Windows and macOS."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, resource.RLIM_INFINITY))


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, threads: int | None = None) -> Iterator[R]:
    """Yield work(item) in order, computed by threads (by default one per processor), with few results in memory.

    Threads suffice because decoding, hashing and resizing release the GIL.
    """
    threads = threads or processors()
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work, item) for item in islice(waiting, 4 * threads)]
        while running:
            yield running.pop(0).result()
            running.extend(pool.submit(work, item) for item in islice(waiting, 1))
