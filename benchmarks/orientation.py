"""Does an answer depend on how a cell lies? What the shipped model says of turned cells, and what was tried about it.

Usage: python benchmarks/orientation.py shipped [--data ../shared/data/cnmc] [--model BUNDLE] [--cells 640]
       python benchmarks/orientation.py variants [--data ../shared/data/cnmc] [--work runs/orientation]

`shipped` turns a fixed sample of cells by 90° and mirrors them, eight views in all, and turns them by 30° too, which
resamples the pixels; it counts decisions that change. `variants` learns a head in several ways on all eight views of
each cell, asks it in several ways, and prints for each what the generalisation study measures (parts left out, subjects
equal), what the rule for 'unsure' then decides, and how many decisions turning changes. Features are kept in --work,
a few hundred cells at a time: a run that was stopped goes on. An hour on two processors, most of it features.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

import leukoscope
from leukoscope.bundle.manifest import REFUSED
from leukoscope.config import Experiment
from leukoscope.data.audit import read_traits
from leukoscope.data.cells import Cell
from leukoscope.data.split import group_of_subject, subject_groups
from leukoscope.evaluation.predictions import fit_temperature, temper
from leukoscope.exporting import LeftOutPredictions, fit_rule, guarantee_by_part
from leukoscope.files import atomic_write, read_json
from leukoscope.images.crop import AS_IT_IS, VIEWS, View, canonical_view, prepare_crop, turn
from leukoscope.images.read import RGB, read_image
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.rejection import decide, reached
from leukoscope.pipeline import Input, stage_cells
from leukoscope.progress import blas_threads, in_parallel, processors, track
from leukoscope.studies.generalisation import ALPHA, Answers, Test, measured, pooled, shifts_of
from leukoscope.studies.material import Material, two_columns
from leukoscope.training.probe import discriminant

TURNS = VIEWS["turns"]
HALF = TURNS.index((True, True, False))
DEGREES = 30
SAMPLE = 1200  # cells that are turned by it
CHUNK = 256  # cells; a kill loses no more
SHRINKAGE = 0.1

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("what", choices=["shipped", "variants"])
    ask.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data" / "cnmc")
    ask.add_argument("--model", type=Path)
    ask.add_argument("--cells", type=int, default=640, help="of 'shipped', drawn at random over all subjects")
    ask.add_argument("--work", type=Path, default=Path("runs/orientation"), help="folder of 'variants'")
    asked = ask.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    cells = stage_cells(Input(asked.data), asked.work, Experiment(), say=lambda *_: None)
    traits = read_traits(asked.work / "traits.csv", cells)[[bool(cell.label) for cell in cells]]
    cells = [cell for cell in cells if cell.label]
    predictor = leukoscope.load(asked.model)
    if asked.what == "shipped":
        chosen = np.sort(np.random.default_rng(0).choice(len(cells), asked.cells, replace=False))
        of_shipped(predictor, [cells[row] for row in chosen])
    else:
        compare(predictor, cells, traits, work=asked.work)


def askew(image: RGB) -> RGB:
    return np.asarray(Image.fromarray(image).rotate(DEGREES, Image.Resampling.BICUBIC))


def of_shipped(predictor: Predictor, cells: list[Cell]) -> None:
    """Print how often a decision of a model changes when the picture is turned."""

    def pictures() -> Iterator[tuple[str, RGB]]:
        for cell in cells:
            image = read_image(cell.path)
            for view in TURNS:
                yield cell.name, np.ascontiguousarray(turn(image, view, axes=(0, 1)))
            yield cell.name, askew(image)

    opinions = [opinion for _, opinion in predictor.stream(pictures())]
    shape = (len(cells), len(TURNS) + 1)
    said = np.array([each.decision for each in opinions]).reshape(shape)
    types = np.array([each.type for each in opinions]).reshape(shape)
    positive = predictor.manifest.positive
    chances = np.array([(each.probabilities or {}).get(positive, np.nan) for each in opinions]).reshape(shape)
    exact, classes = said[:, :-1], predictor.classes
    both = np.logical_and.reduce([(exact == name).any(axis=1) for name in classes])
    spread = np.ptp(chances[~np.isnan(chances).any(axis=1), :-1], axis=1)
    print(f"{len(cells)} cells; as they lie: ", end="")
    print(", ".join(f"{name} {(said[:, 0] == name).mean():.1%}" for name in sorted(set(said[:, 0].tolist()))))
    print(f"decision changed by one of the eight views: {(exact != exact[:, :1]).any(axis=1).mean():.1%}")
    print(f"  by half a turn: {(exact[:, HALF] != exact[:, 0]).mean():.1%}")
    print(f"  from one class to the other: {both.mean():.1%}")
    print(f"  refused in some of them: {((exact == REFUSED).any(axis=1) & (exact != REFUSED).any(axis=1)).mean():.1%}")
    print(f"  another type of cell in some: {(types[:, :-1] != types[:, :1]).any(axis=1).mean():.1%}")
    print(f"spread of the probability over them: {spread.mean():.3f} (highest {spread.max():.3f})")
    print(f"decision changed by {DEGREES}°: {(said[:, -1] != said[:, 0]).mean():.1%}", end="; ")
    print(f"change of the probability {np.nanmean(np.abs(chances[:, -1] - chances[:, 0])):.3f}")


@dataclass(frozen=True)
class Seen:
    """What the frozen network sees of some cells, in all eight views of the crop as it lies."""

    features: Floats
    """(cells, views, channels)"""
    canonical: Ints
    """(cells,): the view that `canonical_view` chooses."""


def see(predictor: Predictor, cells: list[Cell], folder: Path, *, tilted: bool = False) -> Seen:
    """Read cells and look at them in eight views; what was seen before is taken from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare = predictor.manifest.members[0].prepare.model_copy(update={"canonical": False})

    def look(cell: Cell) -> tuple[Floats, int]:
        image = read_image(cell.path)
        image = askew(image) if tilted else image
        crop = prepare_crop(image, prepare)
        crops = np.stack([turn(crop, view, axes=(0, 1)) for view in TURNS])
        return predictor.embeddings_of_crops(crops), TURNS.index(canonical_view(image))

    parts = []
    for start in track(range(0, len(cells), CHUNK), f"Looking at cells{' turned by 30°' * tilted}"):
        path = folder / f"{start:06}.npz"
        if not path.exists():
            found = list(in_parallel(look, cells[start : start + CHUNK]))
            with atomic_write(path) as beside, beside.open("wb") as file:
                np.savez(file, features=np.stack([each[0] for each in found]), canonical=[each[1] for each in found])
        with np.load(path) as kept:
            parts.append((kept["features"], kept["canonical"]))
    return Seen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def seen_through() -> list[list[int]]:
    """Return, for a picture turned by each view, which view of the picture as it lies each look at it shows."""
    board = np.arange(16).reshape(4, 4)

    def after(*views: View) -> bytes:
        shown = board
        for view in views:
            shown = turn(shown, view, axes=(0, 1))
        return shown.tobytes()

    plain = [after(view) for view in TURNS]
    return [[plain.index(after(turned, look)) for look in TURNS] for turned in TURNS]


