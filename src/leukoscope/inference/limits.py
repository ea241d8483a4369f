"""What a bundle knows and does not know, in sentences at the top of everything that shows its answers."""

import numpy as np

from ..bundle.manifest import Manifest
from .cell_types import LYMPHOID
from .differential import ORDER, wilson
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
    """Return how often the types of white cells were wrong in laboratories that the model had not learned from."""
    types = list(manifest.types["classes"])
    confusion = np.asarray(manifest.types["confusion"], float)  # (true, called)
    white = [number for number, name in enumerate(types) if name in (*ORDER, LYMPHOID)]
    cells = int(confusion[white].sum())
    if not cells:
        return ["How often its types are wrong in a laboratory that it has not learned from was not measured."]
    wrong = cells - int(confusion[white, white].sum())
    low, high = wilson(wrong, cells)
    mature = [number for number in white if types[number] != LYMPHOID]
    taken = f"{100 * confusion[mature, types.index(LYMPHOID)].sum() / max(confusion[mature].sum(), 1):.0f}"
    return [
        f"In a laboratory that it had not learned from, {100 * wrong / cells:.0f} of 100 white cells got a wrong type "
        f"or none ({100 * low:.0f} to {100 * high:.0f}; {cells:,} cells), {taken} of 100 mature ones were taken for "
        "lymphoid, and answers about blasts are worth little there."
    ]
