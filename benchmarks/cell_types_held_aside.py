"""What was held aside when the network of cell types was trained, and how many cells of each type are found.

    python benchmarks/cell_types_held_aside.py tables                     # confusion, from the shipped bundle
    python benchmarks/cell_types_held_aside.py found ../shared/data/pbc   # recall and precision of finding, by type

`benchmarks/cell_types.py` measures the whole way through `predict`, of which the network has seen most cells.

Intervals are Wilson's, at 95 %.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from leukoscope.bundle.manifest import TYPES, open_bundle
from leukoscope.errors import ImageError
from leukoscope.fields.cells import find_cells
from leukoscope.fields.extraction import SharedScales


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("what", choices=("tables", "found"))
    ask.add_argument("data", type=Path, nargs="?")
    ask.add_argument("--every", type=int, default=1)
    asked = ask.parse_args()
    if asked.what == "tables":
        tables()
    else:
        found(asked.data, every=asked.every)


def wilson(hits: int, of: int, z: float = 1.96) -> str:
    """Return a share with its interval, in words."""
    if not of:
        return "–"
    share = hits / of
    middle, reach = share + z**2 / (2 * of), z * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    low, high = ((middle + sign * reach) / (1 + z**2 / of) for sign in (-1, 1))
    return f"{share:.2f} ({low:.2f} to {high:.2f})"


def tables() -> None:
    """Print, for each kind of test, the confusion matrix as Markdown."""
    entry = open_bundle().manifest.types
    for name, counts in entry.figures.items():
        matrix = np.array(counts)
        print(f"\n### {name}\n\n| is | {' | '.join((*TYPES, 'unsure'))} | right |")
        print("|---" * (len(TYPES) + 3) + "|")
        for number, kind in enumerate(TYPES):
            row = matrix[number]
            if row.sum():
                print(f"| {kind} | {' | '.join(map(str, row))} | {wilson(row[number], row.sum())} |")
        mature = matrix[:4]
        if mature.sum():
            print(f"\nMature cells taken for lymphoid: {wilson(mature[:, 4].sum(), mature.sum())}.")


def found(data: Path, *, every: int) -> None:
    """Print recall and precision of finding the one cell of each field of PBC, by type."""
    with (data / "cells.csv").open(encoding="utf-8") as file:
        kinds = {data / row["file"]: row["class"] for row in csv.DictReader(file)}
    for kind in sorted(set(kinds.values())):
        paths = [path for path in kinds if kinds[path] == kind][::every]
        scales, hits, total = SharedScales(paths), 0, 0
        for path in paths:
            try:
                field = scales.open(path)
            except ImageError:
                continue
            height, width = field.pixels.shape[:2]
            boxes = [cell.box for cell in find_cells(field)]
            inside = [a - 4 <= width / 2 <= c + 4 and b - 4 <= height / 2 <= d + 4 for a, b, c, d in boxes]
            hits, total = hits + any(inside), total + len(boxes)
        print(f"{kind}: recall {wilson(hits, len(paths))}, precision {wilson(hits, total)}", flush=True)


if __name__ == "__main__":
    main()
