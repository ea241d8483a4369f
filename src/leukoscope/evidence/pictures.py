"""The same cells explained by several models, side by side in one drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.images import RGB
from ..explain.heat import enlarge, overlay
from ..explain.lime import lime
from ..head import with_head
from ..report.style import canvas, drawing
from .features import open_session
from .material import Crops

_SAMPLES = 120  # sets of patches that LIME hides: enough for the few patches of a small crop
_PATCHES = 20


@dataclass(frozen=True)
class Shown:
    """A model to be explained."""

    name: str
    onnx: bytes
    head: tuple[Any, Any] | None = None
    """Weight and bias that take the place of its own head."""


def contact_sheet(crops: Crops, models: Sequence[Shown], *, names: Sequence[str]) -> str:
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
        return drawing(figure, "where-they-look")


def _explained(model: Shown, crops: Crops) -> list[tuple[str, list[RGB]]]:
    session = open_session(model.onnx if model.head is None else with_head(model.onnx, *model.head))

    def predict(batch: Crops) -> Any:
        return session.run(["probabilities"], {"crops": np.ascontiguousarray(batch)})[0]

    maps = session.run(["map"], {"crops": np.ascontiguousarray(crops)})[0][:, 1]
    cams = [overlay(crop, enlarge(plane, size=len(crop))) for crop, plane in zip(crops, maps, strict=True)]
    limes = [overlay(crop, _lime(predict, crop)) for crop in crops]
    return [(f"{model.name}\nmap", cams), (f"{model.name}\nLIME", limes)]


def _lime(predict: Any, crop: RGB) -> Any:
    return lime(predict, crop, target=1, rng=np.random.default_rng(0), samples=_SAMPLES, count=_PATCHES)
