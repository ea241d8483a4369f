"""What a bundle knows and does not know, in sentences at the top of everything that shows its answers."""

import numpy as np

from ..bundle.manifest import Manifest
from .differential import wilson
from .opinion import title_of

_UNKNOWN = "myeloblasts, plasma cells, hairy cells or atypical lymphocytes"


def limits_of(manifest: Manifest, *, fields: bool = True) -> list[str]:
    """Return what must be known before an answer is believed; `fields`: whether whole fields are shown."""
    if not manifest.types:
        return [_no_types(manifest)] if fields or manifest.positive else []
    disease = title_of(manifest.positive) if manifest.positive else ""
    asked = f'"{disease} or {title_of(manifest.classes[0])}?"' if disease else "its classes"
    return [
        f"The model tells types of cells, and asks {asked} of lymphoid cells alone. It has learned no {_UNKNOWN}: it "
        "takes each of them for something that it knows.",
        *_how_often_wrong(manifest),
    ]


def _no_types(manifest: Manifest) -> str:
    named = " or ".join(title_of(name) for name in reversed(manifest.classes))
    return (
        f"This model does not recognise mature cells: a neutrophil, a monocyte or any other cell is called {named} "
        "too. Look at every cell, and use a model that tells types for fields."
    )


def _how_often_wrong(manifest: Manifest) -> list[str]:
    """Return how often the types were wrong in laboratories that the model had not learned from."""
    confusion = np.asarray(manifest.types["confusion"], float)
    right, cells = int(np.trace(confusion)), int(confusion.sum())
    if not cells:
        return ["How often its types are wrong in a laboratory that it has not learned from was not measured."]
    low, high = wilson(cells - right, cells)
    wrong = 100 * (cells - right) / cells
    return [
        f"In laboratories that it had not learned from, {wrong:.0f} of 100 types were wrong or unsure "
        f"({100 * low:.0f} to {100 * high:.0f}; {cells:,} cells), and its answers about blasts are worth little there."
    ]
