"""Why a model calls a cell what it does: a heat map over the cell, and training cells near it in the embedding.

A few hundred reference cells of C-NMC 2019 and of Acevedo et al. 2020 are shipped in one file, with their labels and
credits. The file belongs to the bundle whose seal it names: with another bundle the embedding means something else, and
none is shown. `benchmarks/reference_cells.py` makes it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import BundleError, UnknownNameError, UsageError
from ..explanation import (
    FULL_LOG_ODDS,
    LEAST_PLACES,
    Crops,
    Heat,
    deletion,
    enlarge,
    insertion,
    inside_share,
    lime,
    magnified,
    occlude,
    overlay,
)
from ..files import atomic_write
from ..images.crop import cell_mask, prepare_crop, turn_back, turned, view_of
from ..images.read import RGB
from .ensemble import Floats, Outputs
from .opinions import full_evidence
from .predictor import Predictor

METHODS = ("cam", "occlusion", "lime")


@dataclass(frozen=True)
class Explanation:
    """Why a model takes one image to be of a class."""

    crop: RGB
    heat: Heat
    target: str
    """The class that is explained."""
    probability: float
    """Of that class."""
    method: str
    """cam, occlusion or lime."""
    full: float
    """Heat that is drawn as strong as tanh(1): see explanation.to_rgba."""
    checks: dict[str, float]
    """Of cam, `inside`, the share of heat on the cell, and `cell_share`, the share of the crop that the cell takes,
    which uniform heat would have on it; areas under the deletion and insertion curves, if requested."""

    def row(self) -> dict[str, Any]:
        """Return it as plain numbers."""
        return {"class": self.target, "probability": round(self.probability, 6), "method": self.method, **self.checks}

    def over(self) -> RGB:
        """Return the crop under its heat."""
        return overlay(self.crop, self.heat, full=self.full)

    def picture(self) -> RGB:
        """Return the crop beside the crop under its heat, as `leukoscope explain` writes it."""
        return magnified(np.hstack([self.crop, self.over()]))

    def checks_in_words(self) -> list[str]:
        """Return the checks in words, such as 'inside 0.81 (the cell takes 0.55)'."""
        words = {name: f"{name} {value:.2f}" for name, value in self.checks.items() if name != "cell_share"}
        if "inside" in words:
            words["inside"] += f" (the cell takes {self.checks['cell_share']:.2f})"
        return list(words.values())


class Explainer:
    """A predictor and one method of explaining it.

    cam: the network's own map, exact and free; occlusion: cover squares; lime: hide patches, fit a plain model.
    Without a method: cam, or occlusion where the network's map cannot locate evidence.
    """

    def __init__(self, predictor: Predictor, *, method: str = "", seed: int = 0, curves: bool = False) -> None:
        """Prepare to explain; `curves` adds the deletion and insertion checks.

        Raises:
            UnknownNameError: there is no such method.
            UsageError: the bundle's members see different crops, so that there is no single image to draw on.
        """
        if method and method not in METHODS:
            raise UnknownNameError("method", method, METHODS)
        preparations = {member.prepare for member in predictor.manifest.members}
        if len(preparations) > 1:
            raise UsageError(
                "The members of this bundle prepare images in different ways. Explain one member's bundle."
            )
        self._predictor, self._method, self._seed, self._curves = predictor, method, seed, curves
        self._prepare = preparations.pop()

    def predict(self, crops: Crops) -> Floats:
        """Return the bundle's calibrated probabilities (batch, classes) of prepared crops."""
        return self._predictor.outputs_of_crops(crops).probabilities

    def explain(self, image: RGB, *, target: str = "") -> Explanation:
        """Explain a source image for a class; by default for the most probable one.

        Raises:
            UnknownNameError: the model has no such class.
            UsageError: the method is cam, and the network's map cannot locate evidence.
            ImageError: the image holds no cell.
        """
        classes = self._predictor.classes
        if target and target not in classes:
            raise UnknownNameError("class", target, classes)
        view = view_of(image, self._prepare)
        crop = prepare_crop(turned(image, view), self._prepare.model_copy(update={"canonical": False}))
        outputs = self._predictor.outputs_of_crops(crop[None])
        index = classes.index(target) if target else int(outputs.probabilities[0].argmax())
        method = self._chosen(outputs)
        heat = self._heat(method, crop, outputs.maps[0, index], index)
        full = full_evidence(self._predictor.manifest) if method == "cam" else FULL_LOG_ODDS
        chance = float(outputs.probabilities[0, index])
        checks = self._inside(crop, heat) if method == "cam" else {}  # the others hide nothing but the cell
        checks |= self._curve_areas(crop, heat, index)
        crop, heat = (np.ascontiguousarray(turn_back(each, view, axes=(0, 1))) for each in (crop, heat))
        return Explanation(crop, heat, classes[index], chance, method, full, checks)

    def _chosen(self, outputs: Outputs) -> str:
        places, why = min(outputs.maps.shape[2:]), ""
        if places < LEAST_PLACES:
            why = f"The map of this network has {places}x{places} places, too few to locate in the cell where"
        elif not self._predictor.manifest.activation_map:
            why = "In the map of this network effects of single places cancel, so it cannot locate in the cell where"
        if why and self._method == "cam":
            raise UsageError(f"{why} its answer comes from. Use occlusion (--method occlusion).")
        return self._method or ("occlusion" if why else "cam")

    def _heat(self, method: str, crop: RGB, evidence: Heat, index: int) -> Heat:
        if method == "occlusion":
            return occlude(self.predict, crop, target=index)
        if method == "lime":
            return lime(self.predict, crop, target=index, rng=np.random.default_rng(self._seed))
        return enlarge(evidence, size=len(crop))

    def _inside(self, crop: RGB, heat: Heat) -> dict[str, float]:
        inside, share = inside_share(heat, crop), float(cell_mask(crop).mean())
        return {} if np.isnan(inside) else {"inside": round(inside, 4), "cell_share": round(share, 4)}

    def _curve_areas(self, crop: RGB, heat: Heat, index: int) -> dict[str, float]:
        curves = (deletion, insertion) if self._curves else ()
        return {curve.__name__: round(curve(self.predict, crop, heat, target=index).area, 4) for curve in curves}


