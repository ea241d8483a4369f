"""ellassir-2022: the paper's protocol, the same split by subject, and why its networks predict a single class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Experiment, shipped
from ..errors import DataError
from ..evaluation.metrics import accuracy, auroc, balanced_accuracy, confusion
from .material import BATCH, RUNNING, at_half, follow, load, prepare, sample, two_columns
from .study import (
    INTERVAL,
    Bench,
    Figure,
    Line,
    Number,
    Page,
    Section,
    Seeds,
    Study,
    StudySize,
    beyond_chance,
    confusions,
    lines,
    over_seeds,
    shown,
    signed,
)

METRICS = ("accuracy", "balanced_accuracy", "auroc", "one_class", "baseline")


@dataclass(frozen=True)
class Variant:
    """One way to run the protocol; everything that is not named is the paper's."""

    name: str
    by_image: bool
    changes: tuple[str, ...] = ()
    statistics: str = RUNNING

    @property
    def training(self) -> tuple[bool, tuple[str, ...]]:
        """Return what decides the weights: arms that share it are one training."""
        return self.by_image, self.changes


PAPER = Variant("the paper: images at random", by_image=True)
APART = Variant("subjects kept apart", by_image=False)
FRESH = Variant("same weights, statistics of the batch", by_image=False, statistics=BATCH)
QUICK = Variant("norm_momentum 0.9 for 0.99", by_image=False, changes=("model.norm_momentum=0.9",))
SLOW = Variant("learning rate 0.001 for 0.01", by_image=False, changes=("train.learning_rate=0.001",))
BOTH = Variant("both of these", by_image=False, changes=("model.norm_momentum=0.9", "train.learning_rate=0.001"))
VARIANTS = (PAPER, APART, FRESH, QUICK, SLOW, BOTH)
# The smallest change first: nothing is trained anew, then one setting, then two.
CURES = (FRESH, QUICK, SLOW, BOTH)


def run(bench: Bench) -> Page:
    """Train every variant once per seed and record its predictions after every epoch."""
    material = load(bench)
    if len(material.classes) != 2:
        raise DataError("ellassir-2022 needs two classes. Give a folder of cells with two classes.")
    # Seed by seed, so that a stopped study has all variants of the finished seeds.
    by_seed = [{arm.name: _trained(bench, material, arm, seed) for arm in VARIANTS} for seed in bench.seeds]
    traces = {arm.name: [one[arm.name] for one in by_seed] for arm in VARIANTS}
    last = {arm.name: [judged(trace, arm.statistics, -1) for trace in traces[arm.name]] for arm in VARIANTS}
    found = over_seeds({f"{name}.{m}": [one[m] for one in each] for name, each in last.items() for m in METRICS})
    numbers = {arm.name: {metric: found.interval(f"{arm.name}.{metric}") for metric in METRICS} for arm in VARIANTS}
    gains = {
        arm.name: found.difference(f"{arm.name}.balanced_accuracy", f"{APART.name}.balanced_accuracy") for arm in CURES
    }
    lie = {metric: found.difference(f"{PAPER.name}.{metric}", f"{APART.name}.{metric}") for metric in METRICS}
    tables = {arm.name: _mean_table(traces[arm.name], arm.statistics) for arm in (PAPER, APART)}
    epochs = _by_epoch(traces)
    sections = [
        _protocol(numbers, lie, tables, material.classes, bench),
        _why(epochs, bench),
        _cure(numbers, gains),
    ]
    ran_on = {
        "Images": f"{material.words()}; each seed draws {bench.scale.images or len(material.cells):,} of them",
        "Model": "seed-cnn, Adam, batches of 32, from random weights; the last epoch at a threshold of 0.5",
        "Epochs": str(bench.scale.epochs),
        "Interval": INTERVAL,
    }
    all_numbers = {"arms": numbers, "paper - apart": lie, "gains": gains, "confusion": tables, "epochs": epochs}
    notes = _notes(bench)
    return Page(_answer(numbers, gains, bench), ran_on, sections, all_numbers, notes)


