"""generalisation: how far each recipe holds on parts of the release, and on subjects, that it has never seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import DataError, UsageError, nearest
from ..evaluation.intervals import Jackknife, Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, Ints, auroc
from ..files import fingerprint, read_json, write_json
from ..inference.left_out import LeftOut, promise
from .frozen import INTERVAL, folds_by
from .material import Material, load, sample
from .page import Cell, Figure, Page, Section, dots, shown, signed
from .recipes import RECIPES, Ask, OneFeature, Recipe, Test
from .study import Bench, Scale, Study, beyond_chance
from .tracing import two_columns

LARGE = 0.1
"""Share of all cells that a part must hold to be learnt from."""
FEWEST = 5
"""Cells of a subject group; the groups with fewer are pooled by class, and count as one subject."""
ALPHA = 0.15
"""Share of a class that may be called the other: what the shipped model promises."""
POOLED, FIVE_FOLD = "each part by networks that have not seen it", "five-fold over subjects"


@dataclass(frozen=True)
class Answers:
    """What a recipe says to the asked cells of one test, by seed."""

    test: Test
    seeds: list[Floats]


def run(bench: Bench) -> Page:
    """Ask the recipes that are named, or all that take minutes; show these and what was finished before."""
    material = sample(load(bench), bench.scale.images, rng=np.random.default_rng(0))
    if len(material.classes) != 2:
        raise DataError("generalisation tells two classes apart. Give a folder of cells with two classes.")
    material = _in_thirds(material) if material.synthetic else material
    wanted = _named(bench.given.recipes)
    shifts = shifts_of(material)
    found: dict[str, dict[str, Answers]] = {}
    for recipe in RECIPES:
        needed = isinstance(recipe, OneFeature)  # takes seconds, and all others are compared with it
        allowed = needed or (recipe in wanted if wanted else not recipe.trained)
        if answers := _ask(bench, material, recipe, shifts, allowed=allowed):
            found[recipe.name] = answers
    return _page(bench, material, shifts, found)


def _in_thirds(material: Material) -> Material:
    """Return synthetic cells, which have no parts, as if the release had published them in three."""
    subjects = sorted({cell.subject for cell in material.cells})
    part = {subject: f"third_{place * 3 // len(subjects)}" for place, subject in enumerate(subjects)}
    return replace(material, cells=[replace(cell, part=part[cell.subject]) for cell in material.cells])


def _named(names: Sequence[str]) -> list[Recipe]:
    known = {recipe.name: recipe for recipe in RECIPES}
    for name in names:
        if name not in known:
            raise UsageError(f"There is no recipe '{name}'.{nearest(name, list(known))} Known: {', '.join(known)}.")
    return [known[name] for name in names]


def shifts_of(material: Material) -> list[Test]:
    """Return the tests on parts left out: from each large part to all others, and from all large parts to the rest.

    Where every part is large, the last kind is from all others to each part. A subject group of the cells learnt from
    is never asked about.

    Raises:
        DataError: the cells have no parts, or only one is large.
    """
    names, counts = np.unique(material.parts, return_counts=True)
    large = [name for name, count in zip(names.tolist(), counts, strict=True) if count >= LARGE * counts.sum()]
    if len(names) < 2:
        raise DataError("generalisation needs cells of several parts, such as the folds of C-NMC: see --part-column.")
    small = [name for name in names.tolist() if name not in large]
    tests = [_shift(material, [part], [name for name in names.tolist() if name != part]) for part in large]
    if small:
        tests.append(_shift(material, large, small))
    elif len(large) > 2:
        tests += [_shift(material, [name for name in large if name != part], [part]) for part in large]
    usable = [test for test in tests if _both(material, test.learnt) and _both(material, test.asked)]
    if not usable:
        raise DataError("No part of these cells has subjects of both classes. Give cells of other parts too.")
    return usable


def _shift(material: Material, learnt: Sequence[str], asked: Sequence[str]) -> Test:
    rows = np.isin(material.parts, learnt)
    others = np.isin(material.parts, asked) & ~np.isin(material.group_names, material.group_names[rows])
    return Test(f"{' + '.join(learnt)} → {' + '.join(asked)}", np.flatnonzero(rows), np.flatnonzero(others))


def _both(material: Material, rows: Ints) -> bool:
    return all(len(set(material.groups[rows][material.labels[rows] == label].tolist())) > 1 for label in (0, 1))


def _ask(
    bench: Bench, material: Material, recipe: Recipe, shifts: Sequence[Test], *, allowed: bool
) -> dict[str, Answers]:
    """Return the answers of a recipe by test; only what was finished before, unless more is allowed."""
    ask, found = recipe.on(bench, material), dict[str, Answers]()

    def kept(test: Test, seed: int) -> Floats | None:
        return _kept(bench, material, recipe, test, seed=seed, ask=ask if allowed else None)

    for seed in bench.seeds:
        for test in shifts if recipe.trained or seed == 0 else ():  # what is not trained says the same again
            if (answer := kept(test, seed)) is not None:
                found.setdefault(test.name, Answers(test, [])).seeds.append(answer)
        folds = _folds(material, seed)
        answers = [kept(test, seed) for test in folds]
        if all(answer is not None for answer in answers):  # of the folds only all together are a test
            whole = np.empty(len(material.labels))
            for test, answer in zip(folds, answers, strict=True):
                whole[test.asked] = answer
            test = Test(FIVE_FOLD, np.arange(0), np.arange(len(material.labels)))
            found.setdefault(FIVE_FOLD, Answers(test, [])).seeds.append(whole)
    return found


def _folds(material: Material, seed: int) -> list[Test]:
    folds = folds_by(material.group_names, material.labels, seed=seed)
    name = f"{FIVE_FOLD}, seed {seed}"
    return [Test(f"{name}, fold {number}", np.asarray(train), np.asarray(test))
            for number, (train, test) in enumerate(folds)]  # fmt: skip


def _kept(bench: Bench, material: Material, recipe: Recipe, test: Test, *, seed: int, ask: Ask | None) -> Floats | None:
    """Return the answers of a finished arm; else run it, where there is something to ask.

    Those of trained networks are kept beside the page, to be committed with it: the next who goes on need not train
    them again. They hold for the very same cells and settings only.
    """
    if not recipe.trained:
        settings = {"recipe": recipe.key, "cells": material.key}
        chances = bench.kept(
            f"{recipe.name}, {test.name}, seed {seed}", settings,
            (lambda: ask(test, seed).round(6).tolist()) if ask else None,
        )  # fmt: skip
        return None if chances is None else np.array(chances)
    path = bench.output / bench.study.name / f"{recipe.name.replace(', ', '-').replace(' ', '-')}.json"
    kept: dict[str, Any] = read_json(path) if path.exists() else {"format": 1, "recipe": recipe.name, "networks": {}}
    arm = f"{test.name}, seed {seed}"
    identity = _identity(bench, material, recipe, test)
    found = kept["networks"].get(arm)
    if found and found["settings"] == identity:
        return np.array(found["disease_per_10000"]) / 10000
    if not ask:
        return None
    answer = ask(test, seed)
    whole = np.round(answer * 10000).astype(int).tolist()
    kept["networks"][arm] = {"settings": identity, "cells": len(whole), "disease_per_10000": whole}
    write_json(path, kept)
    bench.say(f"{bench.study.name}: {recipe.name}, {arm}")
    return answer


def _identity(bench: Bench, material: Material, recipe: Recipe, test: Test) -> str:
    rows = [[material.cells[row].sha256 for row in part] for part in (test.learnt, test.asked)]
    return fingerprint([rows, recipe.key, bench.scale.epochs, bench.scale.size])[:16]


def pooled(material: Material, answers: dict[str, Answers]) -> Answers | None:
    """Return the answers to each part by the networks that learnt from most cells of the others.

    None where a part that could be asked about was not.
    """
    shifts = [each for name, each in answers.items() if name != FIVE_FOLD]
    seeds = min((len(each.seeds) for each in shifts), default=0)
    rows: list[Ints] = []
    chosen: list[tuple[Answers, Ints]] = []
    for part in np.unique(material.parts).tolist():
        able = [each for each in shifts if (material.parts[each.test.asked] == part).any()]
        if able:
            best = max(able, key=lambda each: len(each.test.learnt))
            places = np.flatnonzero(material.parts[best.test.asked] == part)
            rows.append(best.test.asked[places])
            chosen.append((best, places))
    if not seeds:
        return None
    said = [np.concatenate([best.seeds[seed][places] for best, places in chosen]) for seed in range(seeds)]
    return Answers(Test(POOLED, np.arange(0), np.concatenate(rows)), said)


def units_of(material: Material, rows: Ints) -> Ints:
    """Return the number of the subject of each row; small groups of a class count together as one, (rows,)."""
    names, code, count = np.unique(material.group_names[rows], return_inverse=True, return_counts=True)
    pooled_name = np.array([f"few cells, {label}" for label in material.labels[rows].tolist()])
    named = np.where(count[code] < FEWEST, pooled_name, names[code])
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def measured(material: Material, arms: dict[str, Answers]) -> Jackknife:
    """Measure the AUROC of several arms on the same rows, and once more with each subject left out.

    '<arm>.auroc' weighs each cell by one over the cells of its subject, '<arm>.cells' weighs cells equally.
    """
    rows = next(iter(arms.values())).test.asked
    labels, units = material.labels[rows], units_of(material, rows)
    size = np.bincount(units)

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        for name, answers in arms.items():
            tables = [two_columns(seed.tolist()) for seed in answers.seeds]
            for kind, each in (("auroc", weights / size), ("cells", weights)):
                values[f"{name}.{kind}"] = np.mean(
                    [auroc(labels, table, weights=each, groups=units) for table in tables], axis=0
                )
        return values

    return jackknife(statistic, design_of(labels, units).alike(), cells=len(rows))


def _promised(material: Material, answers: Answers) -> list[dict[str, Any]]:
    """Return what a promise learnt on all other parts comes to on each (first seed)."""
    rows = answers.test.asked
    columns = (material.labels[rows], material.group_names[rows], material.parts[rows])
    return promise(LeftOut(material.classes, two_columns(answers.seeds[0].tolist()), *columns), alpha=ALPHA)


def _page(bench: Bench, material: Material, shifts: Sequence[Test], found: dict[str, dict[str, Answers]]) -> Page:
    whole = {name: answer for name, answers in found.items() if (answer := pooled(material, answers))}
    complete = {name: answer for name, answer in whole.items() if len(found[name].keys() - {FIVE_FOLD}) == len(shifts)}
    tests = [*(test.name for test in shifts), FIVE_FOLD]
    numbers: dict[str, Any] = {"recipes": {recipe.name: recipe.words for recipe in RECIPES}, "tests": {}}
    sampled = measured(material, complete)
    numbers["pooled"] = {
        name: {kind: sampled.interval(f"{name}.{kind}") for kind in ("auroc", "cells")}
        | {"seeds": len(complete[name].seeds), "against_size": sampled.difference(f"{name}.auroc", "size alone.auroc")}
        for name in complete
    }
    for test in tests:
        arms = {name: answers[test] for name, answers in found.items() if test in answers}
        each = measured(material, arms)
        rows = next(iter(arms.values())).test.asked
        numbers["tests"][test] = {
            "cells": len(rows), "subjects": int(units_of(material, rows).max()) + 1,
            "recipes": {name: {kind: each.interval(f"{name}.{kind}") for kind in ("auroc", "cells")}
                        | {"seeds": len(arms[name].seeds)} for name in arms},
        }  # fmt: skip
    numbers["promise"] = {name: _promised(material, answer) for name, answer in complete.items()}
    unfinished = [recipe.name for recipe in RECIPES if recipe.name not in complete]
    sections = [_pooled_section(numbers), _tests_section(numbers, tests), _promise_section(numbers),
                _recipes_section(numbers, unfinished)]  # fmt: skip
    ran_on = {
        "Images": material.words(),
        "Subjects": f"weighted equally; groups of under {FEWEST} cells are pooled by class and count as one",
        "Interval": INTERVAL,
    }
    return Page(_answer(numbers), ran_on, sections, numbers)


def _pooled_section(numbers: dict[str, Any]) -> Section:
    found = numbers["pooled"]
    rows: list[list[Cell]] = [
        [name, each["auroc"], each["cells"], signed(each["against_size"]) if name != "size alone" else "",
         each["seeds"]] for name, each in found.items()
    ]  # fmt: skip
    drawn = {name: each["auroc"] for name, each in found.items()}
    figure = Figure("pooled", dots("generalisation-pooled", drawn, x="AUROC, subjects equal", chance=0.5),
                    "AUROC with subjects equal on parts that a recipe has not seen.")  # fmt: skip
    text = (
        "Every part is asked by the network that learnt from most cells of the other parts; the answers are pooled. "
        "By this column recipes are chosen. A difference of under .05 between two recipes is noise."
    )
    columns = ["recipe", "AUROC, subjects equal", "AUROC, cells equal", "against size alone", "seeds"]
    return Section("Parts left out", text, columns, rows, [figure])


def _tests_section(numbers: dict[str, Any], tests: Sequence[str]) -> Section:
    names = list(numbers["recipes"])
    rows: list[list[Cell]] = [
        [name, *(numbers["tests"][test]["recipes"].get(name, {}).get("auroc") for test in tests)]
        for name in names if any(name in numbers["tests"][test]["recipes"] for test in tests)
    ]  # fmt: skip
    told = "; ".join(f"{test}: {numbers['tests'][test]['cells']:,} cells of {numbers['tests'][test]['subjects']} "
                     "subjects" for test in tests)  # fmt: skip
    return Section("Each test by itself", f"AUROC, subjects equal. {told}.", ["recipe", *tests], rows)


def _promise_section(numbers: dict[str, Any]) -> Section:
    rows: list[list[Cell]] = []
    for name, parts in numbers["promise"].items():
        for row in parts:
            rows.extend(
                [name, row["part"], label, f"{row['asked']:.0%}", _percent(each["called_another"]),
                 _percent(each["decided"]), each["subjects"]]
                for label, each in row["classes"].items()
            )  # fmt: skip
    text = (
        "When is the answer 'unsure'? The rule is learnt from the answers to all other parts, each by networks that "
        "had not seen it, and then tried on the part named. Asked for: at most so many of a class called the other."
    )
    columns = ["recipe", "part", "class", "asked for", "called the other class", "decided", "subjects"]
    return Section("The promise on a part left out", text, columns, rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _recipes_section(numbers: dict[str, Any], open_: Sequence[str]) -> Section:
    rows: list[list[Cell]] = [[name, words, "not finished" if name in open_ else "yes"]
                              for name, words in numbers["recipes"].items()]  # fmt: skip
    tried = len(numbers["recipes"]) - len(open_)
    text = f"{tried} recipes were tried on all parts; all of them are in the tables above."
    return Section("The recipes", text, ["recipe", "what is done", "tried on all parts"], rows)


def _answer(numbers: dict[str, Any]) -> str:
    found = numbers["pooled"]
    networks = {name: each for name, each in found.items() if name not in ("size alone", "colour alone")}
    best = max(networks, key=lambda name: networks[name]["auroc"]["value"] or 0)
    size = found["size alone"]["auroc"]
    gap = found[best]["against_size"]
    more = {1: "more than", 0: "not shown to be more than", -1: "less than"}[beyond_chance(gap)]
    return (
        f"Of {len(networks)} recipes, the best on parts left out, {best}, reaches an AUROC of "
        f"{shown(found[best]['auroc'])} with subjects equal; that is {more} the {shown(size)} of cell size alone "
        f"({shown(gap, signed=True)})."
    )


STUDY = Study(
    "generalisation",
    "Does it hold for patients never seen?",
    "A recipe that is good in cross-validation is good on the next part of the release.",
    Scale(seeds=1, size=128, epochs=6),
    run,
)
