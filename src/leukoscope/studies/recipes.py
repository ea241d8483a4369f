"""Recipes: the ways of learning that the generalisation study compares, each under a name, failed ones too."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, label
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ..config import Experiment, Prepare, shipped
from ..data.cells import cells_fingerprint
from ..data.split import Excluded, Fold, SplitPlan
from ..evaluation.metrics import Floats, Ints
from ..images.crop import cell_mask
from ..training.device import launch
from ..training.loop import predict, resume_epochs, start_fold
from ..training.prepared import Crops as PackedCrops
from ..training.prepared import Prepared
from .frozen import LITE0, LITE1, LITE2, backbone, features_of, with_weights
from .material import Crops, Material
from .study import Bench

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_ROUNDS, _STEP = 8, 1.0  # of group DRO


@dataclass(frozen=True)
class Test:
    """Cells to learn from and cells to ask about; no subject group is in both."""

    name: str
    learnt: Ints
    """Rows of the material."""
    asked: Ints


Ask = Callable[[Test, int], Floats]


@dataclass(frozen=True)
class Recipe:
    """A way of learning to tell two classes apart."""

    name: str
    words: str
    """What is done, in one sentence."""
    trained: ClassVar[bool] = False
    """Whether a network is trained, which takes hours; all others take minutes."""

    @property
    def key(self) -> str:
        """Return what decides the answers: kind and settings, without name and words."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[2:]}
        plain = {name: getattr(value, "__name__", value) for name, value in values.items()}
        return f"{type(self).__name__}: {plain}"

    def on(self, bench: Bench, material: Material) -> Ask:
        """Return a function of a test and a seed that gives the probability of the disease of its cells, (asked,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class OneFeature(Recipe):
    """A logistic regression on cell size, or on mean colour, alone."""

    feature: str = "size"

    def on(self, bench: Bench, material: Material) -> Ask:
        """Return what asks this recipe; the seed changes nothing."""
        return lambda test, _: _logistic(material.shortcut(self.feature), material, test, strength=1.0)


@dataclass(frozen=True)
class Frozen(Recipe):
    """A logistic head on the features of networks that stay as ImageNet taught them."""

    backbones: tuple[str, ...] = (LITE0,)
    change: Callable[[Crops], Crops] | None = None
    """What is done to crops before the network sees them; its name is the look."""
    view: Literal["area", "window"] = "area"
    """area: the cell fills the crop. window: 450 px of the source, so that size is seen."""
    gain: float = 2.0
    strength: float = 1e-2
    """Inverse strength of the L2 penalty on standardised features."""
    weighting: str = "subjects"
    """'cells': all count alike. 'subjects': each subject group of a class counts alike. 'worst subjects': group DRO."""
    with_size: bool = False
    """Add the cell's size to the features."""

    def on(self, bench: Bench, material: Material) -> Ask:
        """Return what asks this recipe; the seed changes nothing, and features are read once, when they are needed."""
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
        look = self.change.__name__ if self.change else ""
        return features_of(bench, material, network, prepare=prepare, look=look, change=self.change)


@dataclass(frozen=True)
class Trained(Recipe):
    """The shipped experiment `fine-tune` with some settings changed."""

    settings: tuple[str, ...] = ()
    """As `leukoscope run --set` takes them."""
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

    def on(self, bench: Bench, material: Material) -> Ask:
        """Return what trains a network and asks it; a training that was killed goes on by epoch."""
        return lambda test, seed: self._answers(bench, material, test, seed=seed)

    def _answers(self, bench: Bench, material: Material, test: Test, *, seed: int) -> Floats:
        experiment = self.experiment(bench, seed=seed)
        material.crops(experiment.prepare)
        packed = PackedCrops(material.packed_in(experiment.prepare))
        plan = plan_of(material, test)
        prepared = _Prepared(Path(), experiment, material.cells, plan, packed, material.labels, material.traits[:, 0])
        folder = bench.work / bench.study.name / "networks" / f"{self.name}, {test.name}, seed {seed}"
        settings = experiment.train.model_copy(update={"accelerator": "cpu"})
        chances: Floats = launch(settings, _train, prepared, folder, test.asked)
        return chances


@dataclass(frozen=True)
class _Prepared(Prepared):
    """Cells of a study in training."""

    area_px: Floats

    def area(self) -> Floats:
        """Return the area of every cell in px."""
        return self.area_px


