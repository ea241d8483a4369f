"""more-layers: the paper's network against deeper and wider ones, on the same subjects, images and steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Experiment, shipped
from ..errors import DataError
from ..evaluation.metrics import Ints
from ..models.catalogue import build_network
from ..models.network import count
from .ellassir_2022 import METRICS, judged
from .material import RUNNING, Material, fit_and_predict, follow, load, prepare, sample
from .study import (
    INTERVAL,
    Bench,
    Figure,
    Number,
    Page,
    Section,
    Study,
    StudySize,
    beyond_chance,
    dots,
    over_seeds,
    shown,
    signed,
)

_CURED = ("model.norm_momentum=0.9", "train.learning_rate=0.001")


@dataclass(frozen=True)
class NetworkSettings:
    """A network and the settings that differ from the paper's."""

    name: str
    model: str
    changes: tuple[str, ...] = _CURED


PAPER = NetworkSettings("seed-cnn (4 convolutions)", "seed-cnn")
ARMS = (
    PAPER,
    NetworkSettings("seed-cnn-deep (8 convolutions)", "seed-cnn-deep"),
    NetworkSettings("ResNet-10 (10 layers, 64 to 512 wide)", "timm:resnet10t"),
    NetworkSettings("ResNet-18 (18 layers, 64 to 512 wide)", "timm:resnet18"),
    NetworkSettings("seed-cnn, the paper's settings", "seed-cnn", ()),
    NetworkSettings("seed-cnn-deep, the paper's settings", "seed-cnn-deep", ()),
)
SIZE = "cell size alone"


def run(bench: Bench) -> Page:
    """Train every network once per seed from random weights, subjects kept apart."""
    material = load(bench)
    if len(material.classes) != 2:
        raise DataError("more-layers needs two classes. Give a folder of cells with two classes.")
    by_seed = [{arm: _trained(bench, material, arm, seed) for arm in ARMS} for seed in bench.seeds]
    traces = {arm: [one[arm] for one in by_seed] for arm in ARMS}
    values = {
        f"{arm.name}.{metric}": [judged(trace, RUNNING, -1)[metric] for trace in traces[arm]]
        for arm in ARMS
        for metric in METRICS
    }
    # The size of the same test cells; its predictions do not depend on the network.
    values |= {
        f"{SIZE}.{metric}": [judged(trace["size"], RUNNING, -1)[metric] for trace in traces[PAPER]]
        for metric in METRICS
    }
    found = over_seeds(values)
    names = [*(arm.name for arm in ARMS), SIZE]
    numbers = {name: {metric: found.interval(f"{name}.{metric}") for metric in METRICS} for name in names}
    gains = {name: found.difference(f"{name}.auroc", f"{PAPER.name}.auroc") for name in names if name != PAPER.name}
    parameters = {
        arm.name: count(build_network(_experiment(bench, arm, 0).model, classes=2, size=bench.scale.size))
        for arm in ARMS
    }
    ran_on = {
        "Images": f"{material.words()}; each seed draws {bench.scale.images or len(material.cells):,} of them",
        "Training": f"From random weights, {bench.scale.epochs} epochs, Adam at 0.001, batches of 32, statistics that "
        "keep 0.9 at a step; the rows of the paper's settings: 0.01 and 0.99",
        "Interval": INTERVAL,
    }
    all_numbers = {"arms": numbers, f"AUROC less that of {PAPER.name}": gains, "parameters": parameters}
    return Page(_answer(numbers, gains), ran_on, [_section(numbers, gains, parameters)], all_numbers)


def _experiment(bench: Bench, arm: NetworkSettings, seed: int) -> Experiment:
    fixed = (
        f"seed={seed}",
        f"prepare.size={bench.scale.size}",
        f"train.epochs={bench.scale.epochs}",
        f"model.name={arm.model}",
    )
    return Experiment.read(shipped("ellassir-2022"), overrides=(*fixed, *arm.changes))


def _trained(bench: Bench, material: Material, arm: NetworkSettings, seed: int) -> dict[str, Any]:
    experiment = _experiment(bench, arm, seed)

    def work() -> dict[str, Any]:
        drawn = sample(material, bench.scale.images, rng=np.random.default_rng(seed))
        prepared = prepare(drawn, experiment, by_image=False)
        rows = tuple(prepared.rows(name, fold=0) for name in ("train", "test"))
        return follow(prepared) | {"size": _by_size(drawn, *rows)}

    trace: dict[str, Any] = bench.kept(f"{arm.name}, seed {seed}", experiment.model_dump(mode="json"), work)
    return trace


def _by_size(material: Material, train: Ints, test: Ints) -> dict[str, Any]:
    """Return the predictions of cell size alone for the test cells, in the form of a trace."""
    size = material.shortcut("size")
    chances = fit_and_predict(size, material.labels, train=train, test=size[test], classes=2)[:, 1]
    return {"labels": material.labels[test].tolist(), "predictions": {RUNNING: [chances.round(6).tolist()]}}


def _section(numbers: dict[str, Any], gains: dict[str, Number], parameters: dict[str, int]) -> Section:
    rows: list[list[Any]] = [
        [
            name,
            parameters.get(name),
            each["auroc"],
            each["balanced_accuracy"],
            each["accuracy"],
            each["one_class"],
            signed(gains[name]) if name in gains else "",
        ]
        for name, each in numbers.items()
    ]
    guess = numbers[PAPER.name]["baseline"]
    rows.append(["the majority class", None, "0.500", "0.500", guess, "1.000", ""])
    columns = [
        "network",
        "parameters",
        "AUROC",
        "balanced accuracy",
        "accuracy",
        "runs with a single predicted class",
        "AUROC against seed-cnn",
    ]
    figure = dots("more-layers", {name: each["auroc"] for name, each in numbers.items()}, x="AUROC", chance=0.5)
    text = "Same images, same test subjects, same number of steps; only the network differs."
    return Section("Networks side by side", text, columns, rows, [Figure("auroc", figure, "AUROC of each network.")])


def _answer(numbers: dict[str, Any], gains: dict[str, Number]) -> str:
    others = [arm.name for arm in ARMS[1:4]]
    findings = []
    for way, word in ((1, "better"), (-1, "worse")):
        if names := [name for name in others if beyond_chance(gains[name]) == way]:
            findings.append(f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} shown to be {word}")
    first = f"seed-cnn reaches an AUROC of {shown(numbers[PAPER.name]['auroc'])} on subjects kept apart"
    others_are = " and ".join(findings) or "none is shown to differ from it"
    return f"{first}; of the three deeper or wider networks, {others_are}."


STUDY = Study(
    "more-layers",
    "Do more layers bring anything?",
    "More layers bring nothing: the small network is as good as deeper ones.",
    StudySize(seeds=5, images=600, size=64, epochs=20),
    run,
)
