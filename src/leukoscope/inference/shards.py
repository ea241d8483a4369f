"""Large predictions in shards: files wherever fsspec reaches, one Parquet table a shard, over the workers of Ray.

Each worker keeps one predictor and fetches, answers and writes whole shards; what travels through Ray is a row of
counts per shard, so the store of objects stays empty and a worker holds only the few images that it is processing. Ray
Data hands a worker its next shard when it is done with the last, starts a worker that died again, and gives its shards
to another.
"""

import contextlib
import csv
import io
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Self

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from ..bundle.manifest import MANIFEST, Bundle
from ..data.cells import natural
from ..errors import DataError, UsageError, require
from ..files import atomic_write, fingerprint
from ..images.read import FORMATS
from ..progress import in_parallel
from .opinions import Opinion
from .predictor import Predictor, load
from .sources import sources_of

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
        raise DataError(f"{table} names {path}, which is not on {scheme_of(table)} like the table. Correct the table.")
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
        with atomic_write(Path(path)) as new:
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


Input = dict[str, str]  # path: its name in the answer; subject; url: where any machine finds it
COLUMNS = ("path", "subject", "url")
_ROW_GROUP = 1_000


def write_inputs(table: str, given: Sequence[str]) -> None:
    """Write a table of the images in files, folders and CSV tables, by path or URL.

    Raises:
        UsageError: a place does not exist.
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
        UsageError: it does not exist.
        DataError: it is not a Parquet table, or has no column path.
    """
    try:
        with fsspec.open(table) as file:
            facts = pq.ParquetFile(file)
            if "path" not in facts.schema_arrow.names:
                raise DataError(f"{table} lacks the column path. It has: {', '.join(facts.schema_arrow.names)}.")
            return int(facts.metadata.num_rows)
    except FileNotFoundError:
        raise UsageError(f"{table} does not exist. Check the path.") from None
    except pa.ArrowInvalid as damaged:
        raise DataError(f"{table} is not a Parquet table ({damaged}). Write it again.") from None


def read_inputs(table: str, *, start: int, stop: int, own: bool = False) -> list[Input]:
    """Return some rows of a table of images, reading only the row groups that hold them.

    A table that `write_inputs` made (`own`) may name any place; any other one only local or remote places, as it is
    itself.

    Raises:
        DataError: a row names another kind of place.
    """
    with fsspec.open(table) as file:
        source = pq.ParquetFile(file)
        sizes = [source.metadata.row_group(number).num_rows for number in range(source.num_row_groups)]
        ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        groups = [number for number, end in enumerate(ends) if end > start and end - sizes[number] < stop]
        named = [name for name in COLUMNS if name in source.schema_arrow.names]
        read = source.read_row_groups(groups, columns=named)
        skipped = start - (ends[groups[0]] - sizes[groups[0]])
    return [_input(row, table=table, own=own) for row in read.slice(skipped, stop - start).to_pylist()]


def _input(row: dict[str, str | None], *, table: str, own: bool) -> Input:
    path = row["path"] or ""
    url = row.get("url") or path
    return {"path": path, "subject": row.get("subject") or "", "url": url if own else beside(table, url)}


def _listed(url: str) -> Iterator[Input]:
    """List the images under a URL: a file, a folder or a CSV table; subjects are found as on this machine."""
    files, root = url_to_fs(url)
    if not files.exists(root):
        raise UsageError(f"{url} does not exist. Check the path.")
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


_SMALLEST_SHARD = 1_000  # images; enough to be worth a file, few enough to lose
_MOST_SHARDS = 100_000  # that the driver keeps in mind
_FOOTERS = 16  # files that are read at once
_KEY = b"leukoscope"  # in the metadata of a shard's file
_TEXTS = {"path", "subject", "type", "decision", "reason"}


@dataclass(frozen=True)
class Shard:
    """Rows `start` to `stop` of a table of images."""

    number: int
    table: str
    start: int
    stop: int


@dataclass(frozen=True)
class Plan:
    """What is to be done; the same plan gives the same files."""

    out: str
    tables: tuple[str, ...]
    """Parquet tables of images with the column path and, if they like, subject and url."""
    rows: tuple[int, ...]
    """Of each table."""
    size: int
    """Images per shard."""
    point: str
    """Operating point."""
    bundle: str
    """Fingerprint of bundle.json."""

    @property
    def identity(self) -> str:
        return fingerprint(asdict(self) | {"out": ""})

    @property
    def images(self) -> int:
        return sum(self.rows)

    def shards(self) -> list[Shard]:
        """Return all shards in order."""
        cuts = [
            (table, start, min(start + self.size, rows))
            for table, rows in zip(self.tables, self.rows, strict=True)
            for start in range(0, rows, self.size)
        ]
        return [Shard(number, *cut) for number, cut in enumerate(cuts)]

    def path_of(self, shard: Shard) -> str:
        """Return where the rows of a shard go."""
        return f"{self.out}/cells/part-{shard.number:08d}.parquet"


