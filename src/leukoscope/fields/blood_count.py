"""Red cells and platelets of a field, found by form and colour beside the white cells.

A red cell's rim is a closed curve about as wide as the scale implies, dark inside and bright outside, also where cells
lie over each other: overlap only makes the inside darker. Edges vote for middles as in `fields.scale`; from each middle
the best closed curve is sought along rays (dynamic programming, Timp & Karssemeijer, Med Phys 2004; 31: 958), so that
every cell of a clump gets its own. A platelet is a small patch that absorbs more red than blue, which red cells and
glass do not. Which curves and patches are kept is decided by a logistic regression on a few features, fitted to the
boxes of 275 fields of BCCD (MIT), and of platelets also from the 350 labelled ones of PBC (Acevedo et al. 2020, CC BY
4.0), which are larger; `benchmarks/blood_count.py` measures it on held-out fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from .cells import Field, FieldCell, Outline
from .images import Mask, Plane, blur, brightest, disc, grown, parts, rescaled
from .scale import RED_CELL_UM, edges, tally
from .stain import optical_density, purple

COARSEST_UM = 0.30
"""Micrometres per pixel beyond which platelets are a few pixels; nothing is counted there."""
_WORKING_UM = 0.15
_STATED = ("user", "file")
"""Sources of a scale that red cells of the same field did not give."""

_RADII = (0.65, 0.75, 0.85, 0.95, 1.05, 1.15, 1.3)  # of the usual radius: circles that edges vote for
_LEAST_VOTES = 0.16  # share of the rim
_RAYS, _STEPS = 40, 40
_REACH = (0.5, 1.65)  # of the usual radius: where along a ray the rim is sought
_STRONGEST_EDGE = 0.22  # optical density; a stronger one means no more
_BEND = 0.012  # what a step of the curve from ray to ray costs, times its length to the power 1.5
_ROUND = 0.02, 0.35  # what leaving the usual radius costs, and at which share of it
_SEEN_EDGE = 0.03
_AT_ONCE = 256  # curves; OpenCV's remap takes no more than 32,767 rows
_LEAST_SEEN = 0.1  # share of the inside
_SAMPLES = (0.15, 0.4, 0.65, 0.85)  # of the way from the middle to the rim

# Weight of each number in the two logistic rules, the constant, and the probability from which one is kept; fitted with
# scikit-learn by `benchmarks/blood_count.py fit`.
RED_CELL_RULE = {"seen": 1.841, "size": -5.712, "vote": 7.771, "pale": -4.313, "violet": -10.63, "constant": -2.639}
PLATELET_RULE = {"peak": 14.036, "around": -13.438, "long": 5.275, "mean": -1.312, "area": 1.573, "constant": -9.122}
RED_CELL_SURE, PLATELET_SURE = 0.2, 0.3
_SAME_CELL = 0.4  # intersection over union of the boxes of two curves that are one cell

_PATCH = 0.06  # optical density of red beyond blue, above what lies around
_PATCH_REACH_UM = 2.4
_PLATELET_UM2 = (0.8, 26.0)
_RIM_UM = 0.45  # from the edge of a patch's strongest part to where its colour ends
_CLUMP_UM, _CLUMP = 1.0, 3  # so many platelets with gaps of this width are a clump
_CLUMP_UM2 = 14.0  # and so is one patch of this size, unless it is a giant platelet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RedCell:
    """One red cell; x and y in pixels of the field."""

    outline: Outline
    diameter_um: float
    """Of the circle of the same area."""
    whole: bool
    """Whether the border of the field leaves it whole."""


@dataclass(frozen=True)
class Platelet:
    """One platelet; pixels of the field."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    clumped: bool


