"""shortcuts: how far size, colour, border or silhouette alone go, and the model with each of them taken away."""

from typing import Any

import numpy as np

from ..config import Prepare
from ..evaluation.metrics import Ints
from .material import (
    Features,
    Fold,
    FrozenNetwork,
    Material,
    Split,
    border,
    folds_by,
    open_frozen,
    silhouette,
    without_border,
    without_colour,
)
from .study import (
    Bench,
    Figure,
    Number,
    Page,
    Section,
    Study,
    StudySize,
    beyond_chance,
    differences_of,
    dots,
    guessing,
    numbers_of,
    sampled,
    shown,
    signed,
)

WHOLE, SIZE, INSIDE = "the whole cell", "size only (area)", "without size, border and silhouette"
ALONE = (SIZE, "colour only (mean)", "border only", "silhouette only")


def run(bench: Bench) -> Page:
    """Fit a head on every kind of input, in subject-grouped folds and under a shift between parts."""
    frozen = open_frozen(bench)
    tables = _inputs(frozen)
    found = _measured(
        frozen, tables, lambda seed: folds_by(frozen.material.group_names, frozen.material.labels, seed=seed)
    )
    numbers: dict[str, Any] = {"grouped": found}
    text = "Every cell is tested once in five-fold cross-validation, split by subject."
    sections = [_section("Split by subject", text, found, figure="grouped")]
    if shift := _shift(frozen.material):
        train, test = (sorted(set(frozen.material.parts[rows].tolist())) for rows in shift)
        numbers["shift"] = _measured(frozen, tables, lambda _: [shift], rows=shift[1], name="shift, ")
        text = (
            f"Trained on {', '.join(train)} ({len(shift[0]):,} cells), tested on {', '.join(test)} "
            f"({len(shift[1]):,} cells of other subjects)."
        )
        sections.append(_section("Another part of the release", text, numbers["shift"], figure="shift"))
    return Page(_answer(numbers), frozen.ran_on(), sections, numbers)


def _inputs(frozen: FrozenNetwork) -> dict[str, Features]:
    """Return the features of each kind of input, the whole cell first."""
    material, size = frozen.material, frozen.bench.scale.size
    middle = Prepare(size=size, window=_half_a_cell(material))
    return {
        WHOLE: frozen.features(),
        SIZE: material.shortcut("size"),
        "colour only (mean)": material.shortcut("colour"),
        "border only": frozen.features("border", border),
        "silhouette only": frozen.features("silhouette", silhouette),
        "without size": frozen.features(prepare=Prepare(size=size, view="area")),
        "without colour": frozen.features("without colour", without_colour),
        "without border": frozen.features("without border", without_border),
        INSIDE: frozen.features(prepare=middle),
    }


def _half_a_cell(material: Material) -> int:
    """Return half the diameter of the median cell, px: a square of that side in the middle shows no outline."""
    return max(16, round(float(np.sqrt(np.nanmedian(material.traits[:, 0]) / np.pi))))


def _shift(material: Material) -> Fold | None:
    """Return (largest part, all others without its subjects); None where that leaves too little."""
    names, counts = np.unique(material.parts, return_counts=True)
    train = material.parts == names[counts.argmax()]
    test = ~train & ~np.isin(material.group_names, material.group_names[train])
    both = all(len(set(material.labels[rows].tolist())) == len(material.classes) for rows in (train, test))
    return (np.flatnonzero(train), np.flatnonzero(test)) if len(names) > 1 and both else None


def _measured(
    frozen: FrozenNetwork, tables: dict[str, Features], split: Split, *, rows: Ints | None = None, name: str = ""
) -> dict[str, Any]:
    rows = np.arange(len(frozen.material.labels)) if rows is None else rows
    truth = frozen.truth.pick(rows)
    arms = {
        kind: [chances[rows] for chances in frozen.answers(name + kind, table, split)] for kind, table in tables.items()
    }
    arms["majority class"] = [guessing(truth, classes=len(frozen.material.classes))]
    found = sampled(truth, arms)
    pairs = [(kind, WHOLE) for kind in tables if kind != WHOLE]
    return {"arms": numbers_of(found, list(arms)), "differences": differences_of(found, pairs)}


def _section(title: str, text: str, found: dict[str, Any], *, figure: str) -> Section:
    rows: list[list[Any]] = [
        [kind, each["auroc"], each["balanced_accuracy"], _less(found, kind)] for kind, each in found["arms"].items()
    ]
    columns = ["input", "AUROC", "balanced accuracy", "AUROC against the whole cell"]
    drawn = {kind: each["auroc"] for kind, each in found["arms"].items() if kind != "majority class"}
    svg = dots(f"shortcuts-{figure}", drawn, x="AUROC", chance=0.5)
    return Section(title, text, columns, rows, [Figure(figure, svg, f"{title}: AUROC by input.")])


def _less(found: dict[str, Any], kind: str) -> Number | str:
    difference = found["differences"].get(f"{kind} - {WHOLE}")
    return signed(difference["auroc"]) if difference else ""


def _answer(numbers: dict[str, Any]) -> str:
    found = numbers["grouped"]
    best = max(ALONE, key=lambda kind: found["arms"][kind]["auroc"]["value"])
    gap = found["differences"][f"{best} - {WHOLE}"]["auroc"]
    text = (
        f"The best of the shortcuts, {best}, reaches an AUROC of {shown(found['arms'][best]['auroc'])} against "
        f"{shown(found['arms'][WHOLE]['auroc'])} for the whole cell, a difference of {shown(gap, signed=True)}"
    )
    text += " which is not beyond chance" if not beyond_chance(gap) else ""
    if "shift" in numbers:
        there = numbers["shift"]["arms"]
        text += f"; in another part of the release it has {shown(there[best]['auroc'])} and the whole cell "
        text += shown(there[WHOLE]["auroc"])
    return text + "."


STUDY = Study(
    "shortcuts",
    "How far do shortcuts go?",
    "The network reads the cell's morphology, not its size, its colour or how it was cut out.",
    StudySize(seeds=2, images=2000, size=128),
    run,
)
