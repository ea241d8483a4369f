"""Index, hash and audit of release-size files beside sha256sum, and how the search for near duplicates grows.

    python benchmarks/audit.py [--files 3000] [--rounds 3] [--cells 15000 150000]

Files: 450 px BMPs of 608 KB, as in the C-NMC release, made of painted cells in a temporary folder; 15,000 of them are
9 GB, of 3,000 the time per file is the same (every file is looked at by itself) and everything stays in memory's cache
of files, on both sides. Each round reads all of them with `sha256sum` (xargs, one process per core) and with leukoscope
(index, which hashes, then audit), in turn, in processes of their own. Printed: medians of seconds and of processor
seconds, and leukoscope's speed as a share of sha256sum's.

Near duplicates: thumbnails drawn with the mean and the covariance of painted ones, one in a hundred a copy of another
with noise. Printed: processor seconds for each number of cells, and the ratio.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from leukoscope.data.audit import Traits, measure_traits, near_duplicates
from leukoscope.data.cells import Cell
from leukoscope.data.painted import paint

OURS = """
import sys
from pathlib import Path
from leukoscope.data.audit import audit, measure_traits
from leukoscope.data.index import index
cells = index(Path(sys.argv[1])).cells
print(len(cells), audit(cells, measure_traits(cells))["exact_duplicates"]["pairs"])
"""
NOTHING = "import leukoscope.data.audit, leukoscope.data.index"
SIDE = 450  # pixels, as in the release


def write_files(folder: Path, *, count: int) -> list[Cell]:
    """Write `count` BMPs of painted cells, enlarged to the size that they have in the release; no two are the same."""
    cells = paint(folder.with_name("painted"), count=480)
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        cell = Image.open(cells[number % len(cells)].path).rotate(float(rng.uniform(0, 360)))
        field = Image.new("RGB", (SIDE, SIDE))
        field.paste(cell.resize((2 * cell.width, 2 * cell.height)), (65, 65))
        field.save(folder / f"{cells[number % len(cells)].subject}_{number:05d}.bmp")
    return cells


def run(*command: str) -> tuple[float, float]:
    """Return seconds and processor seconds of a command and what it starts."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare_with_sha256sum(folder: Path, *, rounds: int) -> None:
    """Print both sides and the ratio; starting Python and its imports are shown, and taken off per-file figures."""
    count, cores = len(list(folder.iterdir())), os.cpu_count() or 1
    peer = ("sh", "-c", f"find '{folder}' -type f -print0 | xargs -0 -n 64 -P {cores} sha256sum")
    sides = {"sha256sum": peer, "leukoscope": (sys.executable, "-c", OURS, str(folder)),
             "  its imports": (sys.executable, "-c", NOTHING)}  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            times[name].append(run(*command))
    print(f"{count:,} files of {SIDE} px, {cores} cores, median of {rounds} rounds")
    middle = {name: [statistics.median(each) for each in zip(*rows, strict=True)] for name, rows in times.items()}
    for name, (seconds, used) in middle.items():
        print(f"  {name:<14} {seconds:7.2f} s  {used:7.2f} s of processor  {1000 * used / count:6.2f} ms a file")
    ours, theirs, imports = (middle[name] for name in ("leukoscope", "sha256sum", "  its imports"))
    print(f"  speed as a share of sha256sum's: {theirs[0] / ours[0]:.2f}, in processor time {theirs[1] / ours[1]:.2f}")
    print(
        f"  without imports, which many files pay for once: {theirs[1] / (ours[1] - imports[1]):.2f} in processor time"
    )


def growth(painted: list[Cell], counts: list[int]) -> None:
    """Print processor seconds of the search for near duplicates, for each number of cells."""
    thumbnails = measure_traits(painted).thumbnails.astype(np.float64)
    rng, first = np.random.default_rng(0), 0.0
    for count in counts:
        drawn = rng.multivariate_normal(thumbnails.mean(axis=0), np.cov(thumbnails.T), size=count, method="eigh")
        copies = rng.choice(count, size=count // 100, replace=False)
        drawn[copies] = drawn[copies[::-1]] + rng.normal(0, 1, drawn[copies].shape)
        cells = [
            Cell(Path(f"{n}.bmp"), "", f"S{n % 100}", "", "painted", f"{n}", f"{n}", SIDE, SIDE) for n in range(count)
        ]
        traits = Traits(
            np.ones(count), np.ones((count, 3)), np.full((count, 2), 0.5), drawn.clip(0, 255).astype(np.float32), {}
        )
        start, used = time.perf_counter(), time.process_time()
        pairs = near_duplicates(cells, traits)
        used = time.process_time() - used
        first = first or used
        print(
            f"  {count:9,} cells: {len(pairs):8,} pairs, {time.perf_counter() - start:7.2f} s, "
            f"{used:7.2f} s of processor, {used / first:5.1f} times the first",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, nargs="*", default=[15_000, 150_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        painted = write_files(Path(name) / "files", count=asked.files)
        compare_with_sha256sum(Path(name) / "files", rounds=asked.rounds)
        print("Search for near duplicates")
        growth(painted, asked.cells)


if __name__ == "__main__":
    main()
