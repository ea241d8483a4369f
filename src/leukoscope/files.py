"""Atomic writes, reading and hashing of files.

CSV is UTF-8 with a header; JSON is indented and sorted so that two runs can be compared with diff. A file's name whose
bytes are not UTF-8 is written with escapes, such as a\\udcff.bmp.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from .errors import DataError, UsageError

Row = dict[str, str]
# Python holds a byte of a file's name that is not UTF-8 as half a surrogate pair, which no text file can hold.
_NOT_TEXT = re.compile("[\ud800-\udfff]")
_ERRORS = "backslashreplace"
_FORMULA = re.compile(r"[' ]*[=+\-@\t\r\n＝＋－＠]")  # what a spreadsheet would evaluate, also after '
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_LONGEST_NAME = 120  # bytes of a name for results; most disks take 255 with all that is added
_LONGEST_LETTERS = 100  # likewise, of a name made from any text
_DEEPEST = 60  # levels of JSON; what is written here has fewer than ten


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block ends without an error.

    The target of a symbolic link is replaced, not the link. A device or pipe, such as /dev/stdout, is written to.

    Raises:
        OSError: it cannot be written; `filename` is `path`, not that of the temporary file.
        UsageError: `path` is a disk.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
            yield (new := Path(folder, "new"))
            with _naming(path, folder):
                _pour(new, path)
        return
    real = Path(os.path.realpath(path))
    with _naming(path, f".{real.name}."):
        beside = _make_beside(real)
        try:
            yield beside
            with beside.open("rb+") as written:
                os.fsync(written.fileno())
            beside.replace(real)
        finally:
            beside.unlink(missing_ok=True)


def _make_beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(parent for parent in path.parents if parent.exists())
        why = f"{file} is a file, not a folder, so nothing can be written to"
        raise NotADirectoryError(errno.ENOTDIR, why, str(path)) from None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    beside.chmod(0o644)
    return beside


@contextlib.contextmanager
def _naming(path: Path, temporary: str) -> Iterator[None]:
    """Make errors name `path` instead of a temporary file whose name contains `temporary`."""
    try:
        yield
    except OSError as failed:
        full = failed.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if (failed.filename is None and full) or temporary in str(failed.filename):
            failed.filename = str(path)
        raise


def _is_stream(path: Path) -> bool:
    """Return whether a path is a device or pipe, or the file to which this program prints."""
    try:
        found = path.stat()
    except OSError:
        return False  # writing there raises the reason
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or _own_stream(found) is not None


def _own_stream(found: os.stat_result) -> int | None:
    """Return the descriptor of this program's standard output or error where it is that file."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
    return None


def _pour(new: Path, path: Path) -> None:
    with new.open("rb") as written, _open_stream(path) as stream:
        shutil.copyfileobj(written, stream)


def _open_stream(path: Path) -> BinaryIO:
    found = path.stat()
    own = _own_stream(found)
    if own is not None:  # opened again, it would be written from its start
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fdopen(os.dup(own), "wb")
    if stat.S_ISBLK(found.st_mode):
        raise UsageError(f"{path} is a disk, which must not be overwritten. Name a file.")
    return _open_pipe(path) if stat.S_ISFIFO(found.st_mode) else path.open("wb")


def _open_pipe(path: Path) -> BinaryIO:
    """Open a named pipe; one without a reader is an error, since opening it would block for ever."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as failed:
        if failed.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "Start its reader first: nothing reads the pipe", str(path)) from None
        raise
    os.set_blocking(handle, True)
    return os.fdopen(handle, "wb")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock FOLDER/.lock until the block or the process ends.

    Raises:
        UsageError: another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"Another process of leukoscope is writing to {folder}. Wait for it, or stop it first."
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8", errors=_ERRORS)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN raises ValueError."""
    write_text(path, json_text(value, indent=1) + "\n")


