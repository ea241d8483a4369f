"""Index, hash and audit of release-size files beside sha256sum, and how the search for near duplicates grows.

    python benchmarks/audit.py [--files 3000] [--rounds 3] [--cells 15000 150000]

Files: 450 px BMPs of 608 KB, as in the C-NMC release, made of synthetic cells in a temporary folder; 15,000 of them are
9 GB, of 3,000 the time per file is the same (every file is looked at by itself) and everything stays in memory's cache
of files, on both sides. Each round reads all of them with `sha256sum` (xargs, one process per core) and with leukoscope
(index, which hashes, then audit), in turn, in processes of their own. Printed: medians of seconds and of processor
seconds, and leukoscope's speed as a share of sha256sum's.

Near duplicates: thumbnails and sizes drawn with the mean and the covariance of synthetic ones, one in a hundred a copy
of another with noise, all of which must be found. Printed: processor seconds for each number of cells, and the ratio.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from board import SIDE, Chart, Spent, median, publish, ratio, spent, write_files
from numpy.typing import NDArray

from leukoscope.data.audit import CellTraits, measure_traits, near_duplicates
from leukoscope.data.cells import Cell
from leukoscope.data.synthetic import SOURCE, draw_cells

OURS = """
import sys
from pathlib import Path
from leukoscope.data.audit import audit, measure_traits
from leukoscope.data.index import index
cells = index(Path(sys.argv[1])).cells
print(len(cells), audit(cells, measure_traits(cells))["exact_duplicates"]["pairs"])
"""
NOTHING = "import leukoscope.data.audit, leukoscope.data.index"


def compare_with_sha256sum(folder: Path, *, rounds: int) -> dict[str, Spent]:
    """Return the medians of both sides in turn, in processes of their own, and of starting Python."""
    cores = os.cpu_count() or 1
    peer = ("sh", "-c", f"find '{folder}' -type f -print0 | xargs -0 -n 64 -P {cores} sha256sum")
    sides = {
        "leukoscope": (sys.executable, "-c", OURS, str(folder)),
        "sha256sum": peer,
        "its imports": (sys.executable, "-c", NOTHING),
    }
    times: dict[str, list[Spent]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            run = spent(lambda command=command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
            times[name].append(run[1])
    return {name: median(each) for name, each in times.items()}


def growth(synthetic: list[Cell], counts: list[int]) -> dict[int, float]:
    """Return processor seconds of the search for near duplicates, for each number of cells."""
    traits = measure_traits(synthetic)
    seen = np.hstack([traits.thumbnails, np.log(traits.sides)])
    rng, seconds = np.random.default_rng(0), {}
    for count in counts:
        drawn = rng.multivariate_normal(seen.mean(axis=0), np.cov(seen.T), size=count, method="eigh")
        copies, originals = rng.permutation(count)[: count // 100 * 2].reshape(2, -1)
        drawn[copies] = drawn[originals]
        drawn[copies, :-2] += rng.normal(0, 1, (len(copies), seen.shape[1] - 2))
        seconds[count] = search(drawn[:, :-2].clip(0, 255).astype(np.float32), np.exp(drawn[:, -2:]), least=len(copies))
    return seconds


def search(thumbnails: NDArray[np.float32], sides: NDArray[np.float64], *, least: int) -> float:
    """Return processor seconds of one search; it must find at least the copies that were put in."""
    count = len(sides)
    cells = [Cell(Path(f"{n}.bmp"), "", f"S{n % 100}", "", SOURCE, f"{n}", f"{n}", SIDE, SIDE) for n in range(count)]
    used = time.process_time()
    found = near_duplicates(cells, CellTraits(np.ones(count), np.ones((count, 3)), sides, thumbnails, {}))
    used = time.process_time() - used
    if len(found) < least:
        raise SystemExit(f"{len(found)} pairs found among {count} cells, of which {least} are copies.")
    return used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, nargs="*", default=[15_000, 150_000])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name) / "files", count=asked.files)
        middle = compare_with_sha256sum(Path(name) / "files", rounds=asked.rounds)
        grown = growth(draw_cells(Path(name) / "synthetic", count=480), asked.cells)
    write(middle, grown, files=asked.files, rounds=asked.rounds)


def write(middle: dict[str, Spent], grown: dict[int, float], *, files: int, rounds: int) -> None:
    ours, theirs, imports = (middle[name] for name in ("leukoscope", "sha256sum", "its imports"))
    beyond = theirs.processor / (ours.processor - imports.processor)
    first, last = min(grown), max(grown)
    publish(
        "audit",
        title="Index, hash and audit beside sha256sum",
        about=f"{files:,} BMPs of {SIDE} px (608 KB), medians of {rounds} rounds, in turn, on all cores.",
        columns=["", "seconds", "processor ms a file", "speed as a share of sha256sum's", "… in processor time"],
        rows=[
            [
                name,
                f"{each.seconds:.2f}",
                f"{1000 * each.processor / files:.2f}",
                ratio(theirs.seconds, each.seconds),
                ratio(theirs.processor, each.processor),
            ]
            for name, each in (("leukoscope", ours), ("sha256sum", theirs))
        ],
        chart=Chart(
            {f"{name}": 1000 * middle[name].processor / files for name in ("leukoscope", "sha256sum")},
            "processor ms a file",
        ),
        notes=f"Without starting Python, which many files pay for once: {beyond:.2f} in processor time.\n\n"
        f"Search for near duplicates: {grown[first]:.2f} s of processor for {first:,} cells, {grown[last]:.2f} s for "
        f"{last:,}: {grown[last] / grown[first]:.1f} times as much.",
    )


if __name__ == "__main__":
    main()