THROUGH = seen_through()
LOOKS: dict[str, list[View]] = {
    "one": [AS_IT_IS],
    "two": [AS_IT_IS, TURNS[HALF]],
    "four": VIEWS["flips"],
    "eight": TURNS,
}


@dataclass(frozen=True)
class Variant:
    """How a head is learnt and how it is asked."""

    words: str
    learnt: str
    """one: the crop as it lies; canonical: in canonical view; eight: all eight views."""
    invariance: float
    looks: str
    canonical: bool
    """Whether the picture is brought to its canonical view first."""

    def asked(self, start: Ints) -> Ints:
        """Return which views (cells, looks) are looked at of pictures that lie in views `start` (cells,)."""
        numbers = [TURNS.index(look) for look in LOOKS[self.looks]]
        return np.array([[THROUGH[each][number] for number in numbers] for each in start])


VARIANTS = (
    Variant("one view of each (as it was)", "one", 0, "one", canonical=False),
    Variant("learnt from eight views", "eight", 1, "one", canonical=False),
    Variant("… turning counts 10 times", "eight", 10, "one", canonical=False),
    Variant("one view, asked in two", "one", 0, "two", canonical=False),
    Variant("one view, asked in four", "one", 0, "four", canonical=False),
    Variant("one view, asked in eight", "one", 0, "eight", canonical=False),
    Variant("learnt from eight, asked in eight", "eight", 1, "eight", canonical=False),
    Variant("canonical view", "canonical", 0, "one", canonical=True),
    Variant("canonical view, learnt from eight", "eight", 1, "one", canonical=True),
    Variant("… turning counts 3 times", "eight", 3, "one", canonical=True),
    Variant("… turning counts 5 times", "eight", 5, "one", canonical=True),
    Variant("… turning counts 10 times", "eight", 10, "one", canonical=True),
    Variant("canonical view, learnt from eight, asked in two", "eight", 5, "two", canonical=True),
)


