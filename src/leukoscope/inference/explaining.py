"""Explain images through a Predictor, so that what is explained is what is served."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UnknownNameError, UsageError
from ..explanation.checks import deletion, insertion, inside_share
from ..explanation.maps import Crops, Heat, enlarge
from ..explanation.perturbation import lime, occlude
from ..images.read import RGB
from .ensemble import Floats
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
    checks: dict[str, float]
    """Share of heat inside the cell; areas under the deletion and insertion curves where they were asked for."""

    def row(self) -> dict[str, Any]:
        """Return it as plain numbers."""
        return {"class": self.target, "probability": round(self.probability, 6), **self.checks}


class Explainer:
    """A predictor and one method of explaining it.

    cam: the network's own map, exact and free; occlusion: cover squares; lime: hide patches, fit a plain model.
    """

    def __init__(self, predictor: Predictor, *, method: str = "cam", seed: int = 0, curves: bool = False) -> None:
        """Prepare to explain; `curves` adds the deletion and insertion checks.

        Raises:
            UnknownNameError: there is no such method.
            UsageError: the bundle's members see different crops, so that there is not one picture to draw on.
        """
        if method not in METHODS:
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
            ImageError: the image holds no cell.
        """
        from ..images.crop import prepare_crop

        classes = self._predictor.classes
        if target and target not in classes:
            raise UnknownNameError("class", target, classes)
        crop = prepare_crop(image, self._prepare)
        outputs = self._predictor.outputs_of_crops(crop[None])
        index = classes.index(target) if target else int(outputs.probabilities[0].argmax())
        heat = self._heat(crop, outputs.maps[0, index], index)
        return Explanation(
            crop, heat, classes[index], float(outputs.probabilities[0, index]), self._check(crop, heat, index)
        )

    def _heat(self, crop: RGB, evidence: Heat, index: int) -> Heat:
        if self._method == "occlusion":
            return occlude(self.predict, crop, target=index)
        if self._method == "lime":
            return lime(self.predict, crop, target=index, rng=np.random.default_rng(self._seed))
        return enlarge(evidence, size=len(crop))

    def _check(self, crop: RGB, heat: Heat, index: int) -> dict[str, float]:
        inside = inside_share(heat, crop)
        checks = {} if np.isnan(inside) else {"inside": round(inside, 4)}
        if self._curves:
            for curve in (deletion, insertion):
                checks[curve.__name__] = round(curve(self.predict, crop, heat, target=index).area, 4)
        return checks
