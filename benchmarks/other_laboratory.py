"""From the fields of another laboratory, through cells and a bundle, to malignant against benign by field.

    python benchmarks/other_laboratory.py ../shared/data/all-fields                       # the shipped bundle
    python benchmarks/other_laboratory.py ../shared/data/all-fields --bundle models/x --every 4 --json table.json

Prints one table: for every way to bring the fields over, the AUROC of a field's mean blast probability (95 % bootstrap
over fields) with all its whole cells, and with those alone that the bundle does not refuse, and the share refused in
each class. The first row squeezes whole fields in, as published scripts do. Evaluation only: the licence of these
fields is not established, and neighbours in number are probably one patient, so the intervals are too narrow.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from leukoscope.bundle.manifest import REFUSED
from leukoscope.errors import ImageError
from leukoscope.fields.cells import Field, FieldCell, find_cells, open_field
from leukoscope.fields.crops import cut_crop
from leukoscope.fields.scale import common_scale
from leukoscope.fields.stain import StainStatistics, measure, normaliser, sample_crops
from leukoscope.inference.fields import NOT_JUDGED, stain_of
from leukoscope.inference.predictor import Predictor, load
from leukoscope.progress import in_parallel

CLASSES = ("Benign", "Early", "Pre", "Pro")
Crop = NDArray[np.uint8]


@dataclass(frozen=True)
class Way:
    """How cells are brought over."""

    name: str
    scale: bool
    """To the training cells' scale; else the camera's pixels stay."""
    stain: str
    shared: bool = False
    """The stain is measured on all fields together, not on each."""


WAYS = (
    Way("cells as they are", scale=False, stain="none"),
    Way("scale", scale=True, stain="none"),
    Way("scale, each field's stain by Reinhard", scale=True, stain="reinhard"),
    Way("scale, each field's stain by Macenko", scale=True, stain="macenko"),
    Way("scale, one stain by Reinhard", scale=True, stain="reinhard", shared=True),
    Way("scale, one stain by Macenko (the default)", scale=True, stain="macenko", shared=True),
)
_PER_FIELD = 20  # cells that a field gives to the shared stain


@dataclass(frozen=True)
class Seen:
    """A field's class, and its whole cells: one scale for all, as all come from one microscope."""

    kind: str
    field: Field
    cells: list[FieldCell]


def whole_cells(folder: Path, *, every: int) -> list[Seen]:
    """Return the whole cells of every n-th field."""
    paths = [(kind, path) for kind in CLASSES for path in sorted((folder / kind).glob("*.jpg"))[::every]]
    opened = [(kind, field) for kind, field in in_parallel(_open, paths) if field is not None]
    scale = common_scale([field.scale for _, field in opened])

    def find(one: tuple[str, Field]) -> Seen:
        field = replace(one[1], scale=scale)
        return Seen(one[0], field, [cell for cell in find_cells(field) if not NOT_JUDGED.keys() & set(cell.flags)])

    seen = list(in_parallel(find, opened))
    with_cells = sum(bool(each.cells) for each in seen)
    print(f"{len(opened)} fields of {len(paths)} used, {with_cells} with whole cells, {scale}\n")
    return seen


def _open(one: tuple[str, Path]) -> tuple[str, Field | None]:
    try:
        return one[0], open_field(one[1])
    except ImageError as problem:
        print(problem)
        return one[0], None


@dataclass(frozen=True)
class Judged:
    """Probability of blast for each cell of a field, and whether the bundle refuses it."""

    kind: str
    probability: NDArray[np.float64]
    refused: NDArray[np.bool_]


def ask(predictor: Predictor, kind: str, crops: list[Crop]) -> Judged:
    """Ask a bundle through the one Predictor; probabilities also of what it refuses."""
    refused = [predictor.opinion(crop).decision == REFUSED for crop in crops]
    chances = [float(predictor.outputs([crop]).probabilities[0, 1]) for crop in crops]
    return Judged(kind, np.array(chances), np.array(refused, dtype=bool))


