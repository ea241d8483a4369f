"""What is said about one image, and how it stands in a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import RGB

UNSURE, REFUSED = "unsure", "refused"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a bundle says about one image."""

    name: str
    """Path of the file as it was given, or 'image 3' for the third array."""
    decision: str
    """A class, 'unsure' or 'refused'."""
    reason: str = ""
    """Why it is unsure or refused, in one sentence."""
    quality: str = ""
    """What is wrong with the picture, or 'good'; empty where the bundle has no gate."""
    probabilities: dict[str, float] | None = None
    """Calibrated probability of each class; None for a refused image."""
    called: str = ""
    """The class by the operating point alone, also where the decision is 'unsure'; empty for a refused image."""
    readable: bool = True
    """False: the file or array cannot be used as an image at all."""
    map: NDArray[np.float32] | None = None
    """(classes, h, w): evidence for each class at each place of the crop, centred over the classes."""
    crop: RGB | None = None
    """(size, size, 3): what the first member saw; only where it was asked for."""

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return it as a row of predictions.csv; the probabilities of a refused image are empty."""
        chances = self.probabilities or {}
        return {
            "path": self.name,
            **{f"prob_{name}": round(chances[name], 6) if name in chances else "" for name in classes},
            "decision": self.decision,
            "reason": self.reason,
            "quality": self.quality,
        }


def columns_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of predictions.csv.

    >>> columns_of(("hem", "all"))
    ('path', 'prob_hem', 'prob_all', 'decision', 'reason', 'quality')
    """
    return ("path", *(f"prob_{name}" for name in classes), "decision", "reason", "quality")
