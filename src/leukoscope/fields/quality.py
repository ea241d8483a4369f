"""Is this a smear field at all? Clear words for what is not, before cells are sought in it."""

import numpy as np

from .planes import Pixels, Plane, blur, brightest, darkest, rescaled, slope
from .stain import Stain, optical_density

# Measured on 275 fields of BCCD and 1,040 of Aria et al. 2021: at least .18 of each field is empty glass, and the part
# of a typical pixel's colour that two stains do not explain is at most .057; of ten photographs none comes near both.
_FOCUS = 0.30  # of 31 fields of BCCD the median is 1.06 as taken, 0.43 after a blur of 1 µm, 0.28 after 2 µm
_FOCUS_UM = 0.15  # fineness at which edges are measured
_GLASS = 0.12  # optical density below which a pixel is empty
_GREY = 10  # grey levels between the channels of the most colourful tenth of what is stained
_BLACK = 12
_FLAT = 4  # grey levels between the 1st and 99th percentile of a channel that shows nothing; fields have 23 and more
_TWICE = 1.0  # mean difference in grey levels below which two channels are one picture; fields have 2.9 and more
_CHANNELS = ("red", "green", "blue")


def why_not_a_smear(pixels: Pixels, stain: Stain) -> str | None:
    """Return in words why no cells can be sought in these pixels (a preview will do), or None."""
    if float((brightest(pixels) <= _BLACK).mean()) > 0.35:
        return "shows cells already cut out on black, or is mostly black. Give it to leukoscope predict --kind crops."
    colourful = brightest(pixels).astype(int) - darkest(pixels)
    density = blur(optical_density(pixels, stain.background), 1.2)
    strength = np.linalg.norm(density, axis=-1)
    stained = strength > 0.2
    if float(stained.mean()) < 0.003:
        return "is blank, or so far out of focus that nothing is seen in it. Choose another field."
    if np.percentile(colourful[stained], 90) < _GREY:
        return "is black and white; finding stained cells needs colour. Take the field in colour."
    if missing := _missing_channel(pixels):
        return missing
    glass, unexplained = float((strength < _GLASS).mean()), _unexplained(density, stain)
    if unexplained > 0.15 or (glass < 0.10 and (unexplained > 0.09 or min(stain.background) < 170)):
        return "does not look like a stained blood smear (a photograph, or another kind of picture)."
    return None


def _missing_channel(pixels: Pixels) -> str:
    """Say which channel shows nothing, or the same as another; empty where all three are there."""
    flat = [
        name
        for number, name in enumerate(_CHANNELS)
        if float(np.ptp(np.percentile(pixels[..., number], (1, 99)))) <= _FLAT
    ]
    if 0 < len(flat) < len(_CHANNELS):
        return f"shows nothing in its {' and '.join(flat)} channel{'s' * (len(flat) > 1)}. Save it in full colour."
    for one, other in ((0, 1), (1, 2), (0, 2)):
        if float(np.abs(pixels[..., one].astype(int) - pixels[..., other]).mean()) < _TWICE:
            return (
                f"has the same picture in its {_CHANNELS[one]} and {_CHANNELS[other]} channels. Save it in full colour."
            )
    return ""


def out_of_focus(pixels: Pixels, stain: Stain, *, um_per_px: float) -> bool:
    """Return whether even the steepest edges of a field take micrometres to rise."""
    shrink = max(1.0, _FOCUS_UM / um_per_px)
    density = brightest(optical_density(rescaled(pixels, 1 / shrink), stain.background))
    um = um_per_px * shrink
    density = blur(density, max(_FOCUS_UM / um, 0.6))
    low, high = np.percentile(density, (5, 95))
    steepest = float(np.percentile(np.hypot(*slope(density)), 98)) / um
    return steepest / max(float(high - low), 0.05) < _FOCUS


def _unexplained(density: Plane, stain: Stain) -> float:
    """Return the share of a typical stained pixel's density that red-cell and nucleus colour do not explain."""
    colours = np.stack([stain.red_cell, stain.nucleus], axis=1).astype(np.float32)
    stained = density[np.linalg.norm(density, axis=-1) > 0.2]
    rest = stained - stained @ np.linalg.pinv(colours).T @ colours.T
    return float(np.median(np.linalg.norm(rest, axis=-1) / np.linalg.norm(stained, axis=-1)))
