"""From the fields of another laboratory, through cells and a bundle, to malignant against benign by field.

    python benchmarks/other_laboratory.py ../shared/data/all-fields --bundle runs/x/model --every 4

For each way to bring the stain over: AUROC of the mean blast probability of a field's whole cells (95 % bootstrap over
fields), with and without the cells that the bundle refuses, and the share refused in each class. Evaluation only: the
licence of these fields is not established, and neighbours in number are probably one patient.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from leukoscope.errors import ImageError
from leukoscope.fields.cells import Field, FieldCell, find_cells, open_field
from leukoscope.fields.crops import cut_crop
from leukoscope.fields.extraction import field_normaliser
from leukoscope.fields.scale import common_scale
from leukoscope.inference.opinion import REFUSED
from leukoscope.inference.predictor import load

CLASSES = ("Benign", "Early", "Pre", "Pro")
Crops = Sequence[NDArray[np.uint8]]
# crops -> probability of blast for each, and whether the model refuses it
Judge = Callable[[Crops], tuple[NDArray[np.float64], NDArray[np.bool_]]]


def whole_cells(folder: Path, *, every: int) -> list[tuple[str, Field, list[FieldCell]]]:
    """Return class, field and whole cells of every n-th field, all at one scale: they come from one microscope."""
    paths = [(kind, path) for kind in CLASSES for path in sorted((folder / kind).glob("*.jpg"))[::every]]
    opened: list[tuple[str, Field]] = []
    for kind, path in paths:
        try:
            opened.append((kind, open_field(path)))
        except ImageError as problem:
            print(problem)
    scale = common_scale([field.scale for _, field in opened])
    print(f"{len(opened)} fields of {len(paths)}, {scale}")
    placed = [(kind, Field(field.name, field.pixels, field.stain, scale)) for kind, field in opened]
    bad = {"cut off", "ragged", "too large"}
    return [(kind, field, [c for c in find_cells(field) if not bad & set(c.flags)]) for kind, field in placed]


def bundle_judge(path: Path | None) -> Judge:
    """Return what asks a bundle through the one Predictor."""
    predictor = load(path)
    positive = predictor.classes[1]

    def judge(crops: Crops) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        opinions = predictor.predict(list(crops))
        refused = np.array([opinion.decision == REFUSED for opinion in opinions], dtype=bool)
        outputs = predictor.outputs(list(crops)).probabilities
        return np.asarray(outputs)[:, predictor.classes.index(positive)], refused

    return judge


def report(found: list[tuple[str, Field, list[FieldCell]]], judge: Judge) -> None:
    """Print one table for each way to bring the stain over."""
    for method in ("none", "reinhard", "macenko"):
        truth, scores, kept = [], [], []
        refusals: dict[str, list[bool]] = {kind: [] for kind in CLASSES}
        for kind, field, cells in found:
            if not cells:
                continue
            stain = field_normaliser(field, cells, method=method)
            probability, refused = judge([stain(cut_crop(field, cell)) for cell in cells])
            refusals[kind] += refused.tolist()
            truth.append(kind != "Benign")
            scores.append(float(probability.mean()))
            kept.append(float(probability[~refused].mean()) if (~refused).any() else float("nan"))
        print(f"stain {method}: {_auroc(np.array(truth), np.array(scores), 'all cells')}")
        print(f"  {_auroc(np.array(truth), np.array(kept), 'not refused')}")
        print("  refused: " + ", ".join(f"{kind} {np.mean(refusals[kind]):.2f}" for kind in CLASSES), flush=True)


def _auroc(truth: NDArray[np.bool_], scores: NDArray[np.float64], what: str) -> str:
    there = ~np.isnan(scores)
    truth, scores = truth[there], scores[there]
    if len(set(truth.tolist())) < 2:
        return f"{what}: one class only"
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(1000):
        chosen = rng.integers(0, len(truth), len(truth))
        if 0 < truth[chosen].sum() < len(chosen):
            draws.append(roc_auc_score(truth[chosen], scores[chosen]))
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{what}: AUROC {roc_auc_score(truth, scores):.3f} [{low:.3f}, {high:.3f}] over {len(truth)} fields"


def main() -> None:
    """Measure a bundle; without one, the bundle that is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    cv2.setNumThreads(2)
    report(whole_cells(options.folder, every=options.every), bundle_judge(options.bundle))


if __name__ == "__main__":
    main()
