"""adaptation: what a laboratory gains from cells that its own people have read, on other subjects than these."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..adaptation import Head, Reviewed, fit_heads, held_out_by, rule_of
from ..bundle.manifest import ConformalRule
from ..errors import DataError
from ..evaluation.intervals import Jackknife, Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, Ints, auroc
from ..evaluation.predictions import fit_temperature, temper
from ..inference.rejection import UNSURE, decide, fit_conformal
from .generalisation import ALPHA, SHIPPED_RECIPE, in_thirds
from .material import INTERVAL, Features, Material, folds_by, load, sample
from .study import Bench, Figure, Line, Number, Page, Section, Study, StudySize, TableValue, beyond_chance, lines, shown

COUNTS = (0, 20, 50, 200, 500)
"""Reviewed cells, half of them of each class."""
FEWEST = 4
"""Subject groups of each class that a part must have to be a laboratory: two to be read, two to be judged."""


@dataclass(frozen=True)
class Decisions:
    """Predictions and decisions of a head for the cells of one part, by seed."""

    chances: list[Floats]
    """(cells, 2) each."""
    decided: list[Ints]
    """(cells,) each: the class, or UNSURE."""


@dataclass(frozen=True)
class DecisionRule:
    """A head, and when it is unsure."""

    head: Head
    rule: ConformalRule


@dataclass(frozen=True)
class UnseenPart:
    """A part that the model has not seen."""

    material: Material
    table: Features
    """(all cells, views, channels): features of each; the first view is the one that is predicted from."""
    part: str
    rows: Ints
    """Its cells in material and table."""
    base: DecisionRule
    """What it starts from."""


def run(bench: Bench) -> Page:
    """Take each large part for a laboratory that the model has not seen, and adapt to more and more of its cells."""
    material = sample(load(bench), bench.scale.images, rng=np.random.default_rng(0))
    material = in_thirds(material) if material.synthetic else material
    table = SHIPPED_RECIPE.features(bench, material)
    numbers: dict[str, Any] = {"alpha": ALPHA, "parts": {}}
    for part in laboratories(material):
        numbers["parts"][part] = _of_part(bench, material, table, part)
    if not numbers["parts"]:
        raise DataError(
            f"No part of these cells has {FEWEST} subject groups of each class. Give cells of several parts."
        )
    ran_on = {
        "Images": material.words(),
        "Model": "the recipe of the shipped model, trained on all other parts",
        "Interval": INTERVAL,
    }
    return Page(_answer(numbers), ran_on, [_section(part, each) for part, each in numbers["parts"].items()], numbers)


def laboratories(material: Material) -> list[str]:
    """Return the parts that have subjects enough of both classes, and that leave some of both to learn from."""

    def enough(rows: Ints, fewest: int) -> bool:
        own = [material.groups[rows][material.labels[rows] == label] for label in (0, 1)]
        return all(len(set(each.tolist())) >= fewest for each in own)

    parts = np.unique(material.parts).tolist()
    large = [part for part in parts if enough(np.flatnonzero(material.parts == part), FEWEST)]
    return [part for part in large if enough(_others(material, part), 2)]


def _others(material: Material, part: str) -> Ints:
    """Return the rows of all other parts, without the subject groups of this one."""
    here = material.parts == part
    return np.flatnonzero(~here & ~np.isin(material.group_names, material.group_names[here]))


def _of_part(bench: Bench, material: Material, table: Features, part: str) -> dict[str, Any]:
    rows, others = np.flatnonzero(material.parts == part), _others(material, part)
    laboratory = UnseenPart(material, table, part, rows, _base(material, table, others))
    decisions: dict[int, Decisions] = {}
    for count in COUNTS:
        if count and min(np.bincount(material.labels[rows])) < count:
            continue  # half of the subjects must have half of these cells of each class
        each = [_predictions(bench, laboratory, count=count, seed=seed) for seed in bench.seeds]
        decisions[count] = Decisions(
            [np.array(one["chances"]) for one in each], [np.array(one["decided"]) for one in each]
        )
    found = _measured(material, rows, decisions)
    names = ("auroc", *(f"{what}.{label}" for what in ("called_other", "decided") for label in material.classes))
    return {
        "cells": len(rows),
        "subjects": len(set(material.groups[rows].tolist())),
        "training_cells": len(others),
        "counts": {str(count): {name: found.interval(f"{count}.{name}") for name in names} for count in decisions},
        "gains": {str(count): found.difference(f"{count}.auroc", "0.auroc") for count in decisions if count},
        "more_decided": {
            str(count): {
                label: found.difference(f"{count}.decided.{label}", f"0.decided.{label}") for label in material.classes
            }
            for count in decisions
            if count
        },
    }


def _base(material: Material, table: Features, rows: Ints) -> DecisionRule:
    """Return what a laboratory starts from: a head fitted on other parts alone."""
    labels, groups = material.labels[rows], material.groups[rows]
    unseen = np.zeros((len(rows), 2))
    for train, test in folds_by(groups, labels, seed=0):
        part = Head(*SHIPPED_RECIPE.fit(table, material, rows[train]))
        unseen[test] = part.raw(table[rows[test], :1])
    temperature = float(fit_temperature(labels, unseen))
    head = Head(*SHIPPED_RECIPE.fit(table, material, rows), temperature=temperature)
    return DecisionRule(head, fit_conformal(temper(unseen, temperature), labels, groups, alpha=ALPHA))


def _predictions(bench: Bench, laboratory: UnseenPart, *, count: int, seed: int) -> dict[str, Any]:
    """Return predictions and decisions for a part after `count` of its cells, of other subjects, were reviewed."""
    material, table, rows = laboratory.material, laboratory.table, laboratory.rows

    def work() -> dict[str, Any]:
        chances, decided = np.zeros((len(rows), 2)), np.zeros(len(rows), np.int64)
        for read, judged in _halves(material, rows, seed=seed):
            judge = laboratory.base
            if count:
                drawn = _drawn(material, rows, read, count, np.random.default_rng([seed, count]))
                judge = _adapted(material, table, rows[drawn], judge.head, seed=seed)
            chances[judged] = judge.head.probabilities(table[rows[judged], :1])
            decided[judged] = decide(chances[judged], judge.rule)
        return {"chances": chances.round(6).tolist(), "decided": decided.tolist()}

    settings = {"cells": material.key, "alpha": ALPHA, "recipe": SHIPPED_RECIPE.key}
    found: dict[str, Any] = bench.kept(f"{laboratory.part}, {count} cells, seed {seed}", settings, work)
    return found


def _halves(material: Material, rows: Ints, *, seed: int) -> list[tuple[Ints, Ints]]:
    """Return (places to read, places to judge) twice: half of the subject groups of each class, then the other half."""
    rng, side = np.random.default_rng(seed), np.zeros(len(rows), bool)
    for label in (0, 1):
        groups = rng.permutation(np.unique(material.groups[rows][material.labels[rows] == label]))
        side |= np.isin(material.groups[rows], groups[: len(groups) // 2])
    return [(np.flatnonzero(side), np.flatnonzero(~side)), (np.flatnonzero(~side), np.flatnonzero(side))]


def _drawn(material: Material, rows: Ints, places: Ints, count: int, rng: np.random.Generator) -> Ints:
    """Return `count` of these places, half of each class, from as many subjects as there are."""
    chosen: list[int] = []
    for label in (0, 1):
        own = rng.permutation(places[material.labels[rows[places]] == label])
        groups = material.groups[rows[own]]
        turn = np.array([int((groups[:place] == group).sum()) for place, group in enumerate(groups)])
        chosen += own[np.argsort(turn, kind="stable")][: count // 2].tolist()  # one of each subject in turn
    return np.sort(np.array(chosen))


def _adapted(material: Material, table: Features, rows: Ints, head: Head, *, seed: int) -> DecisionRule:
    """Return the head that `leukoscope adapt` fits to these cells, and when it is unsure."""
    labels, names = material.labels[rows], tuple(material.group_names[rows].tolist())
    groups, by_subject = held_out_by(names, labels)
    embeddings = table[rows, :1]
    seen = Reviewed(labels, groups, by_subject, names, (embeddings,), head.probabilities(embeddings), ())
    heads, unseen = fit_heads([head], seen, seed=seed)
    return DecisionRule(heads[0], rule_of(unseen, seen, alpha=ALPHA))


def _measured(material: Material, rows: Ints, decisions: dict[int, Decisions]) -> Jackknife:
    """Measure each number of reviewed cells on all cells of a part, and with each subject left out."""
    labels = material.labels[rows]
    units = np.unique(material.groups[rows], return_inverse=True)[1].astype(np.int64)
    size, class_of = np.bincount(units), np.zeros(units.max() + 1, int)
    class_of[units] = labels

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for count, each in decisions.items():
            areas = [auroc(labels, chances, weights=weights / size, groups=units) for chances in each.chances]
            values[f"{count}.auroc"] = np.mean(areas, axis=0)
            sure = np.mean([one != UNSURE for one in each.decided], axis=0)
            wrong = np.mean([(one != UNSURE) & (one != labels) for one in each.decided], axis=0)
            for what, cells in (("called_other", wrong), ("decided", sure)):
                share = np.bincount(units, cells) / size
                for label, name in enumerate(material.classes):
                    own = weights * (class_of == label)
                    values[f"{count}.{what}.{name}"] = own @ share / own.sum(axis=1)
        return values

    return jackknife(statistic, design_of(labels, units).equal_weights(), cells=len(rows))


def _section(part: str, found: dict[str, Any]) -> Section:
    counts = found["counts"]
    names = [name for name in next(iter(counts.values())) if name != "auroc"]
    words = {"called_other": "called the other class", "decided": "decided"}
    columns = [
        "reviewed cells",
        "AUROC, subjects equal",
        "against none",
        *(f"{name.partition('.')[2]}: {words[name.partition('.')[0]]}" for name in names),
    ]
    rows: list[list[TableValue]] = [
        [
            count,
            each["auroc"],
            shown(found["gains"][count], signed=True) if count in found["gains"] else "",
            *(each[name] for name in names),
        ]
        for count, each in counts.items()
    ]
    x = [int(count) for count in counts]
    drawn = {"AUROC": Line(x, [each["auroc"] for each in counts.values()])} | {
        f"{name.partition('.')[2]} {words[name.partition('.')[0]]}": Line(x, _bandless(counts, name)) for name in names
    }
    svg = lines(f"adaptation-{part}", drawn, x="reviewed cells of the part", y="AUROC; share of cells")
    figure = Figure(part.replace("_", "-"), svg, f"AUROC and decisions on {part} by number of reviewed cells.")
    text = (
        f"The model was trained on {found['training_cells']:,} cells of other parts. Of {part} "
        f"({found['cells']:,} cells of {found['subjects']} subject groups) half of the subjects give the reviewed "
        "cells, the other half is evaluated, and vice versa. Shares are of all cells of a class, with equal weight "
        f"per subject; at most {ALPHA:.0%} may be called the other class."
    )
    return Section(f"{part} as another laboratory", text, columns, rows, [figure])


def _bandless(counts: dict[str, Any], name: str) -> list[Number]:
    return [{"value": each[name]["value"], "low": None, "high": None} for each in counts.values()]


def _answer(numbers: dict[str, Any]) -> str:
    sentences = []
    for part, found in numbers["parts"].items():
        counts, most = found["counts"], list(found["counts"])[-1]
        words = f"On {part}, AUROC is {shown(counts['0']['auroc'])} with none of its cells reviewed"
        if most == "0":
            sentences.append(f"{words}; it has too few cells to adapt to.")
            continue
        shown_from = [count for count, gain in found["gains"].items() if beyond_chance(gain) > 0]
        helped = (
            f"from {shown_from[0]} on that is beyond chance" if shown_from else "no number of them is shown to raise it"
        )
        decided = " and ".join(
            f"{shown(gain, signed=True)} of {label}" for label, gain in found["more_decided"][most].items()
        )
        sentences.append(
            f"{words} and {shown(counts[most]['auroc'])} with {most}; {helped}. What changes is the share of cells "
            f"decided at the same guaranteed error rate: {decided}."
        )
    return " ".join(sentences)


STUDY = Study(
    "adaptation",
    "What do a laboratory's own cells bring?",
    "A few dozen reviewed cells adapt a model to another laboratory.",
    StudySize(seeds=3, size=128),
    run,
)
