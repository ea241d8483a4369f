"""What is said about one image, and how it stands in a table."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import RGB

UNSURE, REFUSED = "unsure", "refused"
TITLES = {"all": "blast", "hem": "normal"}
"""What people call the classes of C-NMC 2019, whose "all" would be read as "everything"."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a bundle says about one image."""

    name: str
    """Path of the file as it was given, or 'image 3' for the third array."""
    decision: str
    """A class, 'unsure' or 'refused'."""
    reason: str = ""
    """Why it is unsure or refused, in one sentence."""
    quality: float | None = None
    """How fit the picture is to be judged, from 0 to 1; None where the bundle has no gate or nothing could be seen."""
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
    embedding: NDArray[np.float32] | None = None
    """(channels,): the cell as the first member describes it; None for a refused image."""

    def row(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return it as a row of predictions.csv; the probabilities of a refused image are empty."""
        chances = self.probabilities or {}
        return {
            "path": self.name,
            **{f"prob_{name}": round(chances[name], 6) if name in chances else "" for name in classes},
            "decision": self.decision,
            "reason": self.reason,
            "quality": "" if self.quality is None else round(self.quality, 3),
        }


def attention(opinion: Opinion, *, positive: str, threshold: float) -> tuple[int, float]:
    """Return a sort key, the neediest first: unsure, refused, called diseased (surest first), all others.

    Unsure and other cells come in the order of how near they are to being called otherwise.
    """
    if opinion.probabilities is None:
        return 1, float(opinion.readable)
    chance = opinion.probabilities.get(positive, max(opinion.probabilities.values()))
    if opinion.decision == UNSURE:
        return 0, abs(chance - threshold)
    return (2, -chance) if opinion.decision == positive else (3, abs(chance - threshold))


def title_of(decision: str) -> str:
    """Return what people call a class; 'unsure', 'refused' and classes of other data are called as they are.

    >>> title_of("all"), title_of("Pre")
    ('blast', 'Pre')
    """
    return TITLES.get(decision, decision)


def worded(reason: str) -> str:
    """Return a reason with the classes as people call them.

    >>> worded("Both hem and all are plausible."), worded("Empty: the image is all black.")
    ('Both normal and blast are plausible.', 'Empty: the image is all black.')
    """
    if "plausible" not in reason and not reason.startswith("Not typical of"):
        return reason
    return re.sub(r"\b(hem|all)\b", lambda found: TITLES[found[1]], reason)


def columns_of(classes: Sequence[str], *, subject: bool = False) -> tuple[str, ...]:
    """Return the columns of predictions.csv, with or without one for the subject.

    >>> columns_of(("hem", "all"))
    ('path', 'prob_hem', 'prob_all', 'decision', 'reason', 'quality')
    """
    first = ("path", "subject") if subject else ("path",)
    return (*first, *(f"prob_{name}" for name in classes), "decision", "reason", "quality")
