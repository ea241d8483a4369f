"""Peak memory of training against the number of images: it must not grow with them.

python benchmarks/memory.py [--counts 600 5000 15114] [--size 128]

Each row trains seed-cnn for one epoch in a process of its own, from a pack of random crops, and prints the peak that
the operating system counted for it, and the ratio to the first row.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from board import Chart, publish

from leukoscope.config import Experiment
from leukoscope.data.cells import Cell, cells_fingerprint, write_cells
from leukoscope.data.split import make_split, write_split
from leukoscope.files import write_json

_SUBJECTS = 24


def prepare(run: Path, *, count: int, size: int) -> None:
    """Write a run folder that is ready to train: table, split, and a pack of random crops."""
    cells = [
        Cell(
            run / f"{number}.png",
            ("normal", "blast")[number % 2],
            f"S{number % _SUBJECTS}",
            "",
            "synthetic",
            f"{number}.png",
            f"{number:064x}",
            size,
            size,
        )
        for number in range(count)
    ]
    settings = Experiment.of(
        {"prepare": {"view": "frame", "size": size}, "split": {"scheme": "holdout"}, "train": {"epochs": 1}}
    )
    write_cells(run / "cells.csv", cells)
    write_split(run / "split.json", make_split(cells, settings.split, seed=0))
    settings.write(run / "config.toml")
    (run / "pack").mkdir()
    shape = (count, size, size, 3)
    crops = np.lib.format.open_memmap(run / "pack" / "crops.npy", mode="w+", dtype=np.uint8, shape=shape)
    rng = np.random.default_rng(0)
    for row in range(count):
        crops[row] = rng.integers(0, 255, shape[1:], dtype=np.uint8)
    facts = {"rows": [cell.name for cell in cells], "prepare": settings.prepare.model_dump(mode="json")}
    write_json(run / "pack" / "pack.json", facts | {"cells": cells_fingerprint(cells)})


def peak_of_training(run: Path) -> float:
    """Train in a process of its own; return its peak resident memory in MiB."""
    code = (
        "import resource, sys; from pathlib import Path; from leukoscope.training.loop import train;"
        "train(Path(sys.argv[1])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[600, 5_000, 15_114])
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    peaks: dict[int, float] = {}
    for count in args.counts:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), count=count, size=args.size)
            peaks[count] = peak_of_training(Path(folder))
    first = next(iter(peaks.values()))
    publish(
        "memory",
        title="Peak memory of training",
        about=f"seed-cnn at {args.size} px for one epoch, each row in a process of its own; the peak that the "
        "operating system counted for it. The paper stopped at 600 images because memory ended.",
        columns=["images", "peak MiB", "ratio"],
        rows=[[f"{count:,}", f"{peak:.0f}", f"{peak / first:.3f}"] for count, peak in peaks.items()],
        chart=Chart({str(count): peak for count, peak in peaks.items()}, "peak MiB", x="images"),
    )


if __name__ == "__main__":
    main()