def _trained(bench: Bench, material: Any, arm: Variant, seed: int) -> dict[str, Any]:
    experiment = Experiment.read(
        shipped("ellassir-2022"),
        overrides=(
            f"seed={seed}",
            f"prepare.size={bench.scale.size}",
            f"train.epochs={bench.scale.epochs}",
            *arm.changes,
        ),
    )

    def work() -> dict[str, Any]:
        drawn = sample(material, bench.scale.images, rng=np.random.default_rng(seed))
        return follow(prepare(drawn, experiment, by_image=arm.by_image))

    kind = "by image" if arm.by_image else "apart"
    name = ", ".join([kind, *(change.rpartition(".")[2] for change in arm.changes), f"seed {seed}"])
    settings = {"experiment": experiment.model_dump(mode="json"), "by_image": arm.by_image}
    trace: dict[str, Any] = bench.kept(name, settings, work)
    return trace


def judged(trace: dict[str, Any], statistics: str, epoch: int) -> dict[str, float]:
    """Return the figures of one network at one epoch at a threshold of 0.5, as in the paper."""
    labels, chances = np.array(trace["labels"]), trace["predictions"][statistics][epoch]
    predicted = at_half(chances)
    table = confusion(labels, predicted, classes=2)
    return {
        "accuracy": float(accuracy(table)),
        "balanced_accuracy": float(balanced_accuracy(table)),
        "auroc": float(auroc(labels, two_columns(chances))),
        "one_class": float(len(set(predicted.tolist())) == 1),
        "baseline": float(np.bincount(labels, minlength=2).max() / len(labels)),
    }


def _mean_table(traces: Sequence[dict[str, Any]], statistics: str) -> list[list[float]]:
    tables = [confusion(t["labels"], at_half(t["predictions"][statistics][-1]), classes=2) for t in traces]
    mean: list[list[float]] = np.mean(tables, axis=0).round(2).tolist()
    return mean


def _by_epoch(traces: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, list[Number]]]:
    """Return {arm: {what: one number per epoch}} for accuracy, one class and lag."""
    followed: dict[str, dict[str, list[Number]]] = {}
    for arm in VARIANTS:
        epochs = [_epoch(traces[arm.name], arm, epoch) for epoch in range(len(traces[arm.name][0]["lag"]))]
        followed[arm.name] = {
            name: [found.interval(name) for found in epochs]
            for name in ("balanced_accuracy", "one_class", "lag", "train_accuracy")
        }
    return followed


def _epoch(traces: list[dict[str, Any]], arm: Variant, epoch: int) -> Seeds:
    found = [judged(trace, arm.statistics, epoch) for trace in traces]
    values = {name: [one[name] for one in found] for name in ("balanced_accuracy", "one_class")}
    return over_seeds(values | {name: [trace[name][epoch] for trace in traces] for name in ("lag", "train_accuracy")})


def _protocol(
    numbers: dict[str, Any], lie: dict[str, Number], tables: dict[str, Any], classes: Sequence[str], bench: Bench
) -> Section:
    rows: list[list[Any]] = [
        [arm.name, *(numbers[arm.name][m] for m in ("accuracy", "baseline", "balanced_accuracy", "auroc", "one_class"))]
        for arm in (PAPER, APART)
    ]
    rows.append(
        ["difference", *(signed(lie[m]) for m in ("accuracy", "baseline", "balanced_accuracy", "auroc", "one_class"))]
    )
    columns = [
        "split",
        "accuracy",
        "accuracy of the majority class",
        "balanced accuracy",
        "AUROC",
        "runs with a single predicted class",
    ]
    words = f"Confusion matrices, mean over {bench.scale.seeds} seeds: true class (rows) by predicted class (columns)."
    shown_as = {"images at random": tables[PAPER.name], "subjects apart": tables[APART.name]}
    figure = Figure("confusion", confusions("ellassir-confusion", shown_as, labels=classes), words)
    text = (
        "The paper reports 63.6 %; its confusion matrix [[0, 44], [0, 76]] gives 63.3 %: every cell of its validation "
        "set was called leukemia. "
        "Below, the same network, optimiser and number of epochs."
    )
    return Section("The protocol", text, columns, rows, [figure])


