"""generalisation: how well each way of training performs on parts of the release, and on subjects, not trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, label
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ..config import Experiment, Prepare, shipped
from ..data.cells import cells_fingerprint
from ..data.split import Excluded, Fold, SplitPlan
from ..errors import DataError, UsageError, nearest
from ..evaluation.intervals import Jackknife, Statistics, design_of, jackknife
from ..evaluation.metrics import Floats, Ints, auroc
from ..exporting import LeftOutPredictions, guarantee_by_part
from ..files import fingerprint, read_json, write_json
from ..images.crop import AS_IT_IS, VIEWS, View, cell_mask, turn
from ..training.batches import Crops as PackedCrops
from ..training.batches import Prepared
from ..training.device import launch
from ..training.loop import predict, resume_epochs, start_fold
from ..training.probe import discriminant
from .material import (
    INTERVAL,
    LITE0,
    LITE1,
    LITE2,
    Backbone,
    Crops,
    Features,
    Material,
    backbone,
    features_of,
    folds_by,
    load,
    sample,
    two_columns,
    with_weights,
)
from .study import Bench, Figure, Page, Section, Study, StudySize, TableValue, beyond_chance, dots, shown, signed

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_ROUNDS, _STEP = 8, 1.0  # of group DRO


@dataclass(frozen=True)
class Test:
    """Cells to train on and cells to predict; no subject group is in both."""

    name: str
    train_rows: Ints
    """Rows of the material."""
    test_rows: Ints


Predict = Callable[[Test, int], Floats]


@dataclass(frozen=True)
class Recipe:
    """A way of training a classifier of two classes."""

    name: str
    words: str
    """What is done, in one sentence."""
    kind: ClassVar[str] = ""
    """Name of the kind in the keys of stored answers; a renamed class keeps it."""
    trained: ClassVar[bool] = False
    """Whether a network is trained, which takes hours; all others take minutes."""

    @property
    def key(self) -> str:
        """Return what decides the answers: kind and settings, without name and words."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        plain = {name: getattr(value, "__name__", value) for name, value in values.items()}
        return f"{self.kind}: {plain}"

    def on(self, bench: Bench, material: Material) -> Predict:
        """Return a function of a test and a seed that gives the probability of the disease, (test cells,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneFeature(Recipe):
    """A logistic regression on cell size, or on mean colour, alone."""

    feature: str = "size"
    kind: ClassVar[str] = "OneFeature"

    def on(self, bench: Bench, material: Material) -> Predict:
        """Return the function that fits and predicts; the seed changes nothing."""
        return lambda test, _: _logistic(material.shortcut(self.feature), material, test, strength=1.0)


@dataclass(frozen=True)
class FrozenFeatures(Recipe):
    """A logistic head on the features of frozen networks pretrained on ImageNet."""

    backbones: tuple[str, ...] = (LITE0,)
    change: Callable[[Crops], Crops] | None = None
    """Transformation of crops before the network; its name identifies the stored features."""
    view: Literal["area", "window"] = "area"
    """area: the cell fills the crop. window: 450 px of the source, so that size is seen."""
    gain: float = 2.0
    strength: float = 1e-2
    """Inverse strength of the L2 penalty on standardised features."""
    weighting: str = "subjects"
    """'cells': equal weight per cell; 'subjects': per subject group of a class; 'worst subjects': group DRO."""
    with_size: bool = False
    """Add the cell's size to the features."""
    kind: ClassVar[str] = "Frozen"

    def on(self, bench: Bench, material: Material) -> Predict:
        """Return the function that fits and predicts; the seed changes nothing, and features are read once."""
        table = cache(lambda: self._table(bench, material))

        def ask(test: Test, _: int) -> Floats:
            if self.weighting == "worst subjects":
                return _group_dro(table(), material, test, strength=self.strength)
            return _logistic(table(), material, test, strength=self.strength, by_subject=self.weighting == "subjects")

        return ask

    def _table(self, bench: Bench, material: Material) -> NDArray[np.floating]:
        features = np.concatenate([self._features(bench, material, name) for name in self.backbones], axis=1)
        if not self.with_size:
            return features
        # one column against a thousand: large enough for the penalty not to matter to it
        size = np.log(material.traits[:, :1])
        return np.concatenate([features, 20 * (size - size.mean()) / size.std() * features.std()], axis=1)

    def _features(self, bench: Bench, material: Material, name: str) -> NDArray[np.floating]:
        prepare = Prepare(view=self.view, size=2 * bench.scale.size, margin=0.075)
        network = backbone(bench, name, size=prepare.size, gain=self.gain, reduce=2)
        name_of_change = self.change.__name__ if self.change else ""
        return features_of(bench, material, network, prepare=prepare, name=name_of_change, change=self.change)


