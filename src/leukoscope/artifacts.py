"""Files that stages hand to each other: written beside then renamed, hashed, opened by a person.

Nothing here knows what the files mean. CSV is UTF-8 with a header; JSON is indented and sorted so that two runs
can be compared with diff.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import CallError, DataError

Row = dict[str, str]
_READ_BYTES = 1 << 20


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    beside.chmod(0o644)
    try:
        yield beside
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold FOLDER/.lock; it is free again when the block or the process ends, however it ends.

    Raises:
        CallError: another process holds it.
    """
    if sys.platform == "win32":  # which has no fcntl
        yield
        return
    import fcntl

    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CallError(f"Another leukoscope is at work in {folder}. Wait for it, or stop it first.") from None
        yield


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with write_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as broken:
        raise DataError(f"{path} is not valid JSON ({broken}). Make it again with the command that wrote it.") from None


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
    """Write rows as CSV with the given columns in the given order, whole or not at all."""
    with write_whole(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path, *, required: Sequence[str] = ()) -> list[Row]:
    """Read a CSV with a header into one dict of strings per row.

    Raises:
        DataError: the file is missing, empty, ragged, or lacks a required column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        _check_header(path, reader.fieldnames or [], required)
        rows = list(reader)
    except csv.Error as broken:
        raise DataError(f"{path}, line {reader.line_num}: {broken}. Is a quotation mark left open?") from None
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            columns = len(reader.fieldnames or [])
            raise DataError(
                f"{path}, row {number}: it does not have {columns} cells. Is the file whole? Mend the row, or make it "
                "again with the command that wrote it."
            )
    return rows


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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form: the same content always gives the same digits."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def provenance(*, seed: int | None = None, device: str = "cpu") -> dict[str, Any]:
    """Describe how a result came to be: command, versions, commit, seed, device, and the time in UTC."""
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
    stages[stage] = provenance(seed=facts.pop("seed", None), device=facts.pop("device", "cpu")) | {
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
    """Return the commit this program was installed from in a checkout, or None."""
    here = Path(__file__).parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return found.stdout.strip()
    return None