def _why(epochs: dict[str, dict[str, list[Number]]], bench: Bench) -> Section:
    x = list(range(1, bench.scale.epochs + 1))
    drawn = {
        "running statistics": Line(x, epochs[APART.name]["balanced_accuracy"]),
        "batch statistics": Line(x, epochs[FRESH.name]["balanced_accuracy"]),
        "training cells (accuracy)": Line(x, epochs[APART.name]["train_accuracy"], dashed=True),
    }
    arms = {"0.99, rate 0.01": APART, "0.9, rate 0.01": QUICK, "0.99, rate 0.001": SLOW, "0.9, rate 0.001": BOTH}
    single = {name: Line(x, epochs[arm.name]["one_class"]) for name, arm in arms.items()}
    lag = {name: Line(x, epochs[arm.name]["lag"]) for name, arm in arms.items()}
    figures = [
        Figure(
            "epochs",
            lines("ellassir-epochs", drawn, x="epoch", y="balanced accuracy", chance=0.5),
            "The same weights at each epoch, evaluated with the running statistics and with those of the batch.",
        ),
        Figure(
            "one-class",
            lines("ellassir-one-class", single, x="epoch", y="runs with a single predicted class"),
            "Share of runs that predict one class for all test cells, by momentum of the statistics and learning rate.",
        ),
        Figure(
            "lag",
            lines("ellassir-lag", lag, x="epoch", y="lag, standard deviations"),
            "Distance of the running means from those of the test batches, mean over channels and layers.",
        ),
    ]
    text = (
        "In training, batch normalisation uses the mean and variance of the batch; afterwards, running averages of "
        "them, which change by one per cent per step with a momentum of 0.99. Each figure varies one factor."
    )
    return Section("Why it predicts a single class", text, figures=figures)


def _cure(numbers: dict[str, Any], gains: dict[str, Number]) -> Section:
    rows: list[list[Any]] = [
        [
            arm.name,
            *(numbers[arm.name][metric] for metric in ("balanced_accuracy", "auroc", "one_class")),
            signed(gains[arm.name]) if arm.name in gains else "",
        ]
        for arm in (APART, *CURES)
    ]
    columns = ["arm", "balanced accuracy", "AUROC", "runs with a single predicted class", "gain in balanced accuracy"]
    return Section("What corrects it", "All split by subject, the smallest change first.", columns, rows)


def _answer(numbers: dict[str, Any], gains: dict[str, Number], bench: Bench) -> str:
    paper = numbers[PAPER.name]
    often = round(paper["one_class"]["value"] * bench.scale.seeds)
    runs = f"{often} of {bench.scale.seeds} runs of the paper's protocol end with one predicted class for every cell"
    level = f"accuracy {shown(paper['accuracy'])} where the majority class gives {shown(paper['baseline'])}"
    return f"{runs} ({level}). {_cause(gains)} {_smallest(numbers, gains)}"


def _cause(gains: dict[str, Number]) -> str:
    fresh = gains[FRESH.name]
    if beyond_chance(fresh) > 0:
        return (
            "The network has learned, but its running statistics lag: the same weights with the batch's own "
            f"statistics gain {shown(fresh, signed=True)} in balanced accuracy when split by subject."
        )
    return (
        "Evaluating the same weights with the batch's own statistics is not shown to help "
        f"({shown(fresh, signed=True)} in balanced accuracy when split by subject)."
    )


def _smallest(numbers: dict[str, Any], gains: dict[str, Number]) -> str:
    """Name the smallest change of settings that gains beyond chance and leaves no run with a single predicted class."""
    better = [arm.name for arm in CURES if arm.changes and beyond_chance(gains[arm.name]) > 0]
    cured = [name for name in better if not numbers[name]["one_class"]["value"]]
    partly = [name for name in better if name not in cured]
    words = [
        f"{name} helps ({shown(gains[name], signed=True)}), but {numbers[name]['one_class']['value']:.0%} of "
        "the runs still predict a single class."
        for name in partly
    ]
    if not cured:
        return " ".join([*words, "None of the changes of one or two settings is shown to correct it."])
    gain = shown(gains[cured[0]], signed=True)
    return " ".join([*words, f"The smallest change that is shown to correct it: {_plain(cured[0])} ({gain})."])


def _plain(name: str) -> str:
    return f"{QUICK.name} and {SLOW.name}" if name == BOTH.name else name


def _notes(bench: Bench) -> list[str]:
    if bench.scale.size >= 450:
        return []
    return [
        f"The paper's crops have 450 px; these have {bench.scale.size}. The number of steps is the paper's, and the "
        "statistics lag by steps. `--size 450` runs it in full."
    ]


STUDY = Study(
    "ellassir-2022",
    "The paper's protocol, and why it predicts a single class",
    "A small CNN trained on 600 images for 20 epochs works (63.6 % accuracy) and only lacks data and epochs.",
    StudySize(seeds=10, images=600, size=96, epochs=20),
    run,
)
