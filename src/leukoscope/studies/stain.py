"""stain: how another stain, scale or laboratory affects a model trained with such changes and without."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import Prepare
from ..data.index import Layout
from ..errors import ImageError, require
from ..evaluation.metrics import Floats
from ..progress import track
from .material import (
    Change,
    Features,
    Fold,
    FrozenNetwork,
    Material,
    features_of,
    fit_and_predict,
    folds_by,
    load,
    open_frozen,
    restained,
)
from .study import (
    Bench,
    Figure,
    Number,
    Page,
    Section,
    Study,
    StudySize,
    Truth,
    beyond_chance,
    differences_of,
    dots,
    guessing,
    numbers_of,
    sampled,
    shown,
    signed,
)

PLAIN, VARIED = "trained on unchanged cells", "trained on changed cells too"
BENIGN = "Benign"
_EVERY = 10  # of the fields in a folder: they are many, and neighbours resemble each other


@dataclass(frozen=True)
class Appearance:
    """One change of stain or scale; the first is none."""

    name: str
    stain: tuple[float, float, float] = (1, 1, 1)
    zoom: float = 1

    @property
    def change(self) -> Change | None:
        """Return what happens to the crops."""
        return None if self.stain == (1, 1, 1) else restained(*self.stain)

    def prepare(self, size: int) -> Prepare:
        """Return a window that shows cells larger by `zoom`."""
        return Prepare(size=size, window=round(Prepare().window / self.zoom))


TESTED = (
    Appearance("as they are"),
    Appearance("paler stain (density x 0.7)", (0.7, 0.7, 0.7)),
    Appearance("darker stain (density x 1.4)", (1.4, 1.4, 1.4)),
    Appearance("redder stain (green, blue x 1.25)", (1, 1.25, 1.25)),
    Appearance("smaller (x 0.75)", zoom=0.75),
    Appearance("larger (x 1.33)", zoom=4 / 3),
)
# Milder than the changes that are tested, or of another kind: a head shall not just memorise these.
TRAINING = (
    TESTED[0],
    Appearance("paler, mildly", (0.85, 0.85, 0.85)),
    Appearance("darker, mildly", (1.2, 1.2, 1.2)),
    Appearance("bluer", (1.2, 1, 1)),
    Appearance("smaller, mildly", zoom=0.87),
    Appearance("larger, mildly", zoom=1.15),
)


def run(bench: Bench) -> Page:
    """Fit two heads, on unchanged and on changed cells, and test both under every change and on another laboratory."""
    frozen = open_frozen(bench)
    tested = {appearance.name: _features(frozen, appearance) for appearance in TESTED}
    training = {PLAIN: [tested[TESTED[0].name]]}
    training[VARIED] = [*training[PLAIN], *(_features(frozen, appearance) for appearance in TRAINING[1:])]
    found = _changes(frozen, tested, training)
    sections, numbers = [_section(found)], {"changes": found}
    if crossed := _cross(frozen, training):
        numbers["fields"] = crossed
        sections.append(_field_section(crossed))
    ran_on = frozen.ran_on() | ({} if crossed else {"Fields": "None were given: --fields FOLDER crosses over to them"})
    return Page(_answer(found, crossed), ran_on, sections, numbers)


def _features(frozen: FrozenNetwork, appearance: Appearance) -> Features:
    return frozen.features(
        appearance.name if appearance.change else "", appearance.change, appearance.prepare(frozen.bench.scale.size)
    )


def _changes(frozen: FrozenNetwork, tested: dict[str, Features], training: dict[str, list[Features]]) -> dict[str, Any]:
    """Return the numbers of both heads under every change, all on the same cells, split by subject."""
    arms = {
        f"{kind}: {appearance}": _answers(frozen, f"{kind}, {appearance}", tables, tested[appearance])
        for kind, tables in training.items()
        for appearance in tested
    }
    arms["majority class"] = [guessing(frozen.truth, classes=len(frozen.material.classes))]
    found, first = sampled(frozen.truth, arms), TESTED[0].name
    pairs = [
        (f"{kind}: {appearance}", f"{kind}: {first}")
        for kind in training
        for appearance in tested
        if appearance != first
    ]
    pairs += [(f"{VARIED}: {appearance}", f"{PLAIN}: {appearance}") for appearance in tested]
    return {"arms": numbers_of(found, list(arms)), "differences": differences_of(found, pairs)}


def _answers(frozen: FrozenNetwork, arm: str, training: Sequence[Features], tested: Features) -> list[Floats]:
    """Return the probabilities (cells, classes) of each seed; every training cell comes in all training appearances."""
    labels, classes = frozen.material.labels, len(frozen.material.classes)

    def predict(seed: int) -> list[list[float]]:
        chances = np.zeros((len(labels), classes))
        for train, test in folds_by(frozen.material.group_names, labels, seed=seed):
            chances[test] = _fit(training, frozen, (train, test), test=tested[test])
        rounded: list[list[float]] = chances.round(6).tolist()
        return rounded

    def kept(seed: int) -> list[list[float]]:
        settings = {"seed": seed, "weights": frozen.network.weights, "cells": frozen.material.key}
        found: list[list[float]] = frozen.bench.kept(f"{arm}, seed {seed}", settings, lambda: predict(seed))
        return found

    return [np.array(kept(seed)) for seed in frozen.bench.seeds]


def _fit(training: Sequence[Features], frozen: FrozenNetwork, fold: Fold, *, test: Features) -> Floats:
    train, labels = fold[0], frozen.material.labels
    table = np.concatenate([each[train] for each in training])
    known, everything = np.tile(labels[train], len(training)), np.arange(len(train) * len(training))
    return fit_and_predict(table, known, train=everything, test=test, classes=len(frozen.material.classes))


def _cross(frozen: FrozenNetwork, training: dict[str, list[Features]]) -> dict[str, Any]:
    """Test heads trained on all cells, and the shipped model, on cells of another laboratory's fields."""
    if frozen.bench.given.fields is None:
        return {}
    cells = _field_cells(frozen.bench, frozen.bench.given.fields)
    where = frozen.material.labels
    features = features_of(frozen.bench, cells, frozen.network, prepare=frozen.prepare)
    arms: dict[str, list[Floats]] = {}
    for kind, tables in training.items():
        rows = np.arange(len(where))
        arms[kind] = [_fit(tables, frozen, (rows, rows), test=features)]
    arms["the shipped model"] = [_shipped(frozen.bench, cells)]
    fields, first = np.unique([cell.name.rpartition("_")[0] for cell in cells.cells], return_index=True)
    of_field = np.searchsorted(fields, [cell.name.rpartition("_")[0] for cell in cells.cells])
    truth = Truth(
        (np.array([cells.cells[row].label for row in first]) != BENIGN).astype(np.int64),
        np.unique(cells.group_names[first], return_inverse=True)[1].astype(np.int64),
    )
    by_field = {name: [_mean_by(of_field, chances[0])] for name, chances in arms.items()}
    by_field["majority class"] = [guessing(truth, classes=2)]
    found = sampled(truth, by_field)
    return {
        "cells": len(of_field),
        "fields": len(fields),
        "arms": numbers_of(found, list(by_field)),
        "differences": differences_of(found, [(VARIED, PLAIN), ("the shipped model", PLAIN)]),
    }


