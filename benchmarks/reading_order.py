"""Does it matter in which order cells are read before a head is adapted to them? Orders against reading at random.

    python benchmarks/reading_order.py DATA    # the folder that holds cnmc/

A head that has learned from fold_1 of C-NMC 2019 is adapted to cells of half of the other subjects of fold_0, and
judged on the other half; up to 40 cells of each subject, 12 random halves. Prints differences from reading at random,
with the standard error over the halves, which are not independent: it is too small.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from leukoscope.adaptation import Head, _solve
from leukoscope.bundle.manifest import open_bundle
from leukoscope.images.crop import prepare_crop
from leukoscope.images.read import read_image
from leukoscope.inference.predictor import Predictor
from leukoscope.server.worklist import _OpenCells, _order

EACH, HALVES, COUNTS, STRENGTH = 40, 12, (30, 60, 120), 0.003
NAMES = ("AUROC", "balanced accuracy", "Brier score")


@dataclass(frozen=True)
class Cells:
    """Embeddings (cells, channels), whether each cell is a blast, its subject group, and whether it is of fold_0."""

    points: NDArray[np.float32]
    blast: NDArray[np.int64]
    group: NDArray[np.str_]
    asked: NDArray[np.bool_]


def look(data: Path) -> Cells:
    """Embed cells with the shipped network, which no cell of C-NMC has changed: only its head has learned from them."""
    predictor, root = Predictor(open_bundle()), data / "cnmc"
    prepare = predictor.manifest.members[0].prepare
    with (root / "cells.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] and row["part"] in ("fold_0", "fold_1")]
    taken: dict[str, int] = {}
    kept = []
    for place in np.random.default_rng(0).permutation(len(rows)):
        group = rows[place]["subject_group"]
        taken[group] = taken.get(group, 0) + 1
        if taken[group] <= EACH:
            kept.append(rows[place])
    crops = [prepare_crop(read_image(root / row["file"]), prepare)[None] for row in kept]
    points = np.concatenate([predictor.embeddings_of_crops(crop) for crop in crops])
    group = np.array([row["subject_group"] for row in kept])
    first = np.array([row["part"] == "fold_0" for row in kept])
    known = np.isin(group, group[~first])
    return Cells(points, np.array([row["label"].lower() == "all" for row in kept]).astype(int), group, first & ~known)


def base_head(cells: Cells) -> Head:
    """Return a head that has learned from fold_1 alone."""
    old = ~cells.asked
    middle, spread = cells.points[old].mean(0), cells.points[old].std(0) + 1e-6
    fitted = LogisticRegression(C=0.001, max_iter=2000, class_weight="balanced")
    fitted.fit((cells.points[old] - middle) / spread, cells.blast[old])
    weight = fitted.coef_ / spread
    return Head(weight, fitted.intercept_ - weight @ middle)


def orders(cells: Cells, pool: NDArray[np.int64], head: Head, rng: np.random.Generator) -> dict[str, list[int]]:
    """Return in which order the cells of a pool are read."""
    chance = head.raw(cells.points[pool][:, None])[:, 1]
    unit = cells.points[pool] / np.linalg.norm(cells.points[pool], axis=1, keepdims=True)
    doubt = np.clip(1 - abs(chance - 0.5) / 0.5, 0.01, 1).astype(np.float32)
    nothing = np.zeros(len(pool), int)
    asked = _OpenCells(list(range(len(pool))), nothing, nothing.astype(bool), doubt, unit.astype(np.float32))
    return {
        "random": rng.permutation(len(pool)).tolist(),
        "the room's": _order(asked, None),
        "least certain first": np.argsort(-doubt, kind="stable").tolist(),
    }


def judged(cells: Cells, head: Head, test: NDArray[np.int64]) -> tuple[float, float, float]:
    chance, blast = head.raw(cells.points[test][:, None])[:, 1], cells.blast[test]
    balanced = ((chance[blast == 1] >= 0.5).mean() + (chance[blast == 0] < 0.5).mean()) / 2
    return float(roc_auc_score(blast, chance)), float(balanced), float(np.mean((chance - blast) ** 2))


def main() -> None:
    cells = look(Path(sys.argv[1]))
    head, rows = base_head(cells), np.flatnonzero(cells.asked)
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for half in range(HALVES):
        rng = np.random.default_rng(half)
        read: set[str] = set()
        for blast in (0, 1):
            own = rng.permutation(np.unique(cells.group[rows][cells.blast[rows] == blast]))
            read.update(own[: len(own) // 2].tolist())
        mine = np.isin(cells.group[rows], sorted(read))
        pool, test = rows[mine], rows[~mine]
        for name, order in orders(cells, pool, head, rng).items():
            for count in COUNTS:
                chosen = pool[order[:count]]
                new = _solve(cells.points[chosen][:, None], cells.blast[chosen], head, STRENGTH)
                found.setdefault((name, count), []).append(judged(cells, new, test))
    print(f"{len(rows)} cells of {len(np.unique(cells.group[rows]))} subject groups to read and judge")
    for (name, count), figures in found.items():
        less = np.array(figures) - np.array(found["random", count])
        error = less.std(0, ddof=1) / len(less) ** 0.5
        told = ", ".join(
            f"{what} {value:.3f} ({each:+.3f} ± {spread:.3f})"
            for what, value, each, spread in zip(NAMES, np.mean(figures, 0), less.mean(0), error, strict=True)
        )
        print(f"{count:4} cells, {name}: {told}")


if __name__ == "__main__":
    main()