@dataclass(frozen=True)
class BloodCount:
    """What a field shows beside white cells."""

    red_cells: tuple[RedCell, ...]
    platelets: tuple[Platelet, ...]
    scale_stated: bool
    """Whether the scale is known from elsewhere than these red cells, so that their size means something."""
    area: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of the part of the picture that was counted; None for all of it."""

    @property
    def clumped(self) -> int:
        """Platelets in clumps. Where there are any, fewer platelets are counted than there are."""
        return sum(each.clumped for each in self.platelets)

    @property
    def diameters_um(self) -> list[float]:
        """Diameters of whole red cells in µm; empty where the scale was measured on such cells."""
        return [each.diameter_um for each in self.red_cells if each.whole] if self.scale_stated else []


@dataclass(frozen=True)
class Candidates:
    """What may be red cells, or platelets, before a rule decides."""

    boxes: Floats
    """(n, 4): left, top, right, bottom, in pixels of the field and within it."""
    numbers: dict[str, Floats]
    """Features of the rule, (n,) each."""
    outlines: list[Outline]
    whole: NDArray[np.bool_]
    """Whether the field shows all of it."""

    def probability(self, rule: Mapping[str, float]) -> Floats:
        """Return how sure a logistic rule is of each."""
        total = np.full(len(self.boxes), rule["constant"])
        for name, values in self.numbers.items():
            total += rule[name] * values
        return np.asarray(expit(total))


def count_blood(field: Field, cells: Sequence[FieldCell]) -> BloodCount | None:
    """Return red cells and platelets of a field; None where it is too coarse for that. `cells`: its white cells."""
    if field.scale.um_per_px > COARSEST_UM:
        return None
    red, small = candidates(field, cells)
    return BloodCount(
        _red_cells(red, field.scale.um_per_px), _platelets(small, field.scale.um_per_px), field.scale.source in _STATED
    )


def candidates(field: Field, cells: Sequence[FieldCell]) -> tuple[Candidates, Candidates]:
    """Return what may be red cells, and what may be platelets."""
    zoom = min(1.0, field.scale.um_per_px / _WORKING_UM)
    pixels = rescaled(field.pixels, zoom)
    zoom = pixels.shape[1] / field.pixels.shape[1]
    um = field.scale.um_per_px / zoom
    white = np.zeros(pixels.shape[:2], np.uint8)
    for cell in cells:
        cv2.fillPoly(white, [np.rint(cell.outline * zoom).astype(np.int32)], (1,))
    density = optical_density(pixels, field.stain.background)
    red = _round_candidates(blur(density, 1.0), white > 0, radius=RED_CELL_UM / 2 / um)
    small = _blue_candidates(blur(density, max(0.2 / um, 0.6)), white > 0, um=um)
    return _enlarged(red, 1 / zoom), _enlarged(small, 1 / zoom)


def _enlarged(found: Candidates, factor: float) -> Candidates:
    return Candidates(found.boxes * factor, found.numbers, [each * factor for each in found.outlines], found.whole)


def _red_cells(found: Candidates, um: float) -> tuple[RedCell, ...]:
    """Keep what is sure enough, and of curves around the same cell the surest."""
    sure = found.probability(RED_CELL_RULE)
    kept = apart(found.boxes, [int(at) for at in np.argsort(-sure) if sure[at] > RED_CELL_SURE])
    areas = [cv2.contourArea(found.outlines[at].astype(np.float32)) for at in kept]
    return tuple(
        RedCell(found.outlines[at], 2 * float(np.sqrt(area / np.pi)) * um, bool(found.whole[at]))
        for at, area in zip(kept, areas, strict=True)
    )


def apart(boxes: Floats, order: Sequence[int]) -> list[int]:
    """Return the boxes that do not repeat an earlier one."""
    kept: list[int] = []
    for at in order:
        if not kept or _overlap(boxes[at], boxes[kept]).max() < _SAME_CELL:
            kept.append(at)
    return kept


def _overlap(box: Floats, boxes: Floats) -> Floats:
    """Return the intersection over union of a box with others."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.clip(sides, 0, None).prod(axis=1)
    both = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(common / np.maximum(both - common, 1e-9))


def _platelets(found: Candidates, um: float) -> tuple[Platelet, ...]:
    """Keep what is sure enough, and mark which of these lie in clumps."""
    kept = np.flatnonzero(found.probability(PLATELET_RULE) > PLATELET_SURE)
    boxes, gap = found.boxes[kept], _CLUMP_UM / um
    near = np.array(
        [[bool((np.maximum(a[:2], b[:2]) <= np.minimum(a[2:], b[2:]) + gap).all()) for b in boxes] for a in boxes]
    ).reshape(len(boxes), len(boxes))
    _, group = connected_components(near, directed=False)
    crowd = np.bincount(group, minlength=1)[group] >= _CLUMP if len(boxes) else np.zeros(0, bool)
    large = np.array([cv2.contourArea(found.outlines[at].astype(np.float32)) * um**2 > _CLUMP_UM2 for at in kept])
    return tuple(
        Platelet((float(box[0]), float(box[1]), float(box[2]), float(box[3])), bool(clumped))
        for box, clumped in zip(boxes, crowd | large if len(boxes) else crowd, strict=True)
    )