@dataclass(frozen=True)
class StageMeans(Recipe):
    """A linear head on the means of all stages of a frozen EfficientNet-Lite0 pretrained on ImageNet."""

    looks: Literal["crop", "crop-and-cell"] = "crop-and-cell"
    view: Literal["window", "area"] = "window"
    seen: int = 64
    """Side of what the network sees, px."""
    shrinkage: float = 0.1
    """Of the linear discriminant; 0: a logistic regression instead."""
    invariance: float = 0
    """Weight of what turning a cell changes; 0: images as they lie, otherwise canonical views."""
    kind: ClassVar[str] = "Stages"

    def on(self, bench: Bench, material: Material) -> Predict:
        """Return the function that fits and predicts; the seed changes nothing, and features are read once."""
        table = cache(lambda: self.features(bench, material))

        def ask(test: Test, _: int) -> Floats:
            if not self.shrinkage:
                return _logistic(table()[:, 0], material, test, strength=1e-2)
            weight, bias = self.fit(table(), material, test.train_rows)
            return np.asarray(expit((table()[test.test_rows, 0] @ weight.T + bias)[:, 0]))

        return ask

    def fit(self, features: Features, material: Material, rows: Ints) -> tuple[Floats, Floats]:
        """Return weight (1, channels) and bias (1,) of the discriminant of some cells."""
        labels, groups = material.labels[rows], material.groups[rows]
        return discriminant(features[rows], labels, groups, shrinkage=self.shrinkage, invariance=self.invariance)

    def features(self, bench: Bench, material: Material) -> Features:
        """Return the features of all cells, (cells, views, channels): of all eight views if turning them counts."""
        prepare = Prepare(view=self.view, window=320, size=2 * self.seen, margin=0.075, canonical=bool(self.invariance))
        settings = {"gain": 2.0, "reduce": 2, "pool": "stages", "looks": self.looks}
        network = backbone(bench, LITE0, size=prepare.size, **settings)
        views = VIEWS["turns" if self.invariance else "one"]
        return np.stack([_features_in(bench, material, network, prepare, view) for view in views], axis=1)


def _features_in(
    bench: Bench, material: Material, network: Backbone, prepare: Prepare, view: View
) -> NDArray[np.float32]:
    if view == AS_IT_IS:
        return features_of(bench, material, network, prepare=prepare).astype(np.float32)

    def turned(crops: Crops) -> Crops:
        return turn(crops, view, axes=(1, 2))

    name = f"view {VIEWS['turns'].index(view)}"
    return features_of(bench, material, network, prepare=prepare, name=name, change=turned).astype(np.float32)


@dataclass(frozen=True)
class Trained(Recipe):
    """The shipped experiment `fine-tune` with some settings changed."""

    settings: tuple[str, ...] = ()
    """As `leukoscope run --set` takes them."""
    kind: ClassVar[str] = "Trained"
    trained: ClassVar[bool] = True

    def experiment(self, bench: Bench, *, seed: int) -> Experiment:
        """Return the settings with which a network is trained."""
        read = Experiment.read(shipped("fine-tune"), overrides=(f"seed={seed}", *self.settings))
        if not read.model.name.startswith("timm:"):
            return read
        weights = with_weights(read.model.name, offline=bench.given.offline)[0].weights
        table = read.model_dump()
        table["model"]["weights"] = weights
        table["train"]["frozen_stages"] *= bool(weights)
        table["train"]["epochs"] = bench.scale.epochs
        table["prepare"]["size"] = 2 * bench.scale.size
        return Experiment.of(table)

    def on(self, bench: Bench, material: Material) -> Predict:
        """Return a function that trains a network and predicts; interrupted training resumes at the last epoch."""
        return lambda test, seed: self._answers(bench, material, test, seed=seed)

    def _answers(self, bench: Bench, material: Material, test: Test, *, seed: int) -> Floats:
        experiment = self.experiment(bench, seed=seed)
        material.crops(experiment.prepare)
        packed = PackedCrops(material.packed_in(experiment.prepare))
        plan = plan_of(material, test)
        prepared = _Prepared(Path(), experiment, material.cells, plan, packed, material.labels, material.traits[:, 0])
        folder = bench.work / bench.study.name / "networks" / f"{self.name}, {test.name}, seed {seed}"
        settings = experiment.train.model_copy(update={"accelerator": "cpu"})
        chances: Floats = launch(settings, _train, prepared, folder, test.test_rows)
        return chances