def json_text(value: Any, *, indent: int | None = None) -> str:
    r"""Return `value` as JSON, with bytes of file names that are not UTF-8 escaped; NaN raises ValueError.

    >>> json_text({"path": "a\udcff.bmp"})
    '{"path": "a\\\\udcff.bmp"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return _NOT_TEXT.sub(lambda byte: rf"\\u{ord(byte[0]):04x}", text)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        value = json.loads(read_text(path))
        check_depth(value)
    except (ValueError, RecursionError) as broken:
        why = "nested too deeply" if isinstance(broken, RecursionError) else str(broken)
        raise DataError(f"{path} is not valid JSON ({why}). Repeat the command that wrote it.") from None
    return value


def check_depth(value: Any) -> None:
    """Refuse JSON or TOML that is nested too deeply.

    Raises:
        RecursionError: it has more than 60 levels.
    """
    level = [value]
    for _ in range(_DEEPEST):
        inside = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [item for each in inside for item in each]
        if not level:
            return
    raise RecursionError


def read_text(path: Path) -> str:
    """Read a UTF-8 text file (a byte-order mark is dropped).

    Raises:
        DataError: the file is missing or is not text.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path, or run the stage that writes it.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text. Save it as UTF-8 and try again.") from None


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str]) -> None:
    """Write rows as CSV with the given columns in the given order, atomically.

    Text that a spreadsheet would evaluate as a formula, such as a folder called =cmd(), gets a ' in front, which
    `read_csv` removes.
    """
    with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8", errors=_ERRORS) as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writerow({name: escape_formula(name) for name in columns})
        writer.writerows({name: escape_formula(value) for name, value in row.items()} for row in rows)


def escape_formula(value: Any) -> Any:
    """Return `value` with a ' in front if it is text that a spreadsheet would evaluate as a formula, but no number.

    >>> escape_formula("=1+1"), escape_formula("@sum"), escape_formula("-0.5"), escape_formula("P-1")
    ("'=1+1", "'@sum", '-0.5', 'P-1')
    >>> escape_formula("'=x"), escape_formula(-3)
    ("''=x", -3)
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def unescape_formula(text: str) -> str:
    """Undo `escape_formula`.

    >>> unescape_formula("'=1+1"), unescape_formula("''=x"), unescape_formula("'90s")
    ('=1+1', "'=x", "'90s")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_csv(path: Path, *, required: Sequence[str] = ()) -> list[Row]:
    """Read a CSV with a header into one dict of strings per row.

    Raises:
        DataError: the file is missing, empty, ragged, or lacks a required column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        _check_header(path, [unescape_formula(name) for name in reader.fieldnames or []], required)
        rows = list(reader)
    except csv.Error as broken:
        raise DataError(f"{path}, line {reader.line_num}: {broken}. Is a quotation mark left open?") from None
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            columns = len(reader.fieldnames or [])
            raise DataError(
                f"{path}, row {number}: it does not have {columns} cells. Correct the row, or repeat the "
                "command that wrote the file."
            )
    return [{unescape_formula(name): unescape_formula(value) for name, value in row.items()} for row in rows]


def _check_header(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        separator = next((sign for sign in (";", "\t") if len(found) == 1 and sign in found[0]), None)
        cure = f" It is separated by {separator!r}: save it with commas." if separator else ""
        raise DataError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. "
            f"It has: {', '.join(found or ['nothing'])}.{cure}"
        )
    twice = sorted({name for name in found if list(found).count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns called {', '.join(twice)}. Rename or delete one.")


def short_name(name: str) -> str:
    """Return a name of at most 120 bytes; a longer one is truncated and gets a digest, so that names stay distinct."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= _LONGEST_NAME:
        return name
    return f"{whole[: _LONGEST_NAME - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(whole).hexdigest()[:8]}"


def file_name(text: str) -> str:
    """Return any text as a name that every file system accepts; a changed name gets a digest, so that names stay
    distinct.

    >>> file_name("P-7"), file_name("ward 3/P 7")
    ('P-7', 'ward_3_P_7-456ec202')
    """
    plain = re.sub(r"[^\w.-]+", "_", text)[:_LONGEST_LETTERS].strip(".") or "_"
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form: the same content always gives the same digest."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode(errors=_ERRORS)).hexdigest()


def provenance(*, seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Return the provenance of a result: command, versions, commit, seed, device, and the time in UTC."""
    return {
        "command": shlex.join(["leukoscope", *sys.argv[1:]]),
        "version": metadata.version("leukoscope"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": _package_versions(),
        "seed": seed,
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def record_stage(run: Path, stage: str, *, started: float, **facts: Any) -> None:
    """Add one stage's provenance and duration (since `started`, of time.perf_counter) to RUN/run.json."""
    path = run / "run.json"
    stages = read_json(path) if path.exists() else {}
    seconds = round(time.perf_counter() - started, 3)
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    stages[stage] = provenance(seed=facts.pop("seed", None), device=facts.pop("device", "cpu")) | {
        "started": began.isoformat(timespec="seconds"),
        "seconds": seconds,
        **facts,
    }
    write_json(path, stages)


def _package_versions() -> dict[str, str]:
    names = ("numpy", "pillow", "scikit-learn", "onnxruntime", "torch", "torchvision", "timm", "lightning-fabric")
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _commit() -> str | None:
    """Return the git commit of a checkout, or None."""
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
        return found.stdout.strip()
    return None
