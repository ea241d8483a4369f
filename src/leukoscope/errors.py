"""Every error a user can meet. Each message states what, where, and what to do about it.

One bad file never affects another: `usable` turns any failure into one sentence about that file.

LeukoscopeError                 exit status 1: the data or the result is at fault
├── DataError                   images, tables, folders
│   ├── ImageError              one file that cannot be used as an image
│   ├── SplitError              a split that leaks or cannot be built
│   └── UnreachableError        another system does not answer; a retry may succeed
├── TrainingError               a run that cannot continue (NaN loss, no run to resume)
├── BundleError                 a model bundle that is damaged, incomplete or too new
└── UsageError                   exit status 2: the call is at fault
    ├── ConfigError             a setting that does not exist or has a bad value
    ├── UnknownNameError        a name that is not among the known ones; shows the nearest
    └── MissingExtraError       a feature whose optional dependencies are not installed
"""

import difflib
import errno
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
LOG = "LEUKOSCOPE_LOG"  # environment variable: where unexpected errors are written


class LeukoscopeError(Exception):
    """Base of all errors that the user can fix; printed as one line, without a traceback."""

    exit_status = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as class, message and attributes, regardless of the constructor."""
        return _restored, (type(self), str(self), self.__dict__)


class DataError(LeukoscopeError):
    """Images, tables or folders that cannot be used as they are."""


class ImageError(DataError):
    """One image that cannot be used.

    path: the file, or the name of the image; empty where the caller knows it. reason: a predicate to follow the
    path, such as 'is empty (0 bytes). Copy it again.'
    """

    def __init__(self, reason: str, *, path: str | os.PathLike[str] = "") -> None:
        self.path, self.reason = os.fspath(path), reason
        super().__init__(f"{self.path} {reason}" if self.path else reason)

    @property
    def sentence(self) -> str:
        """The reason alone, for display beside the name of the image."""
        return self.reason[:1].upper() + self.reason[1:]


class SplitError(DataError):
    """A split that leaks, or that cannot be built from these subjects."""


class UnreachableError(DataError):
    """Another system that does not answer; a retry may succeed."""


class TrainingError(LeukoscopeError):
    """A training run that cannot continue."""


class BundleError(LeukoscopeError):
    """A model bundle that is damaged, incomplete or made by a newer version."""


class UsageError(LeukoscopeError):
    """The call itself is at fault: an option, a name, a setting."""

    exit_status = 2


class ConfigError(UsageError):
    """A setting that does not exist or whose value is not allowed."""


class UnknownNameError(UsageError):
    """A name that is not among the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = list(known)
        super().__init__(f"Unknown {kind} '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")


class MissingExtraError(UsageError):
    """A feature whose optional dependencies are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs more packages. Install them with: pip install 'leukoscope[{extra}]'")


def _restored(kind: type[LeukoscopeError], sentence: str, attributes: dict[str, Any]) -> LeukoscopeError:
    error = kind.__new__(kind, sentence)
    error.__dict__.update(attributes)
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that proposes the known name most like `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def require(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import an optional dependency, or name the extra that installs it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name and missing.name.partition(".")[0] == module.partition(".")[0]:
            raise MissingExtraError(feature, extra) from None
        raise


def installed(module: str) -> bool:
    """Return whether an optional dependency is installed, without importing it."""
    return sys.modules[module] is not None if module in sys.modules else _found(module)


@cache  # asked for every image
def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def why_unreachable(failed: Exception) -> str:
    """Return why a connection failed, without the layers in which libraries wrap it.

    >>> why_unreachable(OSError("HTTPConnectionPool(host='a'): (Caused by X('[Errno 111] Connection refused'))"))
    'connection refused'
    """
    text = " ".join(str(failed).split())
    found = re.search(r"\[Errno -?\d+\] ([\w ,]+)", text)
    if found:
        return found[1].strip().lower()
    return "timed out" if "timed out" in text.lower() else text[:160]


def attempt(work: Callable[[], T]) -> T | Exception:
    """Return what `work` returns, or any exception that it raises: the only place that catches every exception.

    Parsers of foreign files may raise anything, and no file may affect another one.
    """
    try:
        return work()
    except Exception as raised:  # noqa: BLE001 - the only one, see above
        return raised


def usable(work: Callable[[], T], *, name: str) -> T:
    """Return what `work` returns about one file.

    Raises:
        ImageError: anything went wrong with this file; the message begins with its name. Unexpected errors ask for a
            report and name the log with the traceback.
        LeukoscopeError: the call or the bundle is at fault, not this file.
    """
    done = attempt(work)
    if isinstance(done, Exception):
        raise refusal_of(done, name=name) from None
    return done


def refusal_of(raised: Exception, *, name: str) -> LeukoscopeError:
    """Return the error to raise for a file after any exception."""
    if isinstance(raised, MissingExtraError):
        return ImageError(f"cannot be read here: {raised}", path=name)
    if isinstance(raised, ImageError) or (isinstance(raised, LeukoscopeError) and not isinstance(raised, DataError)):
        return raised
    if isinstance(raised, DataError):
        return ImageError(str(raised))
    if isinstance(raised, MemoryError):
        return ImageError("needs more memory than available. Crop it, or give the program more memory.", path=name)
    if isinstance(raised, OSError) and raised.errno:
        return ImageError(_of_system(raised), path=name)
    line = (str(raised).splitlines() or [""])[0][:160]
    return ImageError(
        f"met a fault of leukoscope ({type(raised).__name__}: {line}). Please report this, with the content of "
        f"{write_log(raised, name=name)}.",
        path=name,
    )


def write_log(raised: BaseException, *, name: str) -> Path:
    """Append the traceback to the log and return its path; the log contains names of files, but no pixels."""
    import traceback  # slow to import and rarely needed
    from datetime import UTC, datetime
    from importlib import metadata

    entry = "\n".join(
        [
            f"--- {datetime.now(UTC).isoformat(timespec='seconds')} leukoscope {metadata.version('leukoscope')}",
            name,
            "".join(traceback.format_exception(raised)),
        ]
    )
    for path in _logs():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(entry)
        except OSError:
            continue
        return path
    return Path(os.devnull)


def _logs() -> list[Path]:
    import tempfile

    state = os.environ.get("XDG_STATE_HOME")
    places = [Path(state) if state else Path("~/.local/state").expanduser(), Path(tempfile.gettempdir())]
    own = [Path(os.environ[LOG])] if os.environ.get(LOG) else []
    return [*own, *(place / f"leukoscope-{_user()}" / "errors.log" for place in places)]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _of_system(raised: OSError) -> str:
    if isinstance(raised, PermissionError):
        return f"cannot be read or written: permission denied ({raised.filename}). Change the permissions."
    if raised.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "has results that cannot be written: the disk is full. Free some space and run it again."
    if raised.errno == errno.ENAMETOOLONG:
        return "has too long a name for its results. Rename it."
    if isinstance(raised, FileNotFoundError):
        return f"does not exist ({raised.filename}). Check the path."
    return f"cannot be read, or its result cannot be written ({raised.strerror}). Check the disk."


class Refusal(LeukoscopeError):  # noqa: N818  # a refusal is not an error of the program
    """A request to the reading room that is refused."""

    def __init__(self, status: int, code: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.detail = status, code, detail
        self.headers: dict[str, str] = {}
