"""Where results go: no two into one file, none over what is read."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import CallError

Output = tuple[str, Path | None]  # the option as the user knows it, and the file it writes


def refuse_collisions(outputs: Sequence[Output], *, inputs: Iterable[str | Path] = ()) -> None:
    """Make sure, before any work, that every result has a place of its own.

    Raises:
        CallError: two of them are one file, one is in the way of another's folder, or one is an input.
    """
    wanted = [(option, path) for option, path in outputs if path and path != Path(os.devnull)]
    for number, (option, path) in enumerate(wanted):
        for other, place in wanted[number + 1 :]:
            if _in_the_way(path, place):
                raise CallError(f"{option} {path} and {other} {place} cannot both be written. Choose another name.")
    read = {key: given for given in inputs if (key := _key(Path(given)))}
    for option, path in wanted:
        key = _key(path)
        if key and (given := read.get(key)):
            raise CallError(f"{option} {path} would be written over {given}, which is to be read. Choose another name.")


def prints_into(path: Path | None) -> bool:
    """Tell whether a path leads to this program's standard output."""
    try:
        return path is not None and os.path.samestat(os.fstat(1), path.stat())
    except OSError:
        return False


def _in_the_way(path: Path, place: Path) -> bool:
    one, other = Path(os.path.realpath(path)), Path(os.path.realpath(place))
    return one == other or one in other.parents or other in one.parents or _key(path) == _key(place) is not None


def _key(path: Path) -> tuple[int, int] | None:
    """Return what tells an existing file from every other; None for a folder and where nothing is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return None if stat.S_ISDIR(found.st_mode) else (found.st_dev, found.st_ino)