@dataclass
class Counts:
    """The decisions on the images of some shards."""

    images: int = 0
    unreadable: int = 0
    decisions: dict[str, int] = field(default_factory=dict)

    def add(self, opinion: Opinion) -> None:
        """Count one image."""
        self.images += 1
        self.unreadable += not opinion.readable
        self.decisions[opinion.decision] = self.decisions.get(opinion.decision, 0) + 1

    def __add__(self, other: Self) -> "Counts":
        decisions = dict(Counter(self.decisions) + Counter(other.decisions))
        return Counts(self.images + other.images, self.unreadable + other.unreadable, decisions)


def make_plan(given: Sequence[str], out: str, bundle: Bundle, *, point: str, size: int | None = None) -> Plan:
    """List the images and write the plan to OUT, or read the plan of the same call there.

    given: files, folders, CSV tables (path, subject) or Parquet tables (path, subject, url), by path or URL.

    Raises:
        UsageError: OUT holds another prediction, or something given does not exist.
        DataError: no image is there.
    """
    out = url_of(out)
    call = {"given": list(given), "point": point, "bundle": fingerprint(bundle.manifest.model_dump(mode="json"))}
    if (old := read_file(f"{out}/plan.json")) is not None:
        return _same_plan(_parsed(old, f"{out}/plan.json"), call, out=out)
    _refuse_full(out)
    tables = [url_of(each) for each in given if each.endswith(".parquet")]
    if others := [each for each in given if not each.endswith(".parquet")]:
        tables.append(f"{out}/inputs.parquet")
        write_inputs(tables[-1], others)
    rows = tuple(count_inputs(table) for table in tables)
    size = size or max(_SMALLEST_SHARD, -(-sum(rows) // _MOST_SHARDS))
    for name in [*bundle.manifest.files, MANIFEST]:
        write_file(f"{out}/bundle/{name}", (bundle.path / name).read_bytes())
    plan = Plan(out, tuple(tables), rows, size, point, str(call["bundle"]))
    write_file(f"{out}/plan.json", _json({"format": 1, "asked": call, "plan": asdict(plan)}))
    return plan


def load_planned(plan: Plan) -> Predictor:
    """Return a predictor for the plan's copy of the bundle."""
    files, folder = url_to_fs(f"{plan.out}/bundle")
    if is_local(files):
        return load(folder)
    with TemporaryDirectory(prefix="leukoscope-") as copy:  # once it is loaded, its files are not needed
        files.get(folder, f"{copy}/bundle", recursive=True)
        return load(f"{copy}/bundle")


def finished(plan: Plan) -> dict[int, Counts]:
    """Return the counts of the shards that are there already, by number."""
    files, folder = url_to_fs(f"{plan.out}/cells")
    there = {PurePosixPath(path).name for path in files.ls(folder, detail=False)} if files.exists(folder) else set()
    named = [shard for shard in plan.shards() if PurePosixPath(plan.path_of(shard)).name in there]
    counts = in_parallel(lambda shard: _counts_of(plan, shard), named, threads=_FOOTERS)
    return {shard.number: each for shard, each in zip(named, counts, strict=True) if each}


def answer_shard(plan: Plan, shard: Shard, predictor: Predictor, *, threads: int) -> Counts:
    """Answer every image of a shard, `threads` at a time, and write its file, unless it is there."""
    if done := _counts_of(plan, shard):
        return done
    own = shard.table == f"{plan.out}/inputs.parquet"
    inputs = read_inputs(shard.table, start=shard.start, stop=shard.stop, own=own)
    counts, rows = Counts(), []
    with TemporaryDirectory(prefix="leukoscope-") as folder:

        def answer(given: Input) -> Opinion:
            with as_local_file(given["url"], folder=Path(folder)) as path:
                return predictor.opinion(path, name=str(path), point=plan.point)

        for given, opinion in zip(inputs, in_parallel(answer, inputs, threads=threads), strict=True):
            counts.add(opinion)
            row = opinion.row(predictor.classes, predictor.types)
            rows.append(row | {"path": given["path"], "subject": given["subject"]})
    write_file(plan.path_of(shard), _parquet(rows, facts=asdict(counts) | {"plan": plan.identity}))
    return counts


def summarise(plan: Plan, counts: Counts) -> None:
    """Write summary.json, once every image is accounted for.

    Raises:
        DataError: rows are missing.
    """
    if counts.images != plan.images:
        raise DataError(
            f"{plan.out} has {counts.images:,} rows for {plan.images:,} images. Run the same command again."
        )
    write_file(f"{plan.out}/summary.json", _json(asdict(counts) | {"plan": plan.identity, "bundle": plan.bundle}))


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not valid JSON. Delete it, or choose another folder.") from None


def _same_plan(old: dict[str, Any], call: dict[str, Any], *, out: str) -> Plan:
    if old["asked"] != call:
        raise UsageError(f"{out} contains a prediction of other images, or by another model. Choose a new folder.")
    plan = Plan(**old["plan"] | {"tables": tuple(old["plan"]["tables"]), "rows": tuple(old["plan"]["rows"])})
    if plan.out != out:
        raise UsageError(f"The prediction in {out} was planned for {plan.out}. Move it back, or choose a new folder.")
    return plan


def _refuse_full(out: str) -> None:
    files, path = url_to_fs(out)
    left = {f"{path}/inputs.parquet", f"{path}/bundle"}  # by a call that was stopped before it had a plan
    if files.exists(path) and (not files.isdir(path) or set(files.ls(path, detail=False)) - left):
        raise UsageError(f"{out} is not empty and contains no prediction. Choose a new folder.")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _parquet(rows: list[dict[str, Any]], *, facts: dict[str, Any]) -> bytes:
    """Return rows of predictions.csv as Parquet: numbers are numbers, and what is empty there is null."""
    names = ["path", "subject", *(name for name in rows[0] if name not in ("path", "subject"))]
    types = [(name, pa.string() if name in _TEXTS else pa.float64()) for name in names]
    schema = pa.schema(types, metadata={_KEY: json.dumps(facts).encode()})
    plain = [{name: None if row[name] == "" and name not in _TEXTS else row[name] for name in names} for row in rows]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain, schema), content, compression="zstd")
    return content.getvalue()


