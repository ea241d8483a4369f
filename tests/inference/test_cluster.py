"""Large predictions: shards, their places, and a local Ray cluster whose workers and driver are killed."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from leukoscope.bundle.manifest import Bundle
from leukoscope.cli import leukoscope as program
from leukoscope.errors import DataError, MissingExtraError, UsageError, require
from leukoscope.files import read_csv, read_json, write_csv
from leukoscope.inference.shards import Counts, answer_shard, finished, load_planned, make_plan, summarise
from tests.inference.conftest import changed

COLUMNS = ("path", "subject", "prob_normal", "prob_blast", "decision", "reason", "quality")


@pytest.fixture
def cells(synthetic_run: Path, tmp_path: Path) -> Path:
    """A folder with 24 synthetic cells in one sub-folder per subject, and one file that is not an image."""
    folder = tmp_path / "cells"
    for path in sorted((synthetic_run / "synthetic").rglob("*.png"))[::6][:24]:
        target = folder / path.name.partition("_")[0]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (folder / "empty.png").write_bytes(b"")
    return folder


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["predict", *map(str, arguments)])


def digest(rows: list[dict[str, Any]]) -> str:
    """Return one hash of all answers, whatever their order: numbers as predictions.csv writes them."""
    lines = sorted("\t".join("" if row[name] is None else str(row[name]) for name in COLUMNS) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def answers(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "cells").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def on_one_machine(images: Path, bundle: Bundle, csv: Path) -> list[dict[str, Any]]:
    predict(images, "--model", bundle.path, "-o", csv)
    return [dict(row) for row in read_csv(csv)]


def answer_all(plan: Any, *, numbers: slice = slice(None)) -> Counts:
    predictor = load_planned(plan)
    return sum((answer_shard(plan, shard, predictor, threads=2) for shard in plan.shards()[numbers]), Counts())


def test_shards_answer_what_one_machine_answers(cells: Path, single: Bundle, tmp_path: Path) -> None:
    plan = make_plan([str(cells)], str(tmp_path / "out"), single, point="balanced", size=7)
    counts = answer_all(plan)
    summarise(plan, counts)
    assert [shard.stop - shard.start for shard in plan.shards()] == [7, 7, 7, 4]
    assert digest(answers(tmp_path / "out")) == digest(on_one_machine(cells, single, tmp_path / "one.csv"))
    assert read_json(tmp_path / "out" / "summary.json")["images"] == 25 == counts.images
    assert counts.unreadable == 1


def test_a_second_call_goes_on_and_makes_no_finished_shard_again(cells: Path, single: Bundle, tmp_path: Path) -> None:
    ask = {"out": str(tmp_path / "out"), "bundle": single, "point": "balanced", "size": 10}
    plan = make_plan([str(cells)], **ask)
    answer_all(plan, numbers=slice(2))
    (cells / "later.png").write_bytes(b"")  # what came after the plan was made is not in it
    again = make_plan([str(cells)], **ask)
    assert again == plan
    assert sorted(finished(again)) == [0, 1]
    with pytest.raises(DataError, match="20 rows for 25 images"):
        summarise(plan, sum(finished(plan).values(), Counts()))
    Path(plan.path_of(plan.shards()[1])).write_bytes(b"half")
    assert sorted(finished(again)) == [0]
    answer_all(plan)
    assert len({row["path"] for row in answers(tmp_path / "out")}) == len(answers(tmp_path / "out")) == 25
    other = changed(single, tmp_path / "other", name="another model")
    with pytest.raises(UsageError, match="other images, or by another model"):
        make_plan([str(cells)], **ask | {"bundle": other})


def test_images_and_answers_may_lie_in_a_store_of_objects(cells: Path, single: Bundle, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(cells), "/archive/cells", recursive=True)
    plan = make_plan(["memory://archive/cells"], "memory://archive/out", single, point="balanced", size=10)
    answer_all(plan)
    store.get("/archive/out", str(tmp_path / "out"), recursive=True)
    rows = answers(tmp_path / "out")
    assert rows[-1]["path"].startswith("memory://archive/cells/")
    for row in rows:
        row["path"] = row["path"].replace("memory://archive/cells", str(cells))
    assert digest(rows) == digest(on_one_machine(cells, single, tmp_path / "one.csv"))
    store.rm("/archive", recursive=True)


def test_a_table_of_paths_is_cut_without_being_copied(cells: Path, single: Bundle, tmp_path: Path) -> None:
    import pyarrow as pa

    paths = [str(path.relative_to(cells)) for path in sorted(cells.rglob("P*.png"))]
    table = cells / "images.parquet"
    pq.write_table(pa.table({"path": paths}), table, row_group_size=5)
    plan = make_plan([str(table)], str(tmp_path / "out"), single, point="balanced", size=7)
    answer_all(plan)
    assert [row["path"] for row in answers(tmp_path / "out")] == paths
    assert not (tmp_path / "out" / "inputs.parquet").exists()
    pq.write_table(pa.table({"file": paths}), table)
    with pytest.raises(DataError, match="lacks the column path"):
        make_plan([str(table)], str(tmp_path / "two"), single, point="balanced")


def test_a_missing_engine_names_the_extra_and_what_it_cannot_do_is_refused(cells: Path, single: Bundle) -> None:
    with pytest.raises(MissingExtraError, match=r"leukoscope\[cluster\]"):
        require("ray_that_is_not_there", feature="--engine ray", extra="cluster")
    blocked = "import sys; sys.modules['ray'] = None\nfrom leukoscope.cli import main\nmain()"
    call = ["predict", str(cells), "--model", str(single.path), "--engine", "ray", "-o", "out"]
    ended = subprocess.run([sys.executable, "-c", blocked, *call], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "leukoscope[cluster]" in ended.stderr
    refused = predict(cells, "--model", single.path, "--engine", "ray", "-o", "out", "--html", "page.html")
    assert isinstance(refused.exception, UsageError)
    assert "Leave out --html" in str(refused.exception)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_nothing_and_repeat_nothing(
    cells: Path, single: Bundle, tmp_path: Path
) -> None:
    """Two workers on loopback: one is killed at its first shard, the driver later; a second call finishes."""
    table, out = tmp_path / "many.csv", tmp_path / "out"
    images = sorted(cells.rglob("P*.png"))
    listed = [{"path": link(images[number % len(images)], number), "subject": "S"} for number in range(600)]
    write_csv(table, listed, columns=("path", "subject"))
    plan = make_plan([str(table)], str(out), single, point="balanced", size=20)
    driver = start(table, single, out)
    wait_for(out, 1, driver)
    os.kill(workers(driver.pid)[0], signal.SIGKILL)
    wait_for(out, 8, driver)
    driver.kill()
    driver.communicate(timeout=60)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("part-*")}
    last = start(table, single, out)
    _, told = last.communicate(timeout=300)
    assert last.returncode == 0, told
    assert "Resuming" in told
    rows = answers(out)
    assert len(rows) == len({row["path"] for row in rows}) == 600 == plan.images
    assert digest(rows) == digest(on_one_machine(table, single, tmp_path / "one.csv"))
    assert all((out / "cells" / name).stat().st_mtime_ns == when for name, when in kept.items())
    assert len(list((out / "cells").iterdir())) == 30


def link(image: Path, number: int) -> Path:
    path = image.with_name(f"{number}-{image.name}")
    os.link(image, path)
    return path


def start(table: Path, bundle: Bundle, out: Path) -> "subprocess.Popen[str]":
    call = ["predict", str(table), "--model", str(bundle.path), "--engine", "ray", "--workers", "2", "-o", str(out)]
    code = "import ray; real = ray.init; ray.init = lambda **given: real(**given, num_cpus=2)\n"
    code += "from leukoscope.cli import main; main()"  # two workers, however few cores there are
    return subprocess.Popen([sys.executable, "-c", code, *call], stderr=subprocess.PIPE, text=True)


def wait_for(out: Path, shards: int, driver: "subprocess.Popen[str]") -> None:
    while len(list((out / "cells").glob("part-*"))) < shards:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)


def workers(driver: int) -> list[int]:
    """Return the processes under the driver that answer shards."""
    found, look = [], [driver]
    while look:
        pid = look.pop()
        children = Path(f"/proc/{pid}/task/{pid}/children")
        if not children.exists():
            pytest.skip("this system does not list the children of a process under /proc")
        for child in map(int, children.read_text().split()):
            name = Path(f"/proc/{child}/cmdline").read_bytes()
            found += [child] if b"ray::MapWorker" in name else []
            look.append(child)
    return found