@dataclass(frozen=True)
class _Prepared(Prepared):
    """Cells of a study in training."""

    area_px: Floats

    def area(self) -> Floats:
        """Return the area of every cell in px."""
        return self.area_px


def _train(fabric: "Fabric", prepared: Prepared, folder: Path, test_rows: Ints) -> Floats:
    task = start_fold(fabric, prepared, fold=0)
    resume_epochs(task, folder / "last.safetensors")
    return predict(task, test_rows)[:, 1]


def plan_of(material: Material, test: Test) -> SplitPlan:
    """Return a split without validation cells that has just the rows of a test."""
    train, test_groups = (
        tuple(sorted(set(material.group_names[rows].tolist()))) for rows in (test.train_rows, test.test_rows)
    )
    used = np.zeros(len(material.cells), dtype=bool)
    used[test.train_rows] = used[test.test_rows] = True
    here = set(zip(material.group_names[used].tolist(), material.parts[used].tolist(), strict=True))
    pairs = zip(material.group_names[~used].tolist(), material.parts[~used].tolist(), strict=True)
    left_out = sorted(set(pairs) - here)
    excluded = tuple(Excluded(group, part, 1, "takes no part in this test") for group, part in left_out)
    groups: dict[str, tuple[str, ...]] = {}
    for cell, group in zip(material.cells, material.group_names.tolist(), strict=True):
        groups[group] = tuple(sorted({*groups.get(group, ()), cell.subject}))
    cells = cells_fingerprint(material.cells)
    return SplitPlan("parts", 0, False, material.classes, groups, (Fold(train, (), test_groups),), excluded, cells)


def _logistic(
    features: NDArray[np.floating], material: Material, test: Test, *, strength: float, by_subject: bool = True
) -> Floats:
    weights = subject_weights(material, test.train_rows, power=float(by_subject))
    return _LogisticHead(features, material, test, weights, strength=strength).predict_proba(test.test_rows)


class _LogisticHead:
    """A logistic head fitted on standardised features of the training rows."""

    def __init__(
        self, features: NDArray[np.floating], material: Material, test: Test, weights: Floats, *, strength: float
    ) -> None:
        self._features = features
        self._scaler = StandardScaler().fit(features[test.train_rows])
        self._model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(
            self._scaler.transform(features[test.train_rows]), material.labels[test.train_rows], weights
        )

    def predict_proba(self, rows: Ints) -> Floats:
        """Return the probability of the disease, (rows,)."""
        return np.asarray(self._model.predict_proba(self._scaler.transform(self._features[rows]))[:, 1])


def subject_weights(material: Material, rows: Ints, *, power: float = 1.0) -> Floats:
    """Return weights (rows,): equal total per class; within a class, (cells of its subject group) ** -power."""
    weights = np.ones(len(rows))
    for label_ in np.unique(material.labels[rows]):
        own = material.labels[rows] == label_
        _, code, count = np.unique(material.groups[rows][own], return_inverse=True, return_counts=True)
        weights[own] = count[code].astype(float) ** -power
        weights[own] *= len(rows) / (len(material.classes) * weights[own].sum())
    return weights