def _counts_of(plan: Plan, shard: Shard) -> Counts | None:
    """Return the counts of a shard's file, or None where there is none of this plan with all its rows."""
    files, path = url_to_fs(plan.path_of(shard))
    try:
        with files.open(path, "rb") as file:
            table = pq.ParquetFile(file)
            facts = json.loads((table.schema_arrow.metadata or {}).get(_KEY, b"{}"))
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    whole = facts.pop("plan", "") == plan.identity and table.metadata.num_rows == shard.stop - shard.start
    return Counts(**facts) if whole else None


_STORE_BYTES = 128 * 1024**2  # of shared memory, where Ray is started here
_MOST_BLOCKS = 10_000  # units in which Ray Data hands out shards


class Answering:
    """One worker: a predictor that answers shards, with as many threads as it has processors."""

    def __init__(self, plan: Plan, threads: int) -> None:
        self._plan, self._threads = plan, threads
        self._predictor = load_planned(plan)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer the shards of a batch."""
        shards = [
            Shard(int(number), str(table), int(start), int(stop))
            for number, table, start, stop in zip(
                batch["number"], batch["table"], batch["start"], batch["stop"], strict=True
            )
        ]
        counts = [answer_shard(self._plan, shard, self._predictor, threads=self._threads) for shard in shards]
        return {"counts": [json.dumps(asdict(each)) for each in counts]}


def answer_on_ray(
    plan: Plan, shards: Sequence[Shard], *, workers: int | None = None, cpus_per_worker: int = 1
) -> Iterator[Counts]:
    """Answer shards on a Ray cluster; yield the counts of each as it is done, in any order.

    The cluster is the one that the variable RAY_ADDRESS names, else one that is started here, for this call.

    workers: how many; None: as many as the cluster has processors for. cpus_per_worker: cores of each.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: the cluster has fewer processors than one worker needs.
        DataError: a worker cannot continue; what is finished is kept.
    """
    ray = require("ray.data", feature="--engine ray", extra="cluster") and require("ray", feature="", extra="cluster")
    _connect(ray)
    try:
        workers = _workers(
            int(ray.cluster_resources().get("CPU", 0)), requested=workers, cpus_per_worker=cpus_per_worker
        )
        for row in _answered(ray, plan, shards, workers=workers, cpus_per_worker=cpus_per_worker).iter_rows():
            yield Counts(**json.loads(row["counts"]))
    except ray.exceptions.RayError as failed:
        raise DataError(
            f"A worker failed ({_cause_of(failed)}). Finished shards are kept in {plan.out}: run the same "
            "command again."
        ) from None
    finally:
        ray.shutdown()


def _answered(ray: Any, plan: Plan, shards: Sequence[Shard], *, workers: int, cpus_per_worker: int) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts images
    context.print_on_execution_start = False
    rows = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=min(len(shards), _MOST_BLOCKS))
    return rows.map_batches(
        Answering,
        fn_constructor_args=(plan, cpus_per_worker),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(shards))),
        num_cpus=cpus_per_worker,
    )


def _cause_of(failed: Exception) -> str:
    """Return the line of a worker's traceback that names the error; Ray writes advice behind it."""
    lines = re.findall(r"^[\w.]+(?:Error|Exception|Refused)\b.*", str(failed), flags=re.MULTILINE)
    return lines[-1] if lines else type(failed).__name__


def _connect(ray: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its own warnings; ours name what fails
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            address="local",
            **quiet,
        )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # our own errors describe the failure


def _workers(available: int, *, requested: int | None, cpus_per_worker: int) -> int:
    possible = available // cpus_per_worker
    if possible < 1 or (requested or 1) > possible:
        raise UsageError(
            f"The cluster has {available} processors, room for {possible} workers of {cpus_per_worker}. Set "
            "fewer or smaller workers."
        )
    return requested or possible