SHIPPED_REFERENCE_CELLS = Path(__file__).parent.parent / "bundles" / "reference-cells.safetensors"
UM_ACROSS = 20.0
"""Side of what a thumbnail shows, in micrometres: the same as of cells in their field."""
_COMPONENTS = 32
_FORMAT = 1


@dataclass(frozen=True)
class ReferenceCell:
    """One training cell."""

    label: str
    """What its data set calls it."""
    credit: str
    picture: bytes
    """WebP, UM_ACROSS micrometres a side."""


@dataclass(frozen=True)
class ReferenceCells:
    """Training cells of one bundle, and where they lie in its embedding."""

    cells: tuple[ReferenceCell, ...]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    """(components, channels)"""
    points: NDArray[np.float32]
    """(cells, components)"""

    def place(self, embeddings: ArrayLike) -> NDArray[np.float32]:
        """Return embeddings (cells, channels) in the space in which likeness is measured: (cells, components)."""
        return np.asarray((np.asarray(embeddings, np.float32) - self.mean) @ self.axes.T, np.float32)

    def nearest(self, embedding: ArrayLike, count: int) -> list[tuple[int, float]]:
        """Return the nearest cells, as (place, distance), the nearest first."""
        distances = np.linalg.norm(self.points - self.place(np.asarray(embedding)[None])[0], axis=1)
        return [(int(place), float(distances[place])) for place in np.argsort(distances)[:count]]


def embedding_of(predictor: Predictor, crop: RGB) -> NDArray[np.float32]:
    """Return the embedding of a cell cut out on black, of length one: the first network's, whatever the cell's type.

    Raises:
        ImageError: there is no cell to see.
    """
    prepared = prepare_crop(crop, predictor.manifest.members[0].prepare)
    embedding = np.asarray(predictor.embeddings_of_crops(prepared[None])[0], np.float32)
    return np.asarray(embedding / max(float(np.linalg.norm(embedding)), 1e-12), np.float32)


def write_reference_cells(path: Path, cells: Sequence[ReferenceCell], embeddings: ArrayLike, *, seal: str) -> None:
    """Write cells with their embeddings (cells, channels) for the bundle of this seal."""
    from safetensors.numpy import save
    from sklearn.decomposition import PCA

    points = np.asarray(embeddings, np.float32)
    found = PCA(min(_COMPONENTS, *points.shape), random_state=0).fit(points)
    pictures = b"".join(cell.picture for cell in cells)
    arrays = {
        "mean": found.mean_,
        "axes": found.components_,
        "points": found.transform(points),
    }
    packed: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(each, np.float16) for name, each in arrays.items()}
    packed["pictures"] = np.frombuffer(pictures, np.uint8)
    packed["ends"] = np.cumsum([len(cell.picture) for cell in cells]).astype(np.uint32)
    facts = {
        "format": str(_FORMAT),
        "seal": seal,
        "labels": json.dumps([cell.label for cell in cells]),
        "credits": json.dumps([cell.credit for cell in cells]),
    }
    with atomic_write(path) as beside:
        beside.write_bytes(save(packed, metadata=facts))


def read_reference_cells(seal: str, path: Path = SHIPPED_REFERENCE_CELLS) -> ReferenceCells | None:
    """Return the reference cells of the bundle with this seal; None where there are none, or those of another.

    Raises:
        BundleError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            if facts.get("format") != str(_FORMAT) or facts.get("seal") != seal:
                return None
            arrays = {name: file.get_tensor(name) for name in ("mean", "axes", "points", "pictures", "ends")}
        return _unpacked(arrays, json.loads(facts["labels"]), json.loads(facts["credits"]))
    except (SafetensorError, KeyError, ValueError, OSError) as broken:
        raise BundleError(f"{path} is damaged ({type(broken).__name__}). Reinstall leukoscope.") from None


def _unpacked(arrays: dict[str, NDArray[Any]], labels: list[str], credits: list[str]) -> ReferenceCells:
    content, ends = arrays["pictures"].tobytes(), arrays["ends"].tolist()
    pictures = [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    cells = tuple(ReferenceCell(*each) for each in zip(labels, credits, pictures, strict=True))
    mean, axes, points = (arrays[name].astype(np.float32) for name in ("mean", "axes", "points"))
    if len(points) != len(cells) or axes.shape != (points.shape[1], len(mean)):
        raise ValueError("its arrays do not fit each other")
    return ReferenceCells(cells, mean, axes, points)