def _mean_by(of_field: Any, chances: Floats) -> Floats:
    count = np.bincount(of_field)
    return np.stack([np.bincount(of_field, chances[:, each]) / count for each in range(2)], axis=1)


def _shipped(bench: Bench, cells: Material) -> Floats:
    from ..images.read import read_image
    from ..inference.predictor import load as load_bundle

    def predict() -> list[list[float]]:
        predictor = load_bundle()
        chances = [
            predictor.outputs([read_image(cell.path)]).probabilities[0]
            for cell in track(cells.cells, "The shipped model")
        ]
        rounded: list[list[float]] = np.array(chances).round(6).tolist()
        return rounded

    return np.array(bench.kept("the shipped model, fields", {"cells": cells.key}, predict))


def _field_cells(bench: Bench, folder: Path) -> Material:
    """Cut the whole cells out of every tenth field, at the release's scale, and return them as cells of their own."""
    require("cv2", feature="Crossing over to smear fields", extra="fields")
    crops = bench.work / "field-cells"
    bench.kept("cells cut out of fields", {"every": _EVERY}, lambda: _cut_all(folder, crops))
    return load(bench, data=crops, layout=Layout(subject_pattern=r"(.*\d)\d_"))


def _cut_all(folder: Path, crops: Path) -> int:
    from ..fields.cells import Field, find_cells, open_field
    from ..fields.crops import cut_crop
    from ..fields.scale import common_scale

    opened: list[tuple[Path, Field]] = []
    for path in track(sorted(folder.glob("*/*.jpg"))[::_EVERY], "Opening fields"):
        try:
            opened.append((path, open_field(path)))
        except ImageError:  # a field without a scale or without light is none that cells can be cut from
            continue
    scale, written = common_scale([field.scale for _, field in opened]), 0
    for path, field in track(opened, "Cutting cells"):
        target = crops / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        scaled = type(field)(**{**vars(field), "scale": scale})
        whole = [cell for cell in find_cells(scaled) if not cell.flags]
        for number, cell in enumerate(whole):
            Image.fromarray(cut_crop(scaled, cell)).save(target / f"{path.stem}_{number}.png")
        written += len(whole)
    return written