def _group_dro(features: NDArray[np.floating], material: Material, test: Test, *, strength: float) -> Floats:
    """Refit repeatedly with more weight on the subjects with the highest loss; return the mean prediction.

    Source: Sagawa et al., Distributionally robust neural networks, ICLR 2020 (online algorithm, here with an exact
    fit in each round). Classes keep equal weight.
    """
    rows = test.train_rows
    labels, group = material.labels[rows], np.unique(material.groups[rows], return_inverse=True)[1]
    label_of = np.array([labels[group == code][0] for code in range(group.max() + 1)])
    base, emphasis, total = subject_weights(material, rows), np.ones(len(label_of)), np.zeros(len(test.test_rows))
    for done in range(_ROUNDS):
        fitted = _LogisticHead(features, material, test, base * emphasis[group], strength=strength)
        chances = fitted.predict_proba(rows)
        loss = -np.log(np.clip(np.where(labels == 1, chances, 1 - chances), 1e-6, 1))
        emphasis *= np.exp(_STEP / np.sqrt(done + 1) * np.bincount(group, loss) / np.bincount(group))
        for each in (0, 1):
            emphasis[label_of == each] /= emphasis[label_of == each].mean()
        total += fitted.predict_proba(test.test_rows)
    return total / _ROUNDS


def clean(crops: Crops) -> Crops:
    """Remove leftovers of red cells and tails that are attached to the cell, by colour and by shape."""
    return np.stack([_without_attachments(crop) for crop in crops])


