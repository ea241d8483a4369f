"""A bundle from elsewhere is tried in a process of its own first: it may break that, and not the program.

What ONNX Runtime does with a graph cannot be foreseen from its bytes: a few kilobytes may ask for terabytes, for hours,
or for what breaks it. The process has bounded memory (not on Windows and macOS) and time. That a bundle came through is
noted under its seal in the user's cache, so each is tried once.
"""

import contextlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ..bundle.manifest import SHIPPED, Bundle, open_bundle
from ..errors import BundleError, LeukoscopeError

MIB = 1 << 20
_MEMORY = 4096 * MIB  # more than the process has when it begins; the shipped bundle takes a tenth of it
_SECONDS = 180.0
_PASSED: set[str] = set()
_REFUSED = 3  # exit status


def try_bundle(bundle: Bundle) -> None:
    """Make sure that a bundle can be loaded and asked with bounded memory and time; the shipped one is known to be.

    Raises:
        BundleError: it cannot; what is wrong with it is said, or that it broke the process that tried it.
    """
    seal = bundle.manifest.seal
    note = _cache() / f"{seal}-{metadata.version('onnxruntime')}"
    if bundle.path == SHIPPED or seal in _PASSED or note.exists():
        return
    command = [sys.executable, "-m", __name__, str(bundle.path.resolve()), str(_MEMORY)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise BundleError(_broke(bundle, f"took more than {_SECONDS:.0f} seconds")) from None
    if tried.returncode == _REFUSED:
        raise BundleError(tried.stdout.strip().replace(str(bundle.path.resolve()), str(bundle.path)))
    if tried.returncode:
        raise BundleError(_broke(bundle, f"broke it, or needed more than {_MEMORY // MIB:,} MiB"))
    _PASSED.add(seal)
    with contextlib.suppress(OSError):  # it is then tried again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _broke(bundle: Bundle, how: str) -> str:
    return (
        f"{bundle.path} was tried in a process of its own and {how}, so it is not loaded. "
        "Do not trust this bundle; ask who made it."
    )


def _cache() -> Path:
    set_ = os.environ.get("XDG_CACHE_HOME")
    return (Path(set_) if set_ else Path("~/.cache").expanduser()) / "leukoscope" / "bundles-tried"


def bound_memory(more: int) -> None:
    """Let this process take so many bytes more than it has; Windows and macOS have no such bound."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, resource.RLIM_INFINITY))


def main() -> None:
    """Load the bundle that is named; say on standard output what is wrong with it."""
    from .predictor import Predictor

    bound_memory(int(sys.argv[2]))
    try:
        Predictor(open_bundle(Path(sys.argv[1])))
    except LeukoscopeError as refused:
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write(str(refused))
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
