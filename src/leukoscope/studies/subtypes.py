"""subtypes: four kinds of smear field, with neighbouring fields split at random and kept on one side."""

from typing import Any

import numpy as np

from ..config import Prepare
from ..data.index import Layout
from ..evaluation.intervals import Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, confusion, recall
from .material import FrozenNetwork, folds_by, open_frozen
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
    confusions,
    differences_of,
    dots,
    guessing,
    numbers_of,
    sampled,
    shown,
    signed,
)

IMAGE, APART, COLOUR = "fields at random", "blocks of neighbours apart", "mean colour alone, blocks apart"
# WBC-Benign-001.jpg: no patient is named, so ten neighbours in number are taken for one.
_TEN_NEIGHBOURS = Layout(subject_pattern=r"(.*\d)\d\.")


def run(bench: Bench) -> Page:
    """Fit a head on frozen features of whole fields, by two splits, beside mean colour and guessing."""
    layout = None if bench.given.synthetic else _TEN_NEIGHBOURS
    frozen = open_frozen(bench, layout=layout, prepare=Prepare(view="frame", size=bench.scale.size))
    material, features = frozen.material, frozen.features()
    by_image = frozen.answers(IMAGE, features, lambda seed: folds_by(None, material.labels, seed=seed))
    apart = frozen.answers(APART, features, lambda seed: folds_by(material.group_names, material.labels, seed=seed))
    colour = frozen.answers(
        COLOUR, material.shortcut("colour"), lambda seed: folds_by(material.group_names, material.labels, seed=seed)
    )
    guess = [guessing(frozen.truth, classes=len(material.classes))]
    arms = {"majority class": guess, COLOUR: colour, IMAGE: by_image, APART: apart}
    found = sampled(frozen.truth, arms)
    differences = differences_of(found, [(IMAGE, APART), (APART, COLOUR)])
    numbers = {
        "arms": numbers_of(found, list(arms)),
        "differences": differences,
        "recall": _recalls(frozen.truth, apart, material.classes),
        "confusion": _table(frozen.truth, apart).round(2).tolist(),
    }
    return Page(_answer(numbers, len(material.classes)), _ran_on(frozen), _sections(frozen, numbers), numbers)


def _ran_on(frozen: FrozenNetwork) -> dict[str, str]:
    unit = (
        {}
        if frozen.material.synthetic
        else {
            "Unit": "No patient is named in this set: ten neighbours in number, and whatever shows the same field, "
            "count as one. Patients with more fields than that are still on both sides."
        }
    )
    return frozen.ran_on() | unit


def _sections(frozen: FrozenNetwork, numbers: dict[str, Any]) -> list[Section]:
    arms, classes = numbers["arms"], frozen.material.classes
    rows = [[name, each["accuracy"], each["balanced_accuracy"], each["auroc"]] for name, each in arms.items()]
    drawn = {name: each["balanced_accuracy"] for name, each in arms.items()}
    dotted = dots("subtypes-splits", drawn, x="balanced accuracy", chance=1 / len(classes))
    difference = signed(numbers["differences"][f"{IMAGE} - {APART}"]["balanced_accuracy"])
    text = f"The split at random differs from the one with blocks apart by {shown(difference)} in balanced accuracy."
    each = [[name, numbers["recall"][name]] for name in classes]
    matrix = confusions("subtypes-confusion", {APART: numbers["confusion"]}, labels=classes)
    return [
        Section(
            "Both splits",
            text,
            ["split or baseline", "accuracy", "balanced accuracy", "AUROC (one against the rest)"],
            rows,
            [Figure("splits", dotted, "Balanced accuracy by split and baseline.")],
        ),
        Section(
            "Each kind, blocks apart",
            "",
            ["kind", "found (recall)"],
            each,
            [Figure("confusion", matrix, "True kind (rows) by predicted kind (columns), mean over seeds.")],
        ),
    ]


def _recalls(truth: Truth, seeds: list[Floats], classes: tuple[str, ...]) -> dict[str, Number]:
    def statistic(weights: Floats) -> Statistics:
        each = [
            recall(
                confusion(truth.labels, chances.argmax(1), classes=len(classes), weights=weights, groups=truth.groups)
            )
            for chances in seeds
        ]
        return {name: np.mean([one[:, place] for one in each], axis=0) for place, name in enumerate(classes)}

    found = jackknife(statistic, design_of(truth.labels, truth.groups), cells=len(truth.labels))
    return {name: found.interval(name) for name in classes}


def _table(truth: Truth, seeds: list[Floats]) -> Floats:
    tables = [confusion(truth.labels, chances.argmax(1), classes=chances.shape[1]) for chances in seeds]
    return np.asarray(np.mean(tables, axis=0))


def _answer(numbers: dict[str, Any], classes: int) -> str:
    apart, more = numbers["arms"][APART], numbers["differences"][f"{APART} - {COLOUR}"]["balanced_accuracy"]
    beats = "beats" if beyond_chance(more) > 0 else "is not shown to beat"
    return (
        f"Split by blocks of neighbours, a frozen network recognises {shown(apart['balanced_accuracy'])} of the fields "
        f"when the {classes} kinds are as common (guessing: {1 / classes:.2f}), and {beats} mean colour alone (by "
        f"{shown(more, signed=True)}). These are kinds of field from one laboratory, not stages of a patient's disease."
    )


STUDY = Study(
    "subtypes",
    "Benign, Early, Pre, Pro",
    "A CNN detects the stage of leukemia from a picture.",
    StudySize(seeds=3, size=160),
    run,
)