def shared_stain(seen: list[Seen]) -> StainStatistics | None:
    """Return the stain of all fields together."""
    some = (cut_crop(one.field, cell) for one in seen for cell in one.cells[:_PER_FIELD])
    return measure(sample_crops(some))


def crops_of(seen: Seen, way: Way, predictor: Predictor, *, shared: StainStatistics | None) -> list[Crop]:
    """Cut the cells of a field out in one of the ways."""
    scale = {} if way.scale else {"um_per_px": seen.field.scale.um_per_px}
    crops = [cut_crop(seen.field, cell, **scale) for cell in seen.cells]
    source = shared if way.shared else measure(sample_crops(crops))
    stain = normaliser(way.stain, source, target=stain_of(predictor.manifest))
    return [stain(crop) for crop in crops]


def table(seen: list[Seen], predictor: Predictor) -> Iterator[dict[str, Any]]:
    """Yield one row for each way."""
    yield row("whole fields squeezed in", in_parallel(lambda one: ask(predictor, one.kind, [one.field.pixels]), seen))
    shared = shared_stain(seen)
    for way in WAYS:

        def judged(one: Seen, way: Way = way) -> Judged:
            return ask(predictor, one.kind, crops_of(one, way, predictor, shared=shared))

        yield row(way.name, in_parallel(judged, (one for one in seen if one.cells)))


def row(name: str, judged: Iterator[Judged]) -> dict[str, Any]:
    """Return what one way achieves."""
    fields = list(judged)
    kept = [one for one in fields if not one.refused.all()]
    return {
        "way": name,
        "all": auroc([one.kind for one in fields], [float(one.probability.mean()) for one in fields]),
        "not_refused": auroc([one.kind for one in kept], [float(one.probability[~one.refused].mean()) for one in kept]),
        "refused": {
            kind: float(np.concatenate([one.refused for one in fields if one.kind == kind]).mean()) for kind in CLASSES
        },
    }


def auroc(kinds: list[str], scores: list[float]) -> dict[str, float]:
    """Return the AUROC of malignant against benign fields, its bootstrap interval, and that of each class."""
    names, values = np.array(kinds), np.array(scores)
    truth = names != "Benign"
    if len(set(truth.tolist())) < 2:
        return {"fields": len(truth)}
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(1000):
        chosen = rng.integers(0, len(truth), len(truth))
        if 0 < truth[chosen].sum() < len(chosen):
            draws.append(roc_auc_score(truth[chosen], values[chosen]))
    low, high = np.percentile(draws, (2.5, 97.5))
    each = {
        kind: float(roc_auc_score(truth[here], values[here]))
        for kind in CLASSES[1:]
        if (here := np.isin(names, ("Benign", kind))).sum() > (~truth).sum()
    }
    return {"fields": len(truth), "value": float(roc_auc_score(truth, values)), "low": low, "high": high} | each


def words(figures: dict[str, float]) -> str:
    """Return an AUROC as a cell of the table."""
    if "value" not in figures:
        return f"one class only ({figures['fields']} fields)"
    return f"{figures['value']:.3f} ({figures['low']:.3f} to {figures['high']:.3f}), {figures['fields']} fields"


def main() -> None:
    """Measure a bundle; without one, the bundle that is shipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    predictor = load(options.bundle)
    rows = []
    seen = whole_cells(options.folder, every=options.every)
    print(f"{predictor.manifest.name}, {predictor.manifest.seal[:12]}\n")
    print(f"| way | AUROC, all whole cells | AUROC, cells not refused | {' | '.join(CLASSES)} refused |")
    print("|---" * (3 + len(CLASSES)) + "|")
    for each in table(seen, predictor):
        rows.append(each)
        refused = " | ".join(f"{share:.2f}" for share in each["refused"].values())
        print(f"| {each['way']} | {words(each['all'])} | {words(each['not_refused'])} | {refused} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
