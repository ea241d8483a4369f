"""learning-curve: what more images bring, what more subjects bring, and what the full release might."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import curve_fit

from ..evaluation.intervals import Jackknife, limits
from ..evaluation.metrics import Floats, Ints
from .material import Fold, FrozenNetwork, Material, Split, folds_by, open_frozen
from .study import (
    Bench,
    Figure,
    Line,
    Number,
    Page,
    Section,
    Study,
    StudySize,
    TableValue,
    beyond_chance,
    guessing,
    lines,
    numbers_of,
    sampled,
    shown,
    signed,
)

IMAGES = (50, 100, 200, 400, 800, 1600, 3200, 6400)
SUBJECTS = (4, 8, 16, 32, 64)
PER_CURVE = 400
"""Images that every point of the curve over subjects learns from, so that only their number of subjects differs."""
RELEASE_IMAGES = 10_022
"""Training images in five folds of all 12,528 labelled images of C-NMC 2019 (10,661 and 1,867)."""


def run(bench: Bench) -> Page:
    """Fit the head on fewer images, and on fewer subjects, and test the same cells."""
    frozen = open_frozen(bench)
    features = frozen.features()
    images = _counts(IMAGES, most=_training_size(frozen, by_group=False))
    subjects = _counts(SUBJECTS, most=_training_size(frozen, by_group=True))
    arms = {f"{n} images": frozen.answers(f"{n} images", features, _fewer_images(frozen.material, n)) for n in images}
    arms |= {
        f"{n} subjects": frozen.answers(f"{n} subjects", features, _fewer_subjects(frozen.material, n))
        for n in subjects
    }
    arms["majority class"] = [guessing(frozen.truth, classes=len(frozen.material.classes))]
    size = frozen.material.shortcut("size")
    arms["cell size alone"] = frozen.answers("size", size, lambda seed: _folds(frozen.material, seed))
    found = sampled(frozen.truth, arms)
    return _page(frozen, found, images, subjects)


def _page(frozen: FrozenNetwork, found: Jackknife, images: Sequence[int], subjects: Sequence[int]) -> Page:
    arms = [name.rpartition(".")[0] for name in found.point if name.endswith(".auroc")]
    numbers = numbers_of(found, arms)
    over_images = [numbers[f"{n} images"]["auroc"] for n in images]
    over_subjects = [numbers[f"{n} subjects"]["auroc"] for n in subjects]
    forecast = _forecast(found, images)
    gains = {
        "images": found.difference(f"{images[-1]} images.auroc", f"{images[0]} images.auroc"),
        "last doubling": found.difference(f"{images[-1]} images.auroc", f"{images[-2]} images.auroc"),
        "subjects": found.difference(f"{subjects[-1]} subjects.auroc", f"{subjects[0]} subjects.auroc"),
    }
    shown_images = lines("curve-images", {"AUROC": Line(images, over_images)}, x="training images", y="AUROC", log=True)
    shown_subjects = lines(
        "curve-subjects", {"AUROC": Line(subjects, over_subjects)}, x="training subject groups", y="AUROC", log=True
    )
    baselines: list[list[TableValue]] = [
        [name, numbers[name]["auroc"]] for name in ("majority class", "cell size alone")
    ]
    sections = [
        Section(
            "More images of the same subjects",
            "Drawn at random from the subjects of the training folds.",
            ["images", "AUROC"],
            [*_rows(images, over_images), *baselines],
            [Figure("images", shown_images, "AUROC by number of training images; band: 95 % interval.")],
        ),
        Section(
            "More subjects, the same number of images",
            f"Up to {PER_CURVE} images at every point; only the number of subject groups they come from differs.",
            ["subject groups", "AUROC"],
            _rows(subjects, over_subjects),
            [Figure("subjects", shown_subjects, "AUROC by number of training subject groups.")],
        ),
        Section("What the full release might bring", _forecast_words(forecast)),
    ]
    return Page(
        _answer(gains, images, subjects),
        frozen.ran_on(),
        sections,
        {"arms": numbers, "gains": gains, "forecast": forecast},
    )


def _rows(counts: Sequence[int], numbers: Sequence[Number]) -> list[list[TableValue]]:
    return [[count, number] for count, number in zip(counts, numbers, strict=True)]


def _folds(material: Material, seed: int) -> list[Fold]:
    return folds_by(material.group_names, material.labels, seed=seed)


def _training_size(frozen: FrozenNetwork, *, by_group: bool) -> int:
    """Return how many images, or subject groups, the smallest training set of seed 0 holds."""
    groups = frozen.material.groups
    return min(len(set(groups[train].tolist())) if by_group else len(train) for train, _ in _folds(frozen.material, 0))


def _counts(grid: Sequence[int], *, most: int) -> list[int]:
    """Return the points of a curve: those of the grid well below what there is, and what there is."""
    return [*(n for n in grid if n < 0.8 * most), most]


def _fewer_images(material: Material, count: int) -> Split:
    def split(seed: int) -> list[Fold]:
        rng = np.random.default_rng([seed, count])
        return [(_drawn(train, material.labels, count, rng), test) for train, test in _folds(material, seed)]

    return split


def _fewer_subjects(material: Material, count: int) -> Split:
    def split(seed: int) -> list[Fold]:
        rng = np.random.default_rng([seed, count])
        return [(_of_subjects(material, train, count, rng), test) for train, test in _folds(material, seed)]

    return split


def _drawn(rows: Ints, labels: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Return `count` rows, with one of each class at least."""
    mixed = rng.permutation(rows)
    first = [mixed[labels[mixed] == label][0] for label in np.unique(labels[mixed])]
    rest = mixed[~np.isin(mixed, first)]
    return np.sort(np.concatenate([first, rest[: max(0, count - len(first))]]))