def _section(found: dict[str, Any]) -> Section:
    rows: list[list[Any]] = []
    for appearance in TESTED:
        plain, varied = (found["arms"][f"{kind}: {appearance.name}"]["auroc"] for kind in (PLAIN, VARIED))
        gain = found["differences"][f"{VARIED}: {appearance.name} - {PLAIN}: {appearance.name}"]["auroc"]
        rows.append([appearance.name, plain, varied, signed(gain), _calls(found, PLAIN, appearance)])
    rows.append(["a single predicted class", "0.500", "0.500", "", "0.500"])
    columns = [
        "test cells",
        "AUROC, trained on unchanged cells",
        "AUROC, trained on changed cells too",
        "gain",
        "balanced accuracy, trained on unchanged cells",
    ]
    plain, varied = (
        {appearance.name: _calls(found, kind, appearance) for appearance in TESTED} for kind in (PLAIN, VARIED)
    )
    svg = dots("stain-changes", plain, x="balanced accuracy", chance=0.5, beside=varied, legend=(PLAIN, VARIED))
    text = "The same test cells in every row, split by subject; only the change of their images differs."
    return Section(
        "Another stain, another scale",
        text,
        columns,
        rows,
        [Figure("changes", svg, "Balanced accuracy under each change.")],
    )


def _calls(found: dict[str, Any], kind: str, appearance: Appearance) -> Number:
    number: Number = found["arms"][f"{kind}: {appearance.name}"]["balanced_accuracy"]
    return number


def _field_section(crossed: dict[str, Any]) -> Section:
    rows = [[name, each["auroc"], each["balanced_accuracy"]] for name, each in crossed["arms"].items()]
    text = (
        f"{crossed['cells']} whole cells of {crossed['fields']} fields of another laboratory, every tenth, cut out at "
        "the release's scale. A field gets the mean over its cells; malignant (Early, Pre, Pro) against Benign. "
        "Intervals draw blocks of ten neighbouring fields. AUROC below 0.5 ranks the classes in the wrong order."
    )
    return Section("Across laboratories", text, ["model", "AUROC", "balanced accuracy"], rows)


def _answer(found: dict[str, Any], crossed: dict[str, Any]) -> str:
    first = TESTED[0].name
    drops = {
        appearance.name: found["differences"][f"{PLAIN}: {appearance.name} - {PLAIN}: {first}"]["balanced_accuracy"]
        for appearance in TESTED[1:]
    }
    worst = min(drops, key=lambda name: drops[name]["value"])
    gain = found["differences"][f"{VARIED}: {worst} - {PLAIN}: {worst}"]["balanced_accuracy"]
    helps = {1: "recovers", 0: "is not shown to recover", -1: "does not recover"}[beyond_chance(gain)]
    text = (
        f"The hardest change, {worst}, moves balanced accuracy by {shown(drops[worst], signed=True)}; learning from "
        f"changed cells too {helps} some of it ({shown(gain, signed=True)})"
    )
    if crossed:
        best = max(
            (name for name in crossed["arms"] if name != "majority class"),
            key=lambda name: crossed["arms"][name]["auroc"]["value"],
        )
        text += f". In fields of another laboratory the best AUROC is {shown(crossed['arms'][best]['auroc'])} ({best})"
    return text + "."


STUDY = Study(
    "stain",
    "Another stain, another scale, another laboratory",
    "A model trained on one set of cells works on others.",
    StudySize(seeds=2, images=1200, size=96),
    run,
)