def _round_candidates(density: Plane, white: Mask, *, radius: float) -> Candidates:
    """Return a closed curve for every place where edges meet as those of a red cell do; `radius` in pixels."""
    dark = np.minimum(brightest(density), 0.8)
    middles, votes = _middles(dark, away=~grown(white, 2), radius=radius)
    some = [middles[at : at + _AT_ONCE] for at in range(0, max(1, len(middles)), _AT_ONCE)]
    drawn = [_curves(dark, each, radius=radius) for each in some]
    curves, strength, inside = (np.concatenate(each) for each in zip(*drawn, strict=True))
    # White cells, and curves of which the field shows next to nothing, are none.
    covered = _sampled(white.astype(np.float32), middles, curves)
    seen = np.isfinite(covered).mean(axis=1) > _LEAST_SEEN
    red = seen & (np.nan_to_num(covered).sum(axis=1) < 0.5 * np.isfinite(covered).sum(axis=1))
    middles, votes, curves, strength, inside = (each[red] for each in (middles, votes, curves, strength, inside))
    areas = np.array([cv2.contourArea(curve.astype(np.float32)) for curve in curves])
    numbers = {
        "seen": ((strength > _SEEN_EDGE) & inside).sum(axis=1) / np.maximum(inside.sum(axis=1), 1),
        "size": np.abs(np.log(np.maximum(np.sqrt(areas / np.pi), 1) / (1.05 * radius))),
        "vote": votes,
        "pale": np.nanpercentile(_sampled(dark, middles, curves), 10, axis=1),
        "violet": np.nanmean(_sampled(purple(density), middles, curves), axis=1),
    }
    clipped = np.clip(curves, 0, dark.shape[::-1])
    boxes = np.concatenate([clipped.min(axis=1), clipped.max(axis=1)], axis=1)
    return Candidates(boxes, numbers, list(clipped), inside.all(axis=1))


def _middles(dark: Plane, *, away: Mask, radius: float) -> tuple[Floats, Floats]:
    """Return where edges vote for the middle of a circle, (n, 2) as x and y, and the share of its rim that does."""
    rows, columns, down, across = edges(dark, away=away, steepest=0.4, least=0.01)
    pad, (height, width) = round(radius), dark.shape  # cells whose middle lies beyond the border are seen in part
    most = np.zeros((height + 2 * pad, width + 2 * pad), np.float32)
    for each in radius * np.array(_RADII):
        y, x = (np.rint(at + each * toward).astype(int) + pad for at, toward in ((rows, down), (columns, across)))
        most = np.maximum(most, tally(y, x, shape=(most.shape[0], most.shape[1]), radius=float(each)))
    y, x = np.nonzero((most > _LEAST_VOTES) & (most >= cv2.dilate(most, np.ones((9, 9), np.uint8))))
    return np.column_stack([x - pad, y - pad]).astype(np.float64), most[y, x].astype(np.float64)