def _train(fabric: "Fabric", prepared: Prepared, folder: Path, asked: Ints) -> Floats:
    task = start_fold(fabric, prepared, fold=0)
    resume_epochs(task, folder / "last.safetensors")
    return predict(task, asked)[:, 1]


def plan_of(material: Material, test: Test) -> SplitPlan:
    """Return a split without validation cells that learns from and asks about just the rows of a test."""
    learnt, asked = (tuple(sorted(set(material.group_names[rows].tolist()))) for rows in (test.learnt, test.asked))
    used = np.zeros(len(material.cells), dtype=bool)
    used[test.learnt] = used[test.asked] = True
    here = set(zip(material.group_names[used].tolist(), material.parts[used].tolist(), strict=True))
    pairs = zip(material.group_names[~used].tolist(), material.parts[~used].tolist(), strict=True)
    left_out = sorted(set(pairs) - here)
    excluded = tuple(Excluded(group, part, 1, "takes no part in this test") for group, part in left_out)
    groups: dict[str, tuple[str, ...]] = {}
    for cell, group in zip(material.cells, material.group_names.tolist(), strict=True):
        groups[group] = tuple(sorted({*groups.get(group, ()), cell.subject}))
    cells = cells_fingerprint(material.cells)
    return SplitPlan("parts", 0, False, material.classes, groups, (Fold(learnt, (), asked),), excluded, cells)


def _logistic(
    features: NDArray[np.floating], material: Material, test: Test, *, strength: float, by_subject: bool = True
) -> Floats:
    weights = subject_weights(material, test.learnt, power=float(by_subject))
    return _fit(features, material, test, weights, strength=strength).predict_proba(test.asked)


class _fit:  # noqa: N801  # used like a function
    """A logistic head fitted on standardised features of the learnt rows."""

    def __init__(
        self, features: NDArray[np.floating], material: Material, test: Test, weights: Floats, *, strength: float
    ) -> None:
        self._features = features
        self._scaler = StandardScaler().fit(features[test.learnt])
        self._model = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(
            self._scaler.transform(features[test.learnt]), material.labels[test.learnt], weights
        )

    def predict_proba(self, rows: Ints) -> Floats:
        """Return the probability of the disease, (rows,)."""
        return np.asarray(self._model.predict_proba(self._scaler.transform(self._features[rows]))[:, 1])


def subject_weights(material: Material, rows: Ints, *, power: float = 1.0) -> Floats:
    """Return weights (rows,) with which each class, and in it each subject group to that power, counts alike."""
    weights = np.ones(len(rows))
    for label_ in np.unique(material.labels[rows]):
        own = material.labels[rows] == label_
        _, code, count = np.unique(material.groups[rows][own], return_inverse=True, return_counts=True)
        weights[own] = count[code].astype(float) ** -power
        weights[own] *= len(rows) / (len(material.classes) * weights[own].sum())
    return weights


def _group_dro(features: NDArray[np.floating], material: Material, test: Test, *, strength: float) -> Floats:
    """Fit again and again with more weight on the subjects of the highest loss; return the mean answer.

    Source: Sagawa et al., Distributionally robust neural networks, ICLR 2020 (online algorithm, here with an exact
    fit in each round). Classes keep equal weight.
    """
    rows = test.learnt
    labels, group = material.labels[rows], np.unique(material.groups[rows], return_inverse=True)[1]
    label_of = np.array([labels[group == code][0] for code in range(group.max() + 1)])
    base, emphasis, total = subject_weights(material, rows), np.ones(len(label_of)), np.zeros(len(test.asked))
    for done in range(_ROUNDS):
        fitted = _fit(features, material, test, base * emphasis[group], strength=strength)
        chances = fitted.predict_proba(rows)
        loss = -np.log(np.clip(np.where(labels == 1, chances, 1 - chances), 1e-6, 1))
        emphasis *= np.exp(_STEP / np.sqrt(done + 1) * np.bincount(group, loss) / np.bincount(group))
        for each in (0, 1):
            emphasis[label_of == each] /= emphasis[label_of == each].mean()
        total += fitted.predict_proba(test.asked)
    return total / _ROUNDS


def clean(crops: Crops) -> Crops:
    """Cut off what hangs on the cell, leftovers of red cells and tails, by colour and by shape; the rest stays."""
    return np.stack([_cleaned(crop) for crop in crops])


