"""One bad file never costs another file its answer: whatever goes wrong with it becomes one sentence about it."""

import contextlib
import errno
import os
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from ..errors import DataError, ImageError, LeukoscopeError, MissingExtraError, attempt

_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Send what is written to standard error to nowhere while the block runs; one block at a time."""
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


T = TypeVar("T")
LOG = "LEUKOSCOPE_LOG"  # environment variable: where unexpected errors are written


def usable(work: Callable[[], T], *, name: str) -> T:
    """Return what `work` returns about one file.

    Raises:
        ImageError: anything went wrong with this file; the sentence begins with its name. What was not foreseen asks
            to be reported, and its traceback stands in the log that is named.
        LeukoscopeError: not this file is at fault but the call or the bundle.
    """
    done = attempt(work)
    if isinstance(done, Exception):
        raise refusal_of(done, name=name) from None
    return done


def refusal_of(raised: Exception, *, name: str) -> LeukoscopeError:
    """Return what to say of a file when this was raised."""
    if isinstance(raised, MissingExtraError):
        return ImageError(f"cannot be read here: {raised}", path=name)
    if isinstance(raised, ImageError) or (isinstance(raised, LeukoscopeError) and not isinstance(raised, DataError)):
        return raised
    if isinstance(raised, DataError):
        return ImageError(str(raised))
    if isinstance(raised, MemoryError):
        return ImageError("needs more memory than there is. Crop it, or give the program more memory.", path=name)
    if isinstance(raised, OSError) and raised.errno:
        return ImageError(_of_system(raised), path=name)
    line = (str(raised).splitlines() or [""])[0][:160]
    return ImageError(
        f"met a fault of leukoscope ({type(raised).__name__}: {line}). Please report this, with what stands in "
        f"{write_log(raised, name=name)}.",
        path=name,
    )


def write_log(raised: BaseException, *, name: str) -> Path:
    """Append the traceback to the log and return where that lies; the log holds names of files, and no pixels."""
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
    state = os.environ.get("XDG_STATE_HOME")
    places = [Path(state) if state else Path("~/.local/state").expanduser(), Path(tempfile.gettempdir())]
    own = [Path(os.environ[LOG])] if os.environ.get(LOG) else []
    return [*own, *(place / f"leukoscope-{_user()}" / "errors.log" for place in places)]


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else "user"


def _of_system(raised: OSError) -> str:
    if isinstance(raised, PermissionError):
        return f"may not be read or its result not be written ({raised.filename}). Change the rights."
    if raised.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "has results that cannot be written: the disk is full. Free some space and run it again."
    if raised.errno == errno.ENAMETOOLONG:
        return "has too long a name for its results. Rename it."
    if isinstance(raised, FileNotFoundError):
        return f"does not exist ({raised.filename}). Check the path."
    return f"cannot be read or its result not be written ({raised.strerror}). Check the disk."