def _curves(dark: Plane, middles: Floats, *, radius: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the best closed curve around each middle.

    That is (n, rays, 2) as x and y, how much darker it is inside than outside at each of its points, and whether the
    point lies in the field.
    """
    angles = np.linspace(0, 2 * np.pi, _RAYS, endpoint=False)
    towards, lengths = np.column_stack([np.cos(angles), np.sin(angles)]), np.linspace(*_REACH, _STEPS) * radius
    points = middles[:, None, None] + towards[None, :, None] * lengths[None, None, :, None]  # (n, rays, steps, 2)
    step = (0.06 * radius + 1) * towards[None, :, None]
    rise = np.clip(_at(dark, points - step) - _at(dark, points + step), -0.05, _STRONGEST_EDGE)
    inside = ((points >= 1) & (points <= np.array(dark.shape[::-1]) - 2)).all(axis=3)
    rise[~inside] = _SEEN_EDGE
    cost, width = _ROUND
    path = _closed_path(rise - cost * ((lengths / radius - 1) / width) ** 2)[..., None]
    curves = np.take_along_axis(points, path[..., None], axis=2)[:, :, 0]
    return curves, np.take_along_axis(rise, path, 2)[..., 0], np.take_along_axis(inside, path, 2)[..., 0]


def _closed_path(gain: Floats) -> NDArray[np.int_]:
    """Return the step on each ray by which a smooth closed curve gains most, (n, rays), of (n, rays, steps).

    Gone twice round, so that the curve has closed itself in the half between: cheaper than trying every beginning.
    """
    count, rays, steps = gain.shape
    bends = np.arange(-3, 4)
    price = _BEND * np.abs(bends) ** 1.5
    total, came = gain[:, 0], np.zeros((2 * rays, count, steps), np.int8)
    for ray in range(1, 2 * rays):
        padded = np.pad(total, ((0, 0), (3, 3)), constant_values=-1e9)
        ways = np.stack([padded[:, at : at + steps] - price[at] for at in range(len(bends))])
        came[ray] = bends[ways.argmax(axis=0)]
        total = ways.max(axis=0) + gain[:, ray % rays]
    path, at, own = np.zeros((count, 2 * rays), int), total.argmax(axis=1), np.arange(count)
    for ray in range(2 * rays - 1, -1, -1):
        path[:, ray] = at
        at = np.clip(at + came[ray, own, at], 0, steps - 1)
    half = rays // 2
    return np.roll(path[:, half : half + rays], half, axis=1)


def _at(plane: Plane, points: Floats) -> Floats:
    """Return the plane at points (..., 2), x and y, between pixels too."""
    flat = points.reshape(-1, points.shape[-2], 2).astype(np.float32)
    if not flat.size:
        return np.zeros(points.shape[:-1])
    found = cv2.remap(plane, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found.reshape(points.shape[:-1]), np.float64)


def _sampled(plane: Plane, middles: Floats, curves: Floats) -> Floats:
    """Return the plane at some points inside each curve, (n, points); what lies outside the field is not a number."""
    spokes = curves[:, ::4] - middles[:, None]
    points = middles[:, None, None] + spokes[:, :, None] * np.array(_SAMPLES)[:, None]
    values = _at(np.ascontiguousarray(plane), points)
    values[~((points >= 0) & (points <= np.array(plane.shape[::-1]) - 1)).all(axis=3)] = np.nan
    return values.reshape(len(middles), spokes.shape[1] * len(_SAMPLES))


def _blue_candidates(density: Plane, white: Mask, *, um: float) -> Candidates:
    """Return every small patch outside white cells that absorbs more red than blue."""
    blue = np.ascontiguousarray(density[..., 0] - density[..., 2])
    around = cv2.morphologyEx(blue, cv2.MORPH_OPEN, disc(_PATCH_REACH_UM / um))
    patch = np.minimum(blue - around, blue)
    patch[grown(white, 0.4 / um)] = 0
    labels, areas, _ = parts(patch > _PATCH)
    strongest, violet = brightest(density), purple(density)
    boxes, outlines, numbers = [], [], []
    for label, where in enumerate(ndimage.find_objects(labels), start=1):
        if not _PLATELET_UM2[0] <= areas[label] * um**2 <= _PLATELET_UM2[1]:
            continue
        margin = max(2, round(1.2 / um)) + 1
        rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in where)
        core = _strongest_part((labels[rows, columns] == label) * patch[rows, columns])
        outline = _outline(grown(core, max(1, _RIM_UM / um))) + np.array([columns.start, rows.start])
        ring = grown(core, max(2, 1.2 / um)) & ~grown(core, max(1, 0.5 / um))
        sides = sorted(cv2.minAreaRect(_outline(core).astype(np.float32))[1])
        numbers.append(
            {
                "peak": patch[rows, columns][core].max(),
                "around": np.median(strongest[rows, columns][ring]) if ring.any() else 0.0,
                "long": sides[0] / max(sides[1], 1.0),
                "mean": violet[rows, columns][core].mean(),
                "area": np.log(cv2.contourArea(outline.astype(np.float32)) * um**2 + 0.1),
            }
        )
        boxes.append([*outline.min(axis=0), *(outline.max(axis=0) + 1)])
        outlines.append(outline.astype(np.float64))
    found = np.array(boxes, np.float64).reshape(-1, 4)
    names = [name for name in PLATELET_RULE if name != "constant"]
    whole = np.asarray(((found[:, :2] > 0) & (found[:, 2:] < density.shape[1::-1])).all(axis=1), np.bool_)
    table = {name: np.array([each[name] for each in numbers], np.float64) for name in names}
    return Candidates(found, table, outlines, whole)


def _strongest_part(patch: Plane) -> Mask:
    """Return the largest connected part of a patch that has two fifths of its strongest colour."""
    labels, areas, _ = parts(patch > 0.4 * patch.max())
    return np.asarray(labels == 1 + int(np.argmax(areas[1:])))


def _outline(mask: Mask) -> NDArray[np.int32]:
    """Return the outline of the largest part of a mask, (points, 2) as x and y."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(max(found, key=len)[:, 0], np.int32)
