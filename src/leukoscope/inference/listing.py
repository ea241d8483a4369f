"""The images of a large prediction as one Parquet table: path, subject, url."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from ..data.cells import natural
from ..data.images import FORMATS
from ..errors import CallError, DataError
from .inputs import sources_of
from .places import beside, write_file

Input = dict[str, str]  # path: its name in the answer; subject; url: where any machine finds it
COLUMNS = ("path", "subject", "url")
_ROW_GROUP = 1_000


def write_inputs(table: str, given: Sequence[str]) -> None:
    """Write a table of the images in files, folders and CSV tables, by path or URL.

    Raises:
        CallError: a place does not exist.
        DataError: a folder holds no image, or a table has no column path.
    """
    sources = sources_of(Path(each) for each in given if "://" not in each)
    rows = [
        {"path": str(source.path), "subject": source.subject, "url": str(source.path.absolute())} for source in sources
    ]
    rows += [row for each in given if "://" in each for row in _listed(each)]
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), content, row_group_size=_ROW_GROUP, compression="zstd")
    write_file(table, content.getvalue())


def count_inputs(table: str) -> int:
    """Return the number of rows of a Parquet table of images, from its footer alone.

    Raises:
        CallError: it does not exist.
        DataError: it is no Parquet table, or has no column path.
    """
    try:
        with fsspec.open(table) as file:
            facts = pq.ParquetFile(file)
            if "path" not in facts.schema_arrow.names:
                raise DataError(f"{table} lacks the column path. It has: {', '.join(facts.schema_arrow.names)}.")
            return int(facts.metadata.num_rows)
    except FileNotFoundError:
        raise CallError(f"{table} does not exist. Check the path.") from None
    except pa.ArrowInvalid as damaged:
        raise DataError(f"{table} is not a Parquet table ({damaged}). Write it again.") from None


def read_inputs(table: str, *, start: int, stop: int) -> list[Input]:
    """Return some rows of a table of images, reading only the row groups that hold them."""
    with fsspec.open(table) as file:
        source = pq.ParquetFile(file)
        sizes = [source.metadata.row_group(number).num_rows for number in range(source.num_row_groups)]
        ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        groups = [number for number, end in enumerate(ends) if end > start and end - sizes[number] < stop]
        named = [name for name in COLUMNS if name in source.schema_arrow.names]
        read = source.read_row_groups(groups, columns=named)
        skipped = start - (ends[groups[0]] - sizes[groups[0]])
    return [_input(row, table=table) for row in read.slice(skipped, stop - start).to_pylist()]


def _input(row: dict[str, str | None], *, table: str) -> Input:
    path = row["path"] or ""
    return {"path": path, "subject": row.get("subject") or "", "url": row.get("url") or beside(table, path)}


def _listed(url: str) -> Iterator[Input]:
    """List the images under a URL: a file, a folder or a CSV table; subjects are found as on this machine."""
    files, root = url_to_fs(url)
    if not files.exists(root):
        raise CallError(f"{url} does not exist. Check the path.")
    if files.isdir(root):
        inside = [PurePosixPath(path).relative_to(root) for path in files.find(root)]
        images = [path for path in inside if path.suffix.lower() in FORMATS and not _hidden(path)]
        if not images:
            raise DataError(f"{url} holds no image ({', '.join(FORMATS)}). Check the path.")
        for path in sorted(images, key=lambda path: [natural(step) for step in path.parts]):
            yield _at(f"{url.rstrip('/')}/{path}", path.parts[0] if len(path.parts) > 1 else "")
    elif root.endswith(".csv"):
        with files.open(root, "rt", encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if "path" not in row:
                    raise DataError(f"{url} lacks the column path. It has: {', '.join(row)}.")
                yield _at(beside(url, row["path"]), row.get("subject") or "")
    else:
        yield _at(url, "")


def _at(url: str, subject: str) -> Input:
    return {"path": url, "subject": subject, "url": url}


def _hidden(path: PurePosixPath) -> bool:
    return any(step.startswith((".", "__MACOSX")) for step in path.parts)
