"""Explain images through a Predictor, so that what is explained is what is served."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnknownNameError, UsageError
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
from ..images.crop import cell_mask, prepare_crop
from ..images.read import RGB
from .ensemble import Floats, Outputs
from .opinion import full_evidence
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
    """Of cam, `inside`, the share of heat on the cell, and `cell_share`, the share of the picture that the cell takes,
    which even heat would have on it; areas under the deletion and insertion curves where they were asked for."""

    def row(self) -> dict[str, Any]:
        """Return it as plain numbers."""
        return {"class": self.target, "probability": round(self.probability, 6), "method": self.method, **self.checks}

    def over(self) -> RGB:
        """Return the crop under its heat."""
        return overlay(self.crop, self.heat, full=self.full)

    def picture(self) -> RGB:
        """Return the crop beside the crop under its heat, as `leukoscope explain` writes it."""
        return magnified(np.hstack([self.crop, self.over()]))

    def said(self) -> list[str]:
        """Return the checks in words, such as 'inside 0.81 (the cell takes 0.55)'."""
        said = {name: f"{name} {value:.2f}" for name, value in self.checks.items() if name != "cell_share"}
        if "inside" in said:
            said["inside"] += f" (the cell takes {self.checks['cell_share']:.2f})"
        return list(said.values())


class Explainer:
    """A predictor and one method of explaining it.

    cam: the network's own map, exact and free; occlusion: cover squares; lime: hide patches, fit a plain model.
    Without a method: cam, or occlusion where the network's map does not say where.
    """

    def __init__(self, predictor: Predictor, *, method: str = "", seed: int = 0, curves: bool = False) -> None:
        """Prepare to explain; `curves` adds the deletion and insertion checks.

        Raises:
            UnknownNameError: there is no such method.
            UsageError: the bundle's members see different crops, so that there is not one picture to draw on.
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
            UsageError: the method is cam, and the network's map does not say where.
            ImageError: the image holds no cell.
        """
        classes = self._predictor.classes
        if target and target not in classes:
            raise UnknownNameError("class", target, classes)
        crop = prepare_crop(image, self._prepare)
        outputs = self._predictor.outputs_of_crops(crop[None])
        index = classes.index(target) if target else int(outputs.probabilities[0].argmax())
        method = self._chosen(outputs)
        heat = self._heat(method, crop, outputs.maps[0, index], index)
        full = full_evidence(self._predictor.manifest) if method == "cam" else FULL_LOG_ODDS
        chance = float(outputs.probabilities[0, index])
        checks = self._looked_at(crop, heat) if method == "cam" else {}  # the others hide nothing but the cell
        return Explanation(crop, heat, classes[index], chance, method, full, checks | self._followed(crop, heat, index))

    def _chosen(self, outputs: Outputs) -> str:
        places, why = min(outputs.maps.shape[2:]), ""
        if places < LEAST_PLACES:
            why = f"The map of this network has {places}x{places} places, too few to say where in the cell"
        elif not self._predictor.manifest.activation_map:
            why = "In the map of this network effects of single places cancel, so it does not say where in the cell"
        if why and self._method == "cam":
            raise UsageError(f"{why} its answer comes from. Use occlusion (--method occlusion).")
        return self._method or ("occlusion" if why else "cam")

    def _heat(self, method: str, crop: RGB, evidence: Heat, index: int) -> Heat:
        if method == "occlusion":
            return occlude(self.predict, crop, target=index)
        if method == "lime":
            return lime(self.predict, crop, target=index, rng=np.random.default_rng(self._seed))
        return enlarge(evidence, size=len(crop))

    def _looked_at(self, crop: RGB, heat: Heat) -> dict[str, float]:
        inside, share = inside_share(heat, crop), float(cell_mask(crop).mean())
        return {} if np.isnan(inside) else {"inside": round(inside, 4), "cell_share": round(share, 4)}

    def _followed(self, crop: RGB, heat: Heat, index: int) -> dict[str, float]:
        curves = (deletion, insertion) if self._curves else ()
        return {curve.__name__: round(curve(self.predict, crop, heat, target=index).area, 4) for curve in curves}