def compare(predictor: Predictor, cells: list[Cell], traits: Floats, *, work: Path) -> None:
    """Print the table of all variants."""
    linked = [tuple(pair) for pair in read_json(work / "audit.json")["linked_subjects"]]
    group = group_of_subject(subject_groups(cells, linked=linked))
    material = Material(cells, traits, np.array([group[cell.subject] for cell in cells]), work)
    seen = see(predictor, cells, work / "as it lies")
    sample = np.sort(np.random.default_rng(0).choice(len(cells), min(SAMPLE, len(cells)), replace=False))
    tilted = see(predictor, [cells[row] for row in sample], work / f"{DEGREES} degrees", tilted=True)
    print(f"{len(cells):,} cells; {len(sample):,} of them turned by {DEGREES}°\n")
    names = ["head, and how it is asked", "AUROC", "sizes alike", "decided", "called the other, worst part"]
    print("| " + " | ".join([*names, "changed by 8 views", f"by {DEGREES}°"]) + " |\n" + "|---" * 7 + "|")
    heads: dict[tuple[str, float], list[tuple[Floats, Floats]]] = {}
    for variant in VARIANTS:
        key = variant.learnt, variant.invariance
        if key not in heads:
            views = learnt_views(variant.learnt, seen.canonical)
            heads[key] = [head(material, seen, test, views, variant.invariance) for test in shifts_of(material)]
        found = row(material, seen, variant, tilted=tilted, sample=sample, heads=heads[key])
        print(f"| {' | '.join([variant.words, *found])} |", flush=True)


def learnt_views(learnt: str, canonical: Ints) -> Ints:
    """Return the views (cells, number) that a head learns from."""
    every = np.tile(np.arange(len(TURNS)), (len(canonical), 1))
    return {"one": every[:, :1], "canonical": canonical[:, None], "eight": every}[learnt]


def head(material: Material, seen: Seen, test: Test, views: Ints, invariance: float) -> tuple[Floats, Floats]:
    rows = test.train_rows
    features = np.take_along_axis(seen.features[rows], views[rows][..., None], axis=1)
    with blas_threads(processors()):
        labels, groups = material.labels[rows], material.groups[rows]
        return discriminant(features, labels, groups, shrinkage=SHRINKAGE, invariance=invariance)


def row(
    material: Material, seen: Seen, variant: Variant, *, tilted: Seen, sample: Ints, heads: list[tuple[Floats, Floats]]
) -> list[str]:
    """Return what a variant comes to, as cells of the table."""
    tests = shifts_of(material)

    def answers(features: Floats, start: Ints) -> Floats:
        """Return the probabilities (tests, cells) of pictures that lie in views `start`."""
        views = variant.asked(start)
        logits = [np.einsum("nvc,c->nv", features, weight[0]) + bias for weight, bias in heads]
        return np.stack([expit(np.take_along_axis(each, views, axis=1)).mean(axis=1) for each in logits])

    def over_parts(chances: Floats) -> Answers:
        given = {test.name: Answers(test, [each[test.test_rows]]) for test, each in zip(tests, chances, strict=True)}
        found = pooled(material, given)
        assert found is not None
        return found

    starts: Iterable[Ints] = [np.full(len(seen.canonical), number) for number in range(len(TURNS))]
    if variant.canonical:
        starts = [seen.canonical]  # whatever way the picture lies
    said = [over_parts(answers(seen.features, start)) for start in starts]
    rows, first = said[0].test.test_rows, two_columns(said[0].seeds[0])
    columns = (material.labels[rows], material.group_names[rows], material.parts[rows])
    left_out = LeftOutPredictions(material.classes, first, *columns)
    temperature = fit_temperature(left_out.labels, first)
    calibrated = left_out.tempered(temperature)
    rule = fit_rule(calibrated, alpha=ALPHA)

    def decided(chances: Floats) -> Ints:
        return decide(temper(two_columns(chances), temperature), rule)

    decisions = np.stack([decided(each.seeds[0]) for each in said], axis=1)
    start = tilted.canonical if variant.canonical else np.zeros(len(sample), np.int64)
    turned = np.full((len(tests), len(material.labels)), np.nan)
    turned[:, sample] = answers(tilted.features, start)
    after = over_parts(turned).seeds[0]
    there = ~np.isnan(after)
    by_tilting = (decided(np.nan_to_num(after)) != decisions[:, 0])[there].mean()
    sampled = measured(material, {"all": said[0]})
    cover = reached(rule, calibrated.probabilities, *columns[:2], classes=material.classes)
    worst = max(
        each["called_another"] for part in guarantee_by_part(left_out, alpha=ALPHA) for each in part["classes"].values()
    )
    interval = "{value:.3f} ({low:.3f} to {high:.3f})"
    return [
        *(interval.format(**sampled.interval(f"all.{kind}")) for kind in ("auroc", "sizes")),
        ", ".join(f"{name} {cover[name]['decided']:.0%}" for name in material.classes),
        f"{worst:.0%}",
        f"{(decisions != decisions[:, :1]).any(axis=1).mean():.1%}",
        f"{by_tilting:.1%}",
    ]


if __name__ == "__main__":
    main()
