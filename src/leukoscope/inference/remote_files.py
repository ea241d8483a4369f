"""Files wherever fsspec reaches: on this machine, in an object store, behind a web server."""

import contextlib
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.core import url_to_fs

from ..errors import DataError
from ..files import write_whole

_TRIES, _PAUSE_S = 3, 2.0  # to fetch from a store that stutters


def url_of(path: str) -> str:
    """Return a place in words by which every machine finds it: a URL as it is, a path absolute."""
    return path.rstrip("/") if "://" in path else str(Path(path).resolve())


def beside(table: str, path: str) -> str:
    """Return where a path in a table leads: seen from its folder, unless it is whole.

    A table leads to files of its own kind alone: who writes one must not make this program call other servers, or read
    files of this machine.

    >>> beside("s3://lab/cells.csv", "a/1.png"), beside("s3://lab/cells.csv", "s3://other/2.png")
    ('s3://lab/a/1.png', 's3://other/2.png')

    Raises:
        DataError: it names another kind of place, such as http:// in a table on s3://.
    """
    whole = "://" in path or path.startswith("/") or "::" in path
    if whole and scheme_of(path) != scheme_of(table):
        raise DataError(f"{table} names {path}, which is not on {scheme_of(table)} as the table is. Mend the table.")
    return path if whole else f"{table.rpartition('/')[0]}/{path}"


def scheme_of(url: str) -> str:
    """Return the kind of place of a URL; "file" for a path on this machine, all of it where several are chained.

    >>> scheme_of("s3://lab/a.png"), scheme_of("/data/a.png"), scheme_of("simplecache::http://x/a.png")
    ('s3', 'file', 'simplecache::http')
    """
    return url.partition("://")[0] if "://" in url or "::" in url else "file"


def read_file(url: str) -> bytes | None:
    """Return the content of a file, or None where there is none."""
    files, path = url_to_fs(url)
    try:
        content: bytes = files.cat_file(path)
    except FileNotFoundError:
        return None
    return content


def write_file(url: str, content: bytes) -> None:
    """Write a file whole or not at all; stores of objects do so by themselves."""
    files, path = url_to_fs(url)
    if is_local(files):
        with write_whole(Path(path)) as new:
            new.write_bytes(content)
    else:
        files.pipe_file(path, content)


def is_local(files: Any) -> bool:
    """Tell whether a file system of fsspec's is that of this machine."""
    return "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol)


@contextlib.contextmanager
def as_local_file(url: str, *, folder: Path) -> Iterator[Path]:
    """Yield a file as one of this machine: itself, or a copy in `folder` that is deleted afterwards.

    A file that does not exist is yielded as one that does not exist.

    Raises:
        OSError: the store does not answer, three times.
    """
    files, path = url_to_fs(url)
    if is_local(files):
        yield Path(path)
        return
    copy = folder / f"{sha256(url.encode()).hexdigest()[:32]}{PurePosixPath(path).suffix}"
    try:
        with contextlib.suppress(FileNotFoundError):
            copy.write_bytes(_fetch(files, path))
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _fetch(files: Any, path: str) -> bytes:
    for attempt in range(1, _TRIES):
        try:
            content: bytes = files.cat_file(path)
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(_PAUSE_S * attempt)
        else:
            return content
    return bytes(files.cat_file(path))
