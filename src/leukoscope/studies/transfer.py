"""transfer: pretrained networks against the paper's, and the same cells explained by several of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.graph import with_head
from ..config import Experiment, Prepare, shipped
from ..errors import DataError
from ..evaluation.metrics import Floats
from ..explanation import Heat, enlarge, lime, overlay
from ..images.read import RGB
from ..report.figures import canvas, drawing
from .ellassir_2022 import METRICS, judged
from .material import (
    LITE0,
    RUNNING,
    Backbone,
    Crops,
    Material,
    backbone,
    features_of,
    fit_and_predict,
    follow,
    head_of,
    load,
    open_session,
    prepare,
    sample,
    with_weights,
)
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

_SAMPLES = 120  # sets of patches that LIME hides: enough for the few patches of a small crop
_PATCHES = 20


@dataclass(frozen=True)
class ExplainedModel:
    """A model to be explained."""

    name: str
    onnx: bytes
    head: tuple[Any, Any] | None = None
    """Weight and bias that take the place of its own head."""


def contact_sheet(crops: Crops, models: Sequence[ExplainedModel], *, names: Sequence[str]) -> str:
    """Draw one row per cell: the crop, then each model's activation map and LIME for the disease."""
    columns = [("cell", list(crops)), *(column for model in models for column in _explained(model, crops))]
    with canvas(height=0.2 + 0.72 * len(crops)) as (figure, first):
        figure.delaxes(first)
        for axes, (row, column) in zip(
            figure.subplots(len(crops), len(columns), squeeze=False).ravel(),
            np.ndindex(len(crops), len(columns)),
            strict=True,
        ):
            axes.imshow(columns[column][1][row], interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(columns[column][0], fontsize=5)
            if column == 0:
                axes.text(0, 0.98, names[row], fontsize=6, color="white", va="top", transform=axes.transAxes)
        return drawing(figure, "activation-maps")


def _explained(model: ExplainedModel, crops: Crops) -> list[tuple[str, list[RGB]]]:
    session = open_session(model.onnx if model.head is None else with_head(model.onnx, *model.head))

    def predict(batch: Crops) -> Any:
        return session.run(["probabilities"], {"crops": np.ascontiguousarray(batch)})[0]

    maps = session.run(["map"], {"crops": np.ascontiguousarray(crops)})[0][:, 1]
    # Networks differ in how large their evidence is: here each cell has its own scale, of its strongest place.
    cams = [_over(crop, enlarge(plane, size=len(crop))) for crop, plane in zip(crops, maps, strict=True)]
    limes = [_over(crop, _lime(predict, crop)) for crop in crops]
    return [(f"{model.name}\nmap", cams), (f"{model.name}\nLIME", limes)]


def _over(crop: RGB, heat: Heat) -> RGB:
    return overlay(crop, heat, full=float(np.abs(heat).max()) / 2 or 1.0)


def _lime(predict: Any, crop: RGB) -> Any:
    return lime(predict, crop, target=1, rng=np.random.default_rng(0), samples=_SAMPLES, count=_PATCHES)


BACKBONES = {
    "EfficientNet-Lite0": LITE0,
    "InceptionV3": "timm:inception_v3",
    "ResNet101V2": "timm:resnetv2_101",
    "VGG19": "timm:vgg19",
    "InceptionResNetV2": "timm:inception_resnet_v2",
}
SEED_CNN, ALL_FROZEN, TRAINED = "seed-cnn", "mean of all frozen", "mean of those with trained weights"
_SMALLEST = 75  # px; two of the backbones take no smaller crops
_TOO_SHORT = "random weights, one epoch: too short to mean anything"


@dataclass(frozen=True)
class ModelRow:
    """Predictions of one model in every seed."""

    traces: list[dict[str, Any]]
    weights: str
    steps: str
    trained: bool
    """Whether its weights were trained long enough, here or elsewhere, for its numbers to mean something."""


def run(bench: Bench) -> Page:
    """Train or fit every model once per seed on the same subjects."""
    material = load(bench)
    if len(material.classes) != 2:
        raise DataError("transfer needs two classes. Give a folder of cells with two classes.")
    rows = _rows(bench, material)
    values = {
        f"{name}.{metric}": [judged(trace, RUNNING, -1)[metric] for trace in row.traces]
        for name, row in rows.items()
        for metric in METRICS
    }
    found = over_seeds(values)
    numbers = {name: {metric: found.interval(f"{name}.{metric}") for metric in METRICS} for name in rows}
    gains = {name: found.difference(f"{name}.auroc", f"{SEED_CNN}.auroc") for name in rows if name != SEED_CNN}
    sections = [_section(rows, numbers, gains), _pictures(bench, material)]
    ran_on = {
        "Images": f"{material.words()}; each seed draws {bench.scale.images or len(material.cells):,} of them",
        "Split": "80 % for training, 20 % for testing, by subject; the same for every row of a seed",
        "Interval": INTERVAL,
    }
    facts = {
        name: {"weights": row.weights, "training": row.steps, "trained": row.trained} for name, row in rows.items()
    }
    return Page(_answer(rows, numbers, gains), ran_on, sections, {"arms": numbers, "gains": gains, "models": facts})


def _rows(bench: Bench, material: Material) -> dict[str, ModelRow]:
    rows = {SEED_CNN: _trained(bench, material, SEED_CNN, epochs=bench.scale.epochs)}
    for name, model in BACKBONES.items():
        _, weights = with_weights(model, offline=bench.given.offline)
        known = weights != "random"
        frozen = [_frozen(bench, material, model, name, seed) for seed in bench.seeds]
        rows[f"{name}, frozen"] = ModelRow(frozen, weights, "logistic head alone", known)
        rows[f"{name}, fine-tuned"] = _trained(bench, material, name, epochs=bench.scale.epochs if known else 1)
    frozen_rows = [name for name in rows if name.endswith(", frozen")]
    rows[ALL_FROZEN] = _mean(rows, frozen_rows)
    rows[TRAINED] = _mean(rows, [name for name, row in rows.items() if row.trained and name != ALL_FROZEN])
    rows["cell size alone"] = ModelRow(
        [_by_size(bench, material, seed) for seed in bench.seeds], "", "one feature", True
    )
    return rows


def _experiment(bench: Bench, name: str, *, epochs: int, seed: int) -> tuple[Experiment, str]:
    """Return the settings of a row that is trained, and where its weights come from."""
    fixed = [f"seed={seed}", f"train.epochs={epochs}", f"prepare.size={_size(bench)}"]
    if name == SEED_CNN:
        cured = ["model.norm_momentum=0.9", "train.learning_rate=0.001"]
        return Experiment.read(shipped("ellassir-2022"), overrides=(*fixed, *cured)), "random"
    model, weights = with_weights(BACKBONES[name], offline=bench.given.offline)
    fixed += [f"model.name={model.name}", f"model.weights={model.weights}", "model.reduce=1", "model.views=one"]
    fixed += ["prepare.view=window", "train.balance=weights", "train.average=0.9"]
    fixed += [] if model.weights else ["train.frozen_stages=0"]
    return Experiment.read(shipped("fine-tune"), overrides=tuple(fixed)), weights


def _size(bench: Bench) -> int:
    return max(_SMALLEST, bench.scale.size)


def _drawn(bench: Bench, material: Material, seed: int) -> Material:
    return sample(material, bench.scale.images, rng=np.random.default_rng(seed))


def _trained(bench: Bench, material: Material, name: str, *, epochs: int) -> ModelRow:
    traces = []
    for seed in bench.seeds:
        experiment, weights = _experiment(bench, name, epochs=epochs, seed=seed)
        settings = experiment.model_dump(mode="json", exclude={"model": {"weights"}}) | {"weights": weights}
        onnx = _network_file(bench, name) if seed == 0 else None

        def work(seed: int = seed, experiment: Experiment = experiment, onnx: Path | None = onnx) -> dict[str, Any]:
            prepared = prepare(_drawn(bench, material, seed), experiment, by_image=False)
            return follow(prepared, onnx=onnx)

        traces.append(bench.kept(f"{name}, trained, seed {seed}", settings, work))
    trained = name == SEED_CNN or weights != "random"
    return ModelRow(traces, weights, f"{epochs} epoch{'s' * (epochs > 1)}" if trained else _TOO_SHORT, trained)


def _network_file(bench: Bench, name: str) -> Path:
    return bench.work / bench.study.name / f"{name}.onnx"


def _sets(bench: Bench, drawn: Material, seed: int) -> tuple[Any, Any]:
    """Return the training and the test rows, the same as for networks that are trained."""
    experiment, _ = _experiment(bench, SEED_CNN, epochs=1, seed=seed)
    prepared = prepare(drawn, experiment, by_image=False)
    return prepared.rows("train", fold=0), prepared.rows("test", fold=0)


def _frozen(bench: Bench, material: Material, model: str, name: str, seed: int) -> dict[str, Any]:
    def work() -> dict[str, Any]:
        drawn = _drawn(bench, material, seed)
        train, test = _sets(bench, drawn, seed)
        features = _features(bench, drawn, backbone(bench, model, size=_size(bench)))
        return _trace(drawn, test, fit_and_predict(features, drawn.labels, train=train, test=features[test], classes=2))

    weights = with_weights(model, offline=bench.given.offline)[1]
    trace: dict[str, Any] = bench.kept(f"{name}, frozen, seed {seed}", {"weights": weights}, work)
    return trace


def _features(bench: Bench, material: Material, network: Backbone) -> Any:
    return features_of(bench, material, network, prepare=Prepare(size=_size(bench)))


def _by_size(bench: Bench, material: Material, seed: int) -> dict[str, Any]:
    drawn = _drawn(bench, material, seed)
    train, test = _sets(bench, drawn, seed)
    size = drawn.shortcut("size")
    return _trace(drawn, test, fit_and_predict(size, drawn.labels, train=train, test=size[test], classes=2))


def _trace(material: Material, test: Any, chances: Floats) -> dict[str, Any]:
    return {"labels": material.labels[test].tolist(), "predictions": {RUNNING: [chances[:, 1].round(6).tolist()]}}


def _mean(rows: dict[str, ModelRow], names: list[str]) -> ModelRow:
    """Return the mean prediction of several models."""
    traces = []
    for seed in range(len(rows[names[0]].traces)):
        mean = np.mean([rows[name].traces[seed]["predictions"][RUNNING][-1] for name in names], axis=0)
        traces.append({"labels": rows[names[0]].traces[seed]["labels"], "predictions": {RUNNING: [mean.tolist()]}})
    trained = all(rows[name].trained for name in names)
    return ModelRow(traces, "of its members", f"{len(names)} models", trained)


def _section(rows: dict[str, ModelRow], numbers: dict[str, Any], gains: dict[str, Number]) -> Section:
    table: list[list[Any]] = [
        [
            name,
            row.weights,
            row.steps,
            numbers[name]["auroc"],
            numbers[name]["balanced_accuracy"],
            numbers[name]["accuracy"],
            signed(gains[name]) if name in gains else "",
        ]
        for name, row in rows.items()
    ]
    table.append(["the majority class", "", "", "0.500", "0.500", numbers[SEED_CNN]["baseline"], ""])
    columns = [
        "model",
        "weights at the start",
        "training",
        "AUROC",
        "balanced accuracy",
        "accuracy",
        "AUROC against seed-cnn",
    ]
    svg = dots("transfer", {name: each["auroc"] for name, each in numbers.items()}, x="AUROC", chance=0.5)
    text = "Rows that start from random weights and are trained too briefly do not measure their network."
    return Section("Models compared", text, columns, table, [Figure("auroc", svg, "AUROC of each model.")])


def _pictures(bench: Bench, material: Material) -> Section:
    """Draw activation maps and LIME of the trained models; pictures of real cells stay in `work`."""
    drawn = _drawn(bench, material, 0)
    train, test = _sets(bench, drawn, 0)
    frozen = backbone(bench, LITE0, size=_size(bench))
    weight, bias = head_of(_features(bench, drawn, frozen)[train], drawn.labels[train])
    models = [
        ExplainedModel("seed-cnn", _network_file(bench, SEED_CNN).read_bytes()),
        ExplainedModel("Lite0, frozen", frozen.onnx, (weight, bias)),
        ExplainedModel("Lite0, fine-tuned", _network_file(bench, "EfficientNet-Lite0").read_bytes()),
    ]
    chosen = [row for label in (0, 1) for row in test[drawn.labels[test] == label][:2]]
    crops = np.asarray(drawn.crops(Prepare(size=_size(bench))))[chosen]
    names = [drawn.classes[drawn.labels[row]] for row in chosen]
    sheet = contact_sheet(crops, models, names=names)
    if not material.synthetic:
        file = bench.work / bench.study.name / "activation-maps.svg"
        _write(file, sheet)
        return Section(
            "Activation maps and LIME",
            "Each run draws four test cells with their activation maps and LIME, of the "
            f"same cells side by side, to `{file.name}` in its work folder; pictures of these cells are "
            "not shown here.",
        )
    words = "Synthetic cells: the crop, then for each model its activation map and LIME. Orange: evidence for blast."
    return Section("Activation maps and LIME", "", figures=[Figure("activation-maps", sheet, words)])


def _write(file: Path, svg: str) -> None:
    from ..files import write_text
    from ..report.figures import for_file

    write_text(file, for_file(svg))


def _answer(rows: dict[str, ModelRow], numbers: dict[str, Any], gains: dict[str, Number]) -> str:
    meant = [name for name, row in rows.items() if row.trained and name in gains and name != "cell size alone"]
    untrained = sum(not row.trained for row in rows.values())
    best = max(meant, key=lambda name: numbers[name]["auroc"]["value"])
    better = "better than" if beyond_chance(gains[best]) > 0 else "not shown to be better than"
    text = (
        f"Split by subject, the best of the models with trained weights, {best}, reaches an AUROC of "
        f"{shown(numbers[best]['auroc'])} and an accuracy of {shown(numbers[best]['accuracy'])}; it is {better} "
        f"seed-cnn ({shown(gains[best], signed=True)})."
    )
    return text + f" {untrained} rows start from random weights and do not measure their network." * bool(untrained)


STUDY = Study(
    "transfer",
    "Does transfer learning reach 96 %?",
    "Transfer learning with large pretrained networks reaches 96.15 % (Abir et al., with LIME as its explanation).",
    StudySize(seeds=4, images=800, size=96, epochs=6),
    run,
)
