"""One colour for each decision, the same on pictures, on pages and in other programs."""

from ..inference.bundle import Manifest
from ..inference.opinion import REFUSED, UNSURE

RGB = tuple[int, int, int]

# Dark enough for thin lines on a bright field; apart also for the colour-blind, as lightness differs too.
DISEASE: RGB = (190, 30, 45)
UNDECIDED: RGB = (205, 105, 0)
NOT_JUDGED: RGB = (110, 110, 110)
OTHERS: tuple[RGB, ...] = ((0, 90, 170), (0, 125, 85), (120, 60, 150), (90, 80, 20))  # further classes in turn


def colour_of(decision: str, manifest: Manifest) -> RGB:
    """Return the colour of a class, of 'unsure' or of 'refused'."""
    if decision in (UNSURE, REFUSED):
        return UNDECIDED if decision == UNSURE else NOT_JUDGED
    if decision == manifest.positive:
        return DISEASE
    others = [name for name in manifest.classes if name != manifest.positive]
    return OTHERS[others.index(decision) % len(OTHERS)]
