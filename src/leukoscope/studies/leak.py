"""leak: one model, scored by splits that leak and by splits that do not."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..config import Prepare
from ..errors import DataError
from ..evaluation.metrics import Floats
from .material import LITE0, Features, Fold, Material, backbone, cross_predict, features_of, folds_by, load, sample
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

Splits = dict[str, Callable[[int], list[Fold]]]
IMAGE, NAMED, MERGED = "images at random", "subject ids as named", "subjects merged by shared cells"
FOLDS, CLEAN = "release folds as published", "release folds, shared subjects out of training"


def run(bench: Bench) -> Page:
    """Score one frozen network with a logistic head by five splits."""
    material = sample(load(bench), bench.scale.images, rng=np.random.default_rng(0))
    if len(material.classes) != 2:
        raise DataError("leak compares two classes, such as hem and all. Give a folder of cells with two classes.")
    network = backbone(bench, LITE0, size=bench.scale.size)
    features = features_of(bench, material, network, prepare=Prepare(size=bench.scale.size))
    truth, whole = Truth(material.labels, material.groups), np.arange(len(material.labels))
    main = _scores(bench, material, features, _own_splits(material), rows=whole, truth=truth)
    numbers: dict[str, Any] = {"splits": main, "weights": network.weights}
    sections = [_main_section(main)]
    if by_release := _release_splits(material):
        rows = np.flatnonzero(np.isin(material.parts, _training_parts(material)))
        numbers["release_folds"] = _scores(bench, material, features, by_release, rows=rows, truth=truth.pick(rows))
        sections.append(_release_section(numbers["release_folds"]))
    ran_on = {
        "Images": material.words(),
        "Model": f"EfficientNet-Lite0, frozen ({network.weights}), with a logistic head",
        "Interval": "95 %, jackknife over subject groups with Student's t, of the mean over seeds",
    }
    return Page(_answer(main), ran_on, sections, numbers)


def _own_splits(material: Material) -> Splits:
    named = np.array([cell.subject for cell in material.cells])
    units = {IMAGE: None, NAMED: named, MERGED: material.group_names}
    return {
        name: lambda seed, by=by: folds_by(by, material.labels, seed=seed)  # type: ignore[misc]
        for name, by in units.items()
    }


def _training_parts(material: Material) -> list[str]:
    """Return the parts that are folds of the release's training set."""
    return sorted({part for part in material.parts.tolist() if part.startswith("fold_")})


def _release_splits(material: Material) -> Splits:
    """Return the release's own folds, with and without the tested subjects' other pictures; none without two folds."""
    parts = _training_parts(material)
    if len(parts) < 2:
        return {}
    return {
        name: lambda _, clean=clean: _by_part(material, parts, clean=clean)  # type: ignore[misc]
        for name, clean in ((FOLDS, False), (CLEAN, True))
    }


def _by_part(material: Material, parts: list[str], *, clean: bool) -> list[Fold]:
    folds = []
    for part in parts:
        tested = material.parts == part
        train = np.isin(material.parts, parts) & ~tested
        if clean:
            train &= ~np.isin(material.group_names, material.group_names[tested])
        folds.append((np.flatnonzero(train), np.flatnonzero(tested)))
    return folds


def _scores(
    bench: Bench, material: Material, features: Features, splits: Splits, *, rows: Any, truth: Truth
) -> dict[str, Any]:
    """Return the numbers of each split on the same cells, and the difference of each from the last."""
    arms: dict[str, list[Floats]] = {"majority class": [guessing(truth, classes=2)]}
    arms["cell size alone"] = _predictions(
        bench, material, material.shortcut("size"), splits, rows=rows, last_only=True
    )
    for name, split in splits.items():
        arms[name] = _predictions(bench, material, features, {name: split}, rows=rows)
    found = sampled(truth, arms)
    last = list(splits)[-1]
    pairs = [(name, last) for name in splits if name != last] + [(last, "cell size alone")]
    return {"arms": numbers_of(found, list(arms)), "differences": differences_of(found, pairs)}


def _predictions(
    bench: Bench, material: Material, features: Any, splits: Splits, *, rows: Any, last_only: bool = False
) -> list[Floats]:
    """Return the probabilities of the tested cells, once per seed."""
    name, split = list(splits.items())[-1]
    kind = "size" if last_only else "model"
    answers = []
    for seed in bench.seeds:

        def predict(seed: int = seed) -> list[list[float]]:
            chances = cross_predict(features, material.labels, split(seed), classes=2)
            return chances[rows].round(6).tolist()  # type: ignore[no-any-return]

        settings = {"split": name, "seed": seed, "kind": kind}
        answers.append(np.array(bench.kept(f"{kind}, {name}, seed {seed}", settings, predict)))
    return answers


def _main_section(found: dict[str, Any]) -> Section:
    gained = {name.split(" - ")[0]: value for name, value in found["differences"].items()}
    rows = [
        [name, each["auroc"], each["accuracy"], signed(gained[name]["auroc"]) if name in (IMAGE, NAMED) else ""]
        for name, each in found["arms"].items()
    ]
    figure = Figure("splits", _chart("leak-splits", found), "AUROC of the same model by how its cells were split.")
    text = "Every cell is tested once in five-fold cross-validation; only the rule that makes the folds differs."
    columns = ["how the cells are split", "AUROC", "accuracy", "AUROC gained by the leak"]
    return Section("AUROC by split", text, columns, rows, [figure])


def _release_section(found: dict[str, Any]) -> Section:
    gain = found["differences"][f"{FOLDS} - {CLEAN}"]["auroc"]
    rows = [[name, each["auroc"], each["accuracy"]] for name, each in found["arms"].items()]
    text = (
        "Each fold of the release's training set is tested by a model of the other folds. As published, some patients "
        "are in several folds under different ids. With them in training AUROC differs by "
        f"{shown(gain, signed=True)} from that without."
    )
    return Section("The release's own folds", text, ["folds", "AUROC", "accuracy"], rows)


def _chart(name: str, found: dict[str, Any]) -> str:
    rows: dict[str, Number] = {arm: each["auroc"] for arm, each in found["arms"].items() if arm != "majority class"}
    return dots(name, rows, x="AUROC", chance=0.5)


def _answer(found: dict[str, Any]) -> str:
    difference = found["differences"][f"{IMAGE} - {MERGED}"]["auroc"]
    image, merged = (found["arms"][name]["auroc"] for name in (IMAGE, MERGED))
    what = {1: "overestimates", 0: "is not shown to overestimate", -1: "underestimates"}[beyond_chance(difference)]
    return (
        f"Splitting by image {what} the AUROC of this model: {shown(image)} at random, {shown(merged)} split by "
        f"subject, a difference of {shown(difference, signed=True)}."
    )


STUDY = Study(
    "leak",
    "How much a leak raises AUROC",
    "A random split by image, and the release's own folds, measure how a model does on new patients.",
    StudySize(seeds=3, size=128),
    run,
)