def _cleaned(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
    """Return how much each pixel absorbs, -log(I / 255), on a scale that fills the byte at a density of 2.5."""
    table = np.round(np.clip(-np.log(np.maximum(np.arange(256), 1) / 255) / 2.5, 0, 1) * 255).astype(np.uint8)
    return np.stack([np.where(cell_mask(crop)[..., None], table[crop], 0) for crop in crops]).astype(np.uint8)


def one_stain(crops: Crops) -> Crops:
    """Bring every cell to one mean and spread of optical density in each channel.

    After Reinhard et al., Color transfer between images, 2001, in optical density instead of their colour space.
    """
    return np.stack([_restained(crop) for crop in crops])


def _restained(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cell = cell_mask(crop)
    if not cell.any():
        return crop
    density = -np.log(np.maximum(crop[cell], 1) / 255)
    mean, spread = np.array([0.9, 1.2, 0.5]), np.array([0.25, 0.3, 0.15])
    moved = (density - density.mean(0)) / np.maximum(density.std(0), 1e-3) * spread + mean
    changed = np.zeros_like(crop)
    changed[cell] = np.clip(255 * np.exp(-moved), 1, 255).round()
    return changed


_FIRST = Frozen("frozen Lite0", "EfficientNet-Lite0 as ImageNet taught it; a logistic head, subjects equal.")
RECIPES: tuple[Recipe, ...] = (
    OneFeature("size alone", "The area of the cell and nothing else."),
    OneFeature("colour alone", "The mean colour of the cell and nothing else.", feature="colour"),
    _FIRST,
    replace(_FIRST, name="frozen Lite0, cells equal", words="Lite0, cells equal in the fit.", weighting="cells"),
    replace(_FIRST, name="frozen Lite0, worst subjects", words="Lite0 by group DRO over subjects.",
            weighting="worst subjects"),
    replace(_FIRST, name="frozen Lite0, weak penalty", words="Lite0 with a tenth of the penalty.", strength=1e-1),
    replace(_FIRST, name="frozen Lite0, strong penalty", words="Lite0 with ten times the penalty.", strength=1e-3),
    replace(_FIRST, name="frozen Lite0, with size", words="Lite0, and the size of the cell.", with_size=True),
    replace(_FIRST, name="frozen Lite1", words="EfficientNet-Lite1 in its place.", backbones=(LITE1,)),
    replace(_FIRST, name="frozen Lite2", words="EfficientNet-Lite2 in its place.", backbones=(LITE2,)),
    replace(_FIRST, name="frozen Lite0, 1 and 2", words="The features of all three side by side.",
            backbones=(LITE0, LITE1, LITE2)),
    replace(_FIRST, name="frozen Lite0, 1 and 2, with size", words="These, and the size of the cell.",
            backbones=(LITE0, LITE1, LITE2), with_size=True),
    replace(_FIRST, name="frozen Lite0, at its scale", words="Lite0 of a window of 450 px, so that size is seen.",
            view="window"),
    replace(_FIRST, name="frozen Lite0, clean cells", words="Lite0 of cells cleaned by colour and shape.",
            change=clean),
    replace(_FIRST, name="frozen Lite0, optical density", words="Lite0 of optical density in place of light.",
            change=optical_density, gain=1.0),
    replace(_FIRST, name="frozen Lite0, one stain", words="Lite0 of cells brought to one mean and spread of stain.",
            change=one_stain),
    replace(_FIRST, name="frozen Lite0, full brightness", words="Lite0 without brightening the dark cells.",
            gain=1.0),
    Trained("fine-tune", "The recipe of the shipped model."),
    Trained("fine-tune, frozen statistics", "The same, batch normalisation keeping the statistics of ImageNet.",
            ("train.frozen_statistics=true",)),
    Trained("fine-tune Lite2", "The recipe of the shipped model with EfficientNet-Lite2.",
            ("model.name=timm:tf_efficientnet_lite2",)),
    Trained("seed-cnn", "The network of the paper at 450 px.",
            ("model.name=seed-cnn", "model.reduce=1", "model.gain=1", "prepare.view=window", "prepare.size=450",
             "train.epochs=6", "train.frozen_stages=0", "train.learning_rate=1e-3", "train.head_rate=1",
             "model.norm_momentum=0.9")),
)  # fmt: skip