def _without_attachments(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Keep the largest piece of what is stained at least half as densely as the cell's median, after an opening."""
    cell = cell_mask(crop)
    if not cell.any():
        return crop
    density = -np.log(np.maximum(crop[..., 1], 1) / 255)  # green: where both dyes absorb, and haemoglobin little
    stained = cell & (density > 0.5 * np.median(density[cell]))
    pieces, count = label(binary_opening(stained, iterations=max(1, len(crop) // 64)))
    if not count:
        return crop
    largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return np.where(largest[..., None], crop, 0).astype(np.uint8)


def optical_density(crops: Crops) -> Crops:
    """Return the optical density of each pixel, -log(I / 255), scaled so that 2.5 becomes 255."""
    table = np.round(np.clip(-np.log(np.maximum(np.arange(256), 1) / 255) / 2.5, 0, 1) * 255).astype(np.uint8)
    return np.stack([np.where(cell_mask(crop)[..., None], table[crop], 0) for crop in crops]).astype(np.uint8)


def one_stain(crops: Crops) -> Crops:
    """Bring every cell to one mean and spread of optical density in each channel.

    After Reinhard et al., Color transfer between images, 2001, in optical density instead of their colour space.
    """
    return np.stack([_standardised(crop) for crop in crops])


def _standardised(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cell = cell_mask(crop)
    if not cell.any():
        return crop
    density = -np.log(np.maximum(crop[cell], 1) / 255)
    mean, spread = np.array([0.9, 1.2, 0.5]), np.array([0.25, 0.3, 0.15])
    moved = (density - density.mean(0)) / np.maximum(density.std(0), 1e-3) * spread + mean
    changed = np.zeros_like(crop)
    changed[cell] = np.clip(255 * np.exp(-moved), 1, 255).round()
    return changed


_TWICE = StageMeans(
    "crop and enlarged cell",
    "All stages of Lite0, of the crop and of the cell enlarged, at 64 px; a linear discriminant.",
)
SHIPPED_RECIPE = replace(
    _TWICE,
    name="shipped recipe",
    words="Of the canonical view; learned from all eight views, with what turning changes counted five times.",
    invariance=5.0,
)
_FIRST = FrozenFeatures(
    "frozen Lite0", "EfficientNet-Lite0, pretrained on ImageNet and frozen; a logistic head, subjects equal."
)
RECIPES: tuple[Recipe, ...] = (
    Trained(
        "seed-cnn",
        "The network of the paper at 450 px.",
        (
            "model.name=seed-cnn",
            "model.weights=''",
            "model.reduce=1",
            "model.gain=1",
            "prepare.view=window",
            "prepare.size=450",
            "train.epochs=6",
            "train.frozen_stages=0",
            "train.learning_rate=1e-3",
            "train.head_rate=1",
            "model.norm_momentum=0.9",
        ),
    ),
    OneFeature("size alone", "The area of the cell and nothing else."),
    OneFeature("colour alone", "The mean colour of the cell and nothing else.", feature="colour"),
    _FIRST,
    replace(_FIRST, name="frozen Lite0, cells equal", words="Lite0, cells equal in the fit.", weighting="cells"),
    replace(
        _FIRST,
        name="frozen Lite0, worst subjects",
        words="Lite0 by group DRO over subjects.",
        weighting="worst subjects",
    ),
    replace(_FIRST, name="frozen Lite0, weak penalty", words="Lite0 with a tenth of the penalty.", strength=1e-1),
    replace(_FIRST, name="frozen Lite0, strong penalty", words="Lite0 with ten times the penalty.", strength=1e-3),
    replace(_FIRST, name="frozen Lite0, with size", words="Lite0, and the size of the cell.", with_size=True),
    replace(_FIRST, name="frozen Lite1", words="EfficientNet-Lite1 in its place.", backbones=(LITE1,)),
    replace(_FIRST, name="frozen Lite2", words="EfficientNet-Lite2 in its place.", backbones=(LITE2,)),
    replace(
        _FIRST,
        name="frozen Lite0, 1 and 2",
        words="The features of all three side by side.",
        backbones=(LITE0, LITE1, LITE2),
    ),
    replace(
        _FIRST,
        name="frozen Lite0, 1 and 2, with size",
        words="These, and the size of the cell.",
        backbones=(LITE0, LITE1, LITE2),
        with_size=True,
    ),
    replace(
        _FIRST,
        name="frozen Lite0, fixed window",
        words="Lite0 of a window of 450 px, so that size is seen.",
        view="window",
    ),
    replace(
        _FIRST,
        name="frozen Lite0, attachments removed",
        words="Lite0 of cells cleaned by colour and shape.",
        change=clean,
    ),
    replace(
        _FIRST,
        name="frozen Lite0, optical density",
        words="Lite0 of optical density in place of light.",
        change=optical_density,
        gain=1.0,
    ),
    replace(
        _FIRST,
        name="frozen Lite0, stain normalised",
        words="Lite0 of cells brought to one mean and spread of stain.",
        change=one_stain,
    ),
    replace(_FIRST, name="frozen Lite0, not brightened", words="Lite0 without brightening the dark cells.", gain=1.0),
    replace(
        _TWICE,
        name="all stages, logistic",
        words="Means of all stages of Lite0 at 64 px, of a window of 320 px; a logistic head.",
        looks="crop",
        shrinkage=0,
    ),
    replace(_TWICE, name="all stages", words="The same with a linear discriminant.", looks="crop"),
    replace(
        _TWICE,
        name="all stages, of the cell alone",
        words="The same of the enlarged cell: size is not seen.",
        looks="crop",
        view="area",
    ),
    replace(
        _TWICE,
        name="crop and enlarged cell, logistic",
        words="Features of both side by side; a logistic head.",
        shrinkage=0,
    ),
    _TWICE,
    replace(_TWICE, name="crop and enlarged cell, less shrunk", words="With a third of the shrinkage.", shrinkage=0.03),
    replace(_TWICE, name="crop and enlarged cell, more shrunk", words="With three times the shrinkage.", shrinkage=0.3),
    replace(_TWICE, name="crop and enlarged cell, at 128 px", words="At twice the pixels along a side.", seen=128),
    SHIPPED_RECIPE,
    Trained("fine-tune", "The recipe of the model that was shipped until version 0.2."),
    Trained(
        "fine-tune, frozen statistics",
        "The same, batch normalisation keeping the statistics of ImageNet.",
        ("train.frozen_statistics=true",),
    ),
    Trained(
        "fine-tune Lite2",
        "Fine-tuning with EfficientNet-Lite2.",
        ("model.name=timm:tf_efficientnet_lite2",),
    ),
)


LARGE = 0.1
"""Share of all cells that a part needs to be trained on."""
FEWEST = 5
"""Cells of a subject group; the groups with fewer are pooled by class, and count as one subject."""
ALPHA = 0.15
"""Share of a class that may be called the other: the guarantee of the shipped model."""
POOLED, FIVE_FOLD = "each part by networks that have not seen it", "five-fold over subjects"


@dataclass(frozen=True)
class Answers:
    """Predictions of a recipe for the test cells of one test, by seed."""

    test: Test
    seeds: list[Floats]


def run(bench: Bench) -> Page:
    """Ask the recipes that are named, or all that take minutes; show these and what was finished before."""
    material = sample(load(bench), bench.scale.images, rng=np.random.default_rng(0))
    if len(material.classes) != 2:
        raise DataError("generalisation needs two classes. Give a folder of cells with two classes.")
    material = in_thirds(material) if material.synthetic else material
    wanted = _named(bench.given.recipes)
    shifts = shifts_of(material)
    found: dict[str, dict[str, Answers]] = {}
    for recipe in RECIPES:
        needed = isinstance(recipe, OneFeature)  # takes seconds, and all others are compared with it
        allowed = needed or (recipe in wanted if wanted else not recipe.trained)
        if answers := _ask(bench, material, recipe, shifts, allowed=allowed):
            found[recipe.name] = answers
    return _page(bench, material, shifts, found)


def in_thirds(material: Material) -> Material:
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

    Where every part is large, the last kind is from all others to each part. A subject group of the
    training cells is never tested.

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
    usable = [test for test in tests if _both(material, test.train_rows) and _both(material, test.test_rows)]
    if not usable:
        raise DataError("No part of these cells has subjects of both classes. Give cells of other parts too.")
    return usable


def _shift(material: Material, train: Sequence[str], test: Sequence[str]) -> Test:
    rows = np.isin(material.parts, train)
    others = np.isin(material.parts, test) & ~np.isin(material.group_names, material.group_names[rows])
    return Test(f"{' + '.join(train)} → {' + '.join(test)}", np.flatnonzero(rows), np.flatnonzero(others))


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
        for test in shifts if recipe.trained or seed == 0 else ():  # without training every seed gives the same
            if (answer := kept(test, seed)) is not None:
                found.setdefault(test.name, Answers(test, [])).seeds.append(answer)
        folds = _folds(material, seed)
        answers = [kept(test, seed) for test in folds]
        if all(answer is not None for answer in answers):  # the folds are one test only if all are there
            whole = np.empty(len(material.labels))
            for test, answer in zip(folds, answers, strict=True):
                whole[test.test_rows] = answer
            test = Test(FIVE_FOLD, np.arange(0), np.arange(len(material.labels)))
            found.setdefault(FIVE_FOLD, Answers(test, [])).seeds.append(whole)
    return found


def _folds(material: Material, seed: int) -> list[Test]:
    folds = folds_by(material.group_names, material.labels, seed=seed)
    name = f"{FIVE_FOLD}, seed {seed}"
    return [
        Test(f"{name}, fold {number}", np.asarray(train), np.asarray(test))
        for number, (train, test) in enumerate(folds)
    ]


def _kept(
    bench: Bench, material: Material, recipe: Recipe, test: Test, *, seed: int, ask: Predict | None
) -> Floats | None:
    """Return the answers of a finished arm; else run it, where there is something to ask.

    Those of trained networks are kept beside the page, to be committed with it: the next who goes on need not train
    them again. They are used for exactly the same cells and settings only.
    """
    if not recipe.trained:
        settings = {"recipe": recipe.key, "cells": material.key}
        chances = bench.kept(
            f"{recipe.name}, {test.name}, seed {seed}",
            settings,
            (lambda: ask(test, seed).round(6).tolist()) if ask else None,
        )
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
    rows = [[material.cells[row].sha256 for row in part] for part in (test.train_rows, test.test_rows)]
    return fingerprint([rows, recipe.key, bench.scale.epochs, bench.scale.size])[:16]


def pooled(material: Material, answers: dict[str, Answers]) -> Answers | None:
    """Return the predictions for each part by the networks trained on most cells of the others.

    None where a part that could be predicted was not.
    """
    shifts = [each for name, each in answers.items() if name != FIVE_FOLD]
    seeds = min((len(each.seeds) for each in shifts), default=0)
    rows: list[Ints] = []
    chosen: list[tuple[Answers, Ints]] = []
    for part in np.unique(material.parts).tolist():
        able = [each for each in shifts if (material.parts[each.test.test_rows] == part).any()]
        if able:
            best = max(able, key=lambda each: len(each.test.train_rows))
            places = np.flatnonzero(material.parts[best.test.test_rows] == part)
            rows.append(best.test.test_rows[places])
            chosen.append((best, places))
    if not seeds:
        return None
    pooled_seeds = [np.concatenate([best.seeds[seed][places] for best, places in chosen]) for seed in range(seeds)]
    return Answers(Test(POOLED, np.arange(0), np.concatenate(rows)), pooled_seeds)


def units_of(material: Material, rows: Ints) -> Ints:
    """Return the number of the subject of each row; small groups of a class are pooled into one, (rows,)."""
    names, code, count = np.unique(material.group_names[rows], return_inverse=True, return_counts=True)
    pooled_name = np.array([f"few cells, {label}" for label in material.labels[rows].tolist()])
    named = np.where(count[code] < FEWEST, pooled_name, names[code])
    return np.unique(named, return_inverse=True)[1].astype(np.int64)


def measured(material: Material, arms: dict[str, Answers]) -> Jackknife:
    """Measure the AUROC of several arms on the same rows, and once more with each subject left out.

    '<arm>.auroc' weighs each cell by one over the cells of its subject, '<arm>.cells' weighs cells equally, and
    '<arm>.sizes' weights cells of both classes so that their sizes have one distribution: see `equal_size_weights`.
    """
    rows = next(iter(arms.values())).test.test_rows
    labels, units = material.labels[rows], units_of(material, rows)
    size = np.bincount(units)
    equal_sizes = equal_size_weights(np.log(material.traits[rows, 0]), labels, units)
    # cells of one subject that count the same are one group to `auroc`, which takes weights by group
    _, first, code = np.unique(units + 1j * np.round(equal_sizes, 9), return_index=True, return_inverse=True)

    def statistic(weights: Floats) -> Statistics:
        values: Statistics = {}
        kinds = (
            ("auroc", weights / size, units),
            ("cells", weights, units),
            ("sizes", (weights / size)[:, units[first]] * equal_sizes[first], code),
        )
        for name, answers in arms.items():
            tables = [two_columns(seed) for seed in answers.seeds]
            for kind, each, groups in kinds:
                values[f"{name}.{kind}"] = np.mean(
                    [auroc(labels, table, weights=each, groups=groups) for table in tables], axis=0
                )
        return values

    return jackknife(statistic, design_of(labels, units).equal_weights(), cells=len(rows))


def equal_size_weights(sizes: Floats, labels: Ints, units: Ints, *, bins: int = 12) -> Floats:
    """Return the weight of each cell with which both classes have the same distribution of sizes, (cells,).

    A cell counts by one over the cells of its subject. In each of `bins` classes of size of as many cells, the class of
    which there is more counts less; so cells of sizes that only one class has count nothing, and size alone is worth
    nothing: what is left is what a recipe sees beyond it.
    """
    weights = 1 / np.bincount(units)[units]
    place = np.digitize(sizes, np.quantile(sizes, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = np.stack([np.bincount(place, weights * (labels == label), bins) for label in (0, 1)])
    shares = shares / shares.sum(axis=1, keepdims=True)
    common = np.divide(shares.min(axis=0), shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(common[labels, place])


def _reached_by_part(material: Material, answers: Answers) -> list[dict[str, Any]]:
    """Return the error rates on each part of the rule that is fitted on all others (first seed)."""
    rows = answers.test.test_rows
    columns = (material.labels[rows], material.group_names[rows], material.parts[rows])
    left_out = LeftOutPredictions(material.classes, two_columns(answers.seeds[0]), *columns)
    return [part.model_dump() for part in guarantee_by_part(left_out, alpha=ALPHA)]


def _page(bench: Bench, material: Material, shifts: Sequence[Test], found: dict[str, dict[str, Answers]]) -> Page:
    whole = {name: answer for name, answers in found.items() if (answer := pooled(material, answers))}
    complete = {name: answer for name, answer in whole.items() if len(found[name].keys() - {FIVE_FOLD}) == len(shifts)}
    tests = [*(test.name for test in shifts), FIVE_FOLD]
    numbers: dict[str, Any] = {"recipes": {recipe.name: recipe.words for recipe in RECIPES}, "tests": {}}
    sampled = measured(material, complete)
    numbers["pooled"] = {
        name: {kind: sampled.interval(f"{name}.{kind}") for kind in ("auroc", "cells", "sizes")}
        | {"seeds": len(complete[name].seeds), "against_size": sampled.difference(f"{name}.auroc", "size alone.auroc")}
        for name in complete
    }
    for test in tests:
        arms = {name: answers[test] for name, answers in found.items() if test in answers}
        each = measured(material, arms)
        rows = next(iter(arms.values())).test.test_rows
        numbers["tests"][test] = {
            "cells": len(rows),
            "subjects": int(units_of(material, rows).max()) + 1,
            "recipes": {
                name: {kind: each.interval(f"{name}.{kind}") for kind in ("auroc", "cells")}
                | {"seeds": len(arms[name].seeds)}
                for name in arms
            },
        }
    numbers["guarantee"] = {name: _reached_by_part(material, answer) for name, answer in complete.items()}
    unfinished = [recipe.name for recipe in RECIPES if recipe.name not in complete]
    sections = [
        _pooled_section(numbers),
        _tests_section(numbers, tests),
        _guarantee_section(numbers),
        _recipes_section(numbers, unfinished),
    ]
    ran_on = {
        "Images": material.words(),
        "Subjects": f"weighted equally; groups of under {FEWEST} cells are pooled by class and count as one",
        "Interval": INTERVAL,
    }
    return Page(_answer(numbers), ran_on, sections, numbers)


def _pooled_section(numbers: dict[str, Any]) -> Section:
    found = numbers["pooled"]
    rows: list[list[TableValue]] = [
        [
            name,
            each["auroc"],
            each["cells"],
            each["sizes"],
            signed(each["against_size"]) if name != "size alone" else "",
            each["seeds"],
        ]
        for name, each in found.items()
    ]
    drawn = {name: each["auroc"] for name, each in found.items()}
    figure = Figure(
        "pooled",
        dots("generalisation-pooled", drawn, x="AUROC, subjects equal", chance=0.5),
        "AUROC with subjects equal on parts that a recipe has not seen.",
    )
    text = (
        "Every part is tested with the network trained on most cells of the other parts; predictions are pooled. "
        "Recipes are chosen by the first column. A difference below .05 between two recipes is noise. In the column "
        '"equal sizes" cells are weighted so that blasts are as large as normal cells: it shows what a recipe '
        "uses beyond size, which matters most where the next patients' normal cells are large."
    )
    columns = [
        "recipe",
        "AUROC, subjects equal",
        "AUROC, cells equal",
        "AUROC, equal sizes",
        "against size alone",
        "seeds",
    ]
    return Section("Parts left out", text, columns, rows, [figure])


def _tests_section(numbers: dict[str, Any], tests: Sequence[str]) -> Section:
    names = list(numbers["recipes"])
    rows: list[list[TableValue]] = [
        [name, *(numbers["tests"][test]["recipes"].get(name, {}).get("auroc") for test in tests)]
        for name in names
        if any(name in numbers["tests"][test]["recipes"] for test in tests)
    ]
    counts = "; ".join(
        f"{test}: {numbers['tests'][test]['cells']:,} cells of {numbers['tests'][test]['subjects']} subjects"
        for test in tests
    )
    return Section("Each test separately", f"AUROC, subjects equal. {counts}.", ["recipe", *tests], rows)


def _guarantee_section(numbers: dict[str, Any]) -> Section:
    rows: list[list[TableValue]] = []
    for name, parts in numbers["guarantee"].items():
        for row in parts:
            rows.extend(
                [
                    name,
                    row["part"],
                    label,
                    f"{row['asked']:.0%}",
                    _percent(each["called_another"]),
                    _percent(each["decided"]),
                    each["subjects"],
                ]
                for label, each in row["classes"].items()
            )
    text = (
        "The rule for the answer 'unsure' is learned from predictions on all other parts, each by networks that had "
        "not seen it, and then tested on the part named. Guaranteed: at most this share of a class is called the other."
    )
    columns = ["recipe", "part", "class", "guaranteed", "called the other class", "decided", "subjects"]
    return Section("Guaranteed and reached error rates on a part left out", text, columns, rows)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _recipes_section(numbers: dict[str, Any], open_: Sequence[str]) -> Section:
    rows: list[list[TableValue]] = [
        [name, words, "not finished" if name in open_ else "yes"] for name, words in numbers["recipes"].items()
    ]
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
        f"Of {len(networks)} recipes, the best on parts left out is '{best}' with an AUROC of "
        f"{shown(found[best]['auroc'])} with subjects equal; that is {more} the {shown(size)} of cell size alone "
        f"({shown(gap, signed=True)})."
    )


STUDY = Study(
    "generalisation",
    "Performance on new patients",
    "A recipe that is good in cross-validation is good on the next part of the release.",
    StudySize(seeds=1, size=128, epochs=6),
    run,
)