def _of_subjects(material: Material, rows: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Return up to PER_CURVE rows of `count` subject groups, drawn class by class in turn."""
    by_class = [
        rng.permutation(np.unique(material.groups[rows[material.labels[rows] == label]]))
        for label in np.unique(material.labels[rows])
    ]
    longest = max(len(groups) for groups in by_class)
    in_turn = [int(groups[place]) for place in range(longest) for groups in by_class if place < len(groups)]
    chosen = list(dict.fromkeys(in_turn))[: max(count, len(by_class))]
    return _drawn(rows[np.isin(material.groups[rows], chosen)], material.labels, PER_CURVE, rng)


def _forecast(found: Jackknife, images: Sequence[int]) -> dict[str, Any]:
    """Fit AUROC = top - loss * images ** -speed to the points, and read it at the full release."""
    names = [f"{n} images.auroc" for n in images]
    point = _read_at(images, np.array([float(found.point[name]) for name in names]))
    left_out = np.stack([found.left_out[name] for name in names], axis=1)
    read = np.array([_read_at(images, row) for row in left_out])
    return {
        "images": RELEASE_IMAGES,
        "auroc": limits(point, read, found.design),
        "curve": "top - loss * images ** -speed",
    }


def _read_at(images: Sequence[int], values: Floats) -> float:
    """Return the fitted AUROC at the full release; NaN where no curve can be fitted."""

    def curve(n: Floats, top: float, loss: float, speed: float) -> Floats:
        return top - loss * (n / images[0]) ** -speed

    if len(images) < 4:  # three numbers are fitted
        return float("nan")
    try:
        fitted, _ = curve_fit(
            curve, np.array(images, float), values, p0=(0.95, 0.1, 0.5), bounds=((0.5, 0, 0.01), (1, 1, 2))
        )
    except (RuntimeError, ValueError):  # no convergence, or an undefined point
        return float("nan")
    return float(curve(np.array([RELEASE_IMAGES], float), *fitted)[0])


def _forecast_words(forecast: dict[str, Any]) -> str:
    if forecast["auroc"]["value"] is None:
        return "There are too few points to fit a curve."
    return (
        f"The curve AUROC = top − loss · images^−speed, fitted to these points, gives {shown(forecast['auroc'])} "
        f"at {RELEASE_IMAGES:,} training images, which is the full release in five folds. It assumes subjects like "
        "these; whoever has the release can check it with the command below."
    )


def _answer(gains: dict[str, Number], images: Sequence[int], subjects: Sequence[int]) -> str:
    more, last, subject = (gains[name] for name in ("images", "last doubling", "subjects"))
    helps = "helps" if beyond_chance(more) > 0 else "is not shown to help"
    still = "still helps" if beyond_chance(last) > 0 else "is no longer shown to help"
    varied = "helps" if beyond_chance(subject) > 0 else "is not shown to help"
    return (
        f"More data {helps}: from {images[0]} to {images[-1]:,} images AUROC moves by {shown(signed(more))}, while the "
        f"last step, from {images[-2]:,}, {still} ({shown(signed(last))}). The same number of images from "
        f"{subjects[-1]} instead of {subjects[0]} subject groups {varied} ({shown(signed(subject))})."
    )


STUDY = Study(
    "learning-curve",
    "Does more data help?",
    "The model only lacks data: with more images it would become accurate.",
    StudySize(seeds=3, size=128),
    run,
)
