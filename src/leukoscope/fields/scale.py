"""Scale: micrometres per pixel, from the file, from the user, or measured on the red cells and marked as such.

The red cell is the ruler of every smear: 6.2–8.2 µm across, 7.2 on average, whoever the patient is (Bain, Blood
Cells, 5th ed.). Its rim is a circle, so each edge pixel votes for the middle of every circle it could lie on
(Kimme, Ballard & Sklansky, Commun ACM 1975; 18: 120–122). The radius whose circles explain most of the field wins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .images import Mask, Pixels, Plane, blur, brightest, grown, opened, parts, rescaled, resized, slope
from .stain import Stain, optical_density, purple

RED_CELL_UM = 7.2
RED_CELL_SPREAD = (6.2 / 7.2, 8.2 / 7.2)
NUCLEUS_UM = 9.0  # a typical nucleus of a lymphoblast or granulocyte; a last resort with a wide interval

# C-NMC 2019 does not state its scale. The camera (Nikon DS-5M, 2560x1920 on a 2/3-inch chip, 3.4 µm pixels) behind a
# 100x objective gives 0.057–0.062 µm with Nikon's usual 0.6x or 0.55x relay; and at 0.060 µm its blasts are 12.7 µm
# across (median of 441) and its normal cells 10.6 µm (median of 259), as lymphoblasts and lymphocytes on smears are.
RELEASE_UM_PER_PX = 0.060

_NUCLEUS_CONTRAST = 0.4  # purple above red cells; rims of red cells reach 0.3, pale nuclei lie among red cells
_WINDOW = 288  # side of the square that is searched at each level, in pixels
_RADII = np.geomspace(4.5, 42, 17)  # pixels of the level
_BLUR = 0.13  # of the radius: red cells are not perfect circles
_SUPPORT = 0.3  # share of the rim that must be seen


@dataclass(frozen=True)
class Scale:
    """Micrometres per pixel, where the number comes from, and the interval it may lie in."""

    um_per_px: float
    source: str  # "user", "file", "red cells", "nuclei", "few red cells", "red cells of 12 fields"
    low: float
    high: float

    @classmethod
    def exact(cls, um_per_px: float, *, source: str) -> "Scale":
        """Return a scale that is known, not measured."""
        return cls(um_per_px, source, um_per_px, um_per_px)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.um_per_px:.4g} µm per pixel (from the {self.source})"
        return f"{self.um_per_px:.3g} µm per pixel (estimated from the {self.source}, {self.low:.2g}–{self.high:.2g})"


def estimate_scale(pixels: Pixels, stain: Stain) -> Scale | None:
    """Measure the scale on three red cells or more, else on the nuclei, else on one or two red cells, else None."""
    circles = _circles_of(pixels, stain)
    if (diameter := _mode(circles, least=3)) is not None:
        low, high = (share * RED_CELL_UM / diameter for share in RED_CELL_SPREAD)
        return Scale(RED_CELL_UM / diameter, "red cells", low, high)
    if (diameter := _nucleus_diameter(pixels, stain)) is not None:
        return _roughly(NUCLEUS_UM / diameter, source="nuclei")
    if (diameter := _mode(circles, least=1)) is not None:
        return _roughly(RED_CELL_UM / diameter, source="few red cells")
    return None


def _roughly(um_per_px: float, *, source: str) -> Scale:
    return Scale(um_per_px, source, um_per_px / 1.5, um_per_px * 1.5)


def common_scale(scales: Sequence[Scale]) -> Scale:
    """Return one scale for fields taken with the same camera and objective: the median of what each one shows.

    Estimates from red cells outweigh those from nuclei; a known scale (user, file) is not to be pooled.
    """
    best = [scale for scale in scales if scale.source == "red cells"] or list(scales)
    middle = float(np.median([scale.um_per_px for scale in best]))
    low, high = (float(np.median([getattr(scale, end) for scale in best])) for end in ("low", "high"))
    return Scale(middle, f"{best[0].source} of {len(best)} fields", low, high)


def _circles_of(pixels: Pixels, stain: Stain) -> NDArray[np.float64]:
    """Return diameter in pixels and share of the field of every circle at every level, (circles, 2)."""
    return np.array([circle for level in _levels(pixels, stain) for circle in level]).reshape(-1, 2)


def _levels(pixels: Pixels, stain: Stain) -> Iterator[list[tuple[float, float]]]:
    """Yield circles (diameter in source pixels, share of the window they fill) at each halving of the field."""
    factor = 1.0
    while True:
        height, width = (round(side / factor) for side in pixels.shape[:2])
        if min(height, width) < 60 and factor > 1:
            return
        small = resized(pixels, width, height)
        found = [circle for window in _windows(small) for circle in _circles(window, stain)]
        count = max(1, len(_windows(small)))
        yield [(diameter * factor, share / count) for diameter, share in found]
        if max(height, width) <= _WINDOW:
            return
        factor *= 2


def _windows(pixels: Pixels) -> list[Pixels]:
    """Return the middle of the field, and for a large one its four quarters' middles as well."""
    height, width = pixels.shape[:2]
    if max(height, width) <= 2.5 * _WINDOW:
        centres = [(height // 2, width // 2)]
    else:
        centres = [(height * row // 4, width * column // 4) for row in (1, 3) for column in (1, 3)]
    half = _WINDOW // 2
    return [pixels[max(0, y - half) : y + half, max(0, x - half) : x + half] for y, x in centres]


def _circles(window: Pixels, stain: Stain) -> list[tuple[float, float]]:
    """Return circles that are not white cells as (diameter in pixels, share of the window)."""
    density = blur(optical_density(window, stain.background), 1.0)
    away = ~grown(purple(density) > stain.purple, 3)
    rows, columns, toward_row, toward_column = edges(np.minimum(brightest(density), 1.0), away=away)
    height, width = window.shape[:2]
    top, best = np.zeros((2, height, width), np.float32)
    for radius in (float(radius) for radius in _RADII if 2.5 * radius < min(height, width)):
        y, x = np.rint(rows + radius * toward_row), np.rint(columns + radius * toward_column)
        votes = tally(y.astype(int), x.astype(int), shape=(height, width), radius=radius)
        better = votes > top
        top[better], best[better] = votes[better], radius
    return [(2 * radius, support**3 * radius**2 / (height * width)) for support, radius in _best(top, radii=best)]


def edges(
    dark: Plane, *, away: Mask, steepest: float = 0.25, least: float = 0.012
) -> tuple[Plane, Plane, Plane, Plane]:
    """Return thin edges: row, column and the unit vector that points to the dark side.

    steepest: share of pixels among which edges are sought. least: rise per pixel of the faintest edge.
    """
    across, down = slope(dark)
    steep: Plane = np.hypot(across, down)
    unit_x, unit_y = across / (steep + 1e-6), down / (steep + 1e-6)
    y, x = (side.astype(np.float32) for side in np.mgrid[: dark.shape[0], : dark.shape[1]])
    ahead = cv2.remap(steep, x + unit_x, y + unit_y, cv2.INTER_LINEAR)
    behind = cv2.remap(steep, x - unit_x, y - unit_y, cv2.INTER_LINEAR)
    least = max(least, float(np.percentile(steep, 100 * (1 - steepest))))
    thin = np.asarray((steep >= ahead) & (steep >= behind) & (steep > least) & away)
    return y[thin], x[thin], unit_y[thin], unit_x[thin]


def tally(rows: NDArray[np.int_], columns: NDArray[np.int_], *, shape: tuple[int, int], radius: float) -> Plane:
    """Count votes for middles; 1 means that the whole rim has voted."""
    height, width = shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    votes = np.bincount(rows[inside] * width + columns[inside], minlength=height * width)
    spread = max(_BLUR * radius, 0.8)
    return blur(votes.reshape(height, width).astype(np.float32), spread) * np.float32(spread**2 / radius)


def _best(top: Plane, *, radii: Plane) -> list[tuple[float, float]]:
    """Return (support, radius) of circles that do not lie in each other, best first."""
    peak = np.asarray((top > _SUPPORT) & (top >= cv2.dilate(top, np.ones((7, 7), np.uint8))))
    rows, columns = np.nonzero(peak)
    kept: list[tuple[float, float, int, int]] = []
    for at in np.argsort(-top[peak]):
        y, x = int(rows[at]), int(columns[at])
        radius = float(radii[y, x])
        if all((y - v) ** 2 + (x - u) ** 2 > (0.7 * max(radius, other)) ** 2 for _, other, v, u in kept):
            kept.append((float(top[y, x]), radius, y, x))
    return [(support, radius) for support, radius, _, _ in kept]


def _mode(circles: NDArray[np.float64], *, least: int) -> float | None:
    """Return the diameter round which most of the area lies (within a fifth); None below `least` circles."""
    if not len(circles):
        return None
    logs, weights = np.log(circles[:, 0]), circles[:, 1]
    near = np.abs(logs[:, None] - logs[None, :]) < 0.2
    best = int(np.argmax(near @ weights))
    chosen = near[best]
    if chosen.sum() < least:
        return None
    return float(np.exp(np.average(logs[chosen], weights=weights[chosen])))


def _nucleus_diameter(pixels: Pixels, stain: Stain) -> float | None:
    """Return the diameter of the nucleus that takes up most purple area, in pixels; None where nothing is a nucleus."""
    factor = max(1.0, max(pixels.shape[:2]) / 1024)
    density = blur(optical_density(rescaled(pixels, 1 / factor), stain.background), 1.2)
    violet = purple(density)
    nuclei = opened(violet > stain.purple, 2)
    elsewhere = (density[..., 1] > 0.12) & ~grown(nuclei, 3)
    base = float(np.median(violet[elsewhere])) if elsewhere.any() else 0.0
    if not nuclei.any() or np.percentile(violet[nuclei], 75) - base < _NUCLEUS_CONTRAST:
        return None
    _, found, _ = parts(nuclei)
    areas = np.sort(found[1:].astype(float))
    if not areas.size or areas[-1] < 30:
        return None
    middle = float(areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)])
    return float(factor * 2 * np.sqrt(middle / np.pi))
