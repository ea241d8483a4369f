"""From an image of one cell to the crops that a network sees: for its kind, and for blast or normal.

NumPy alone, since the small install judges such cells too; `fields.crops` makes the same crop of a cell that lies
in its field. A cell on black shows no glass: its brightest part is used instead, and its nucleus for the strength of
the stain. The cell is surrounded by glass, so that a crop does not show which laboratory it comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import gcd
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import Prepare
from ..errors import ImageError
from .read import RGB

# JPEG copies of black are not quite black; of a C-NMC cell less than 2 % of the pixels, all at its edge, are as dark.
BLACK = 24
"""Grey level above which a pixel in any channel is part of a cell that was cut out on black."""
_VIEW_GLASS, _PALE = 150, 40  # grey levels: of glass's darkest channel at least, between its channels at most
_LEAST_VIEW, _LEAST_GLASS = 0.4, 0.25  # share of the picture that is not black, share of that which is glass
_FRAMED = 0.5  # share of the outermost pixels that are not black above which nothing has been cut out


def prepare_crop(image: RGB, prepare: Prepare) -> RGB:
    """Return the crop of an image, uint8 (size, size, 3).

    Raises:
        ImageError: the image is all black, so there is no cell to see.
    """
    if image.max() <= BLACK:
        raise ImageError("is all black, without a cell. Remove or replace it.")
    image = turned(image, view_of(image, prepare))
    left, top, side = source_square(image, prepare)
    if (left, top) == (0, 0) and image.shape[:2] == (side, side) == (prepare.size, prepare.size):
        return image  # it is its own crop already, as the release's images are at 450 px
    return cut_square(image, left, top, side, size=prepare.size)


def cut_square(image: RGB, left: int, top: int, side: int, *, size: int) -> RGB:
    """Return a square of the source as a crop, (size, size, 3); what lies outside the source is black."""
    crop = np.zeros((size, size, 3), np.uint8)
    x, y = max(left, 0), max(top, 0)
    part = image[y : top + side, x : left + side]
    if (box := cell_box(part, above=0)) is None:
        return crop
    # Black stays black: only a square around the rest is resampled, aligned to tiles of whole pixels in both, with
    # a margin of two tiles, which no kernel exceeds. A square, since Pillow's order of axes depends on the shape.
    tiles = gcd(side, size)
    step, places = side // tiles, size // tiles
    start = max(0, min(box[0] + x - left, box[1] + y - top) // step - 2)
    end = min(tiles, -(-max(box[2] + x - left, box[3] + y - top) // step) + 2)
    edges = (left - x + start * step, top - y + start * step, left - x + end * step, top - y + end * step)
    # Image.crop fills what lies outside the source with black, as the release's own background.
    square = Image.fromarray(part).crop(edges)
    # Pillow widens the bilinear kernel when it shrinks, so nothing is skipped between two pixels.
    shown = slice(start * places, end * places)
    crop[shown, shown] = np.asarray(square.resize([(end - start) * places] * 2, Image.Resampling.BILINEAR))
    return crop


def is_cut_out(image: RGB) -> bool:
    """Return whether a picture shows something cut out on black: most of its outermost pixels are black."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return float(cell_mask(border).mean()) <= _FRAMED


def shows_view(pixels: RGB) -> bool:
    """Return whether a picture that is partly black shows a field of view, and not a cell cut out on black.

    Glass distinguishes them: bright, hardly coloured, and much of it. No cell shows any.
    """
    every = pixels[::2, ::2]
    brightest = _brightest(every)
    seen = brightest > BLACK
    if seen.mean() <= _LEAST_VIEW:
        return False
    darkest = np.minimum(np.minimum(every[..., 0], every[..., 1]), every[..., 2])
    glass = (darkest > _VIEW_GLASS) & (brightest - darkest < _PALE)
    return bool(glass[seen].mean() > _LEAST_GLASS)


def cell_mask(image: RGB) -> NDArray[np.bool_]:
    """Return where the cell is, (height, width): all that is not black background."""
    return np.asarray(_brightest(image) > BLACK)


def _brightest(image: RGB) -> NDArray[np.uint8]:
    """Return the maximum of the channels; numpy's own along an axis of three takes thirty times as long."""
    return np.asarray(np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]))


def cell_box(image: RGB, *, above: int = BLACK) -> tuple[int, int, int, int] | None:
    """Return the bounding box of the pixels with a channel above a grey level; None where there are none."""
    height, width = image.shape[:2]
    lines = image.reshape(height, 3 * width)
    rows = np.flatnonzero(lines.max(axis=1) > above)
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(lines[top:bottom].max(axis=0) > above) // 3
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the true pixels; right and bottom are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def square_around(box: tuple[int, int, int, int], *, margin: float) -> tuple[int, int, int]:
    """Return (left, top, side) of the square around a box, with a margin as a share of the box's longer side."""
    left, top, right, bottom = box
    longer = max(right - left, bottom - top)
    side = longer + 2 * round(margin * longer)
    return (left + right - side) // 2, (top + bottom - side) // 2, side


def source_square(image: RGB, prepare: Prepare) -> tuple[int, int, int]:
    """Return (left, top, side) of the square of the source, in its pixels, that becomes the crop."""
    height, width = image.shape[:2]
    if prepare.view == "cell":
        return square_around(bounding_box(cell_mask(image)), margin=prepare.margin)
    if prepare.view == "area":
        x, y, area = _centre_and_area(cell_mask(image))
        side = max(1, round(2 * np.sqrt(area / np.pi) * (1 + 2 * prepare.margin)))
        return round(x - side / 2), round(y - side / 2), side
    side = prepare.window if prepare.view == "window" else max(height, width)
    return (width - side) // 2, (height - side) // 2, side


def _centre_and_area(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return x, y and area in pixels of the largest piece of the mask, without what hangs on it by a thread."""
    from scipy.ndimage import binary_opening, label  # for this view alone: a first answer should not wait for SciPy

    height, width = mask.shape
    small = mask[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))
    pieces, count = label(binary_opening(small, iterations=3) if small.size else small)
    if not count:  # thinner than the opening: take it as it is
        pieces, small = mask.astype(int), mask
    scale = 1 if small is mask else 2
    sizes = np.bincount(pieces.ravel())[1:]
    rows, columns = np.nonzero(pieces == sizes.argmax() + 1)
    return scale * (columns.mean() + 0.5), scale * (rows.mean() + 0.5), scale**2 * float(sizes.max())


Views: TypeAlias = Literal["one", "flips", "turns"]
View = tuple[bool, bool, bool]
"""Mirror left to right, mirror top to bottom, exchange rows and columns: in this order."""

AS_IT_IS: View = (False, False, False)
_FLIPS: list[View] = [(left, top, False) for left in (False, True) for top in (False, True)]
VIEWS: dict[Views, list[View]] = {
    "one": _FLIPS[:1],
    "flips": _FLIPS,
    "turns": [*_FLIPS, *((left, top, True) for left, top, _ in _FLIPS)],
}

_IN_PILLOW = ["FLIP_TOP_BOTTOM", "FLIP_LEFT_RIGHT", "ROTATE_180", "TRANSPOSE", "ROTATE_270", "ROTATE_90", "TRANSVERSE"]


def turn(images: NDArray[Any], view: View, *, axes: tuple[int, int]) -> NDArray[Any]:
    """Return images as seen in a view; `axes` are those of height and width.

    >>> turn(np.array([[1, 2], [3, 4]]), (True, False, True), axes=(0, 1)).tolist()
    [[2, 4], [1, 3]]
    """
    left, top, exchange = view
    images = np.flip(images, axes[1]) if left else images
    images = np.flip(images, axes[0]) if top else images
    return np.swapaxes(images, *axes) if exchange else images


def turned(image: RGB, view: View) -> RGB:
    """Return a picture as `turn` does, but C-contiguous; Pillow is faster than NumPy."""
    if view == AS_IT_IS:
        return image
    how = Image.Transpose[_IN_PILLOW[VIEWS["turns"].index(view) - 1]]
    return np.asarray(Image.fromarray(image).transpose(how))


def turn_back(images: NDArray[Any], view: View, *, axes: tuple[int, int]) -> NDArray[Any]:
    """Undo `turn`.

    >>> turn_back(np.array([[2, 4], [1, 3]]), (True, False, True), axes=(0, 1)).tolist()
    [[1, 2], [3, 4]]
    """
    left, top, exchange = view
    images = np.swapaxes(images, *axes) if exchange else images
    return turn(images, (left, top, False), axes=axes)


def view_of(image: RGB, prepare: Prepare) -> View:
    """Return the view of an image of which its crop is made."""
    return canonical_view(image) if prepare.canonical else AS_IT_IS


def canonical_view(image: RGB) -> View:
    """Return the view in which all eight pictures that turning by 90° and mirroring make of one picture are the same.

    It brings the way from the middle of the cell to the middle of its dark parts to point right, and less down than
    right. This is worked out in whole numbers, so a picture and the same picture turned give exactly the same pixels.
    Where a cell is so even that several views do so, the one whose pixels come last in order is taken.
    """
    x, y = _way_to_the_dark(image)
    first = (x < 0, y < 0, abs(y) > abs(x))
    if 0 < abs(x) != abs(y) > 0:
        return first
    found = {view: turn(image, view, axes=(0, 1)) for view in VIEWS["turns"]}
    fitting = [view for view, seen in found.items() if _points_right(*_way_to_the_dark(seen))]
    return max(fitting, key=lambda view: (found[view].shape, found[view].tobytes()))


def _points_right(x: int, y: int) -> bool:
    return x >= y >= 0


def _way_to_the_dark(image: RGB) -> tuple[int, int]:
    """Return how far right and down the dark parts of a cell lie of its middle, in a unit of the picture's own."""
    if (box := cell_box(image)) is None:
        return 0, 0
    left, top, right, bottom = box
    cell = cell_mask(image[top:bottom, left:right])
    dark = (255 - image[top:bottom, left:right, 1]) * cell  # green: where both dyes absorb
    way = []
    for axis in (0, 1):
        cells, darkness = (plane.sum(axis=axis, dtype=np.int64) for plane in (cell, dark))
        place = np.arange(1 - len(cells), len(cells), 2)
        way.append(int(darkness @ place) * int(cells.sum()) - int(cells @ place) * int(darkness.sum()))
    return way[0], way[1]


SIDE, UM_PER_PX = 128, 0.17
"""Of the crop that the network sees: pixels, micrometres per pixel (21.8 µm)."""
FRAME_SIDE, FRAME_UM_PER_PX = 192, 0.125
"""Of the frame from which crops are made, and from which training makes its variants (24 µm)."""
GLASS = 240  # grey level of empty glass in a crop
OFFSET = 8.0  # grey levels added before the logarithm, as in fields.stain
RELEASE_UM_PER_PX = 0.06  # of C-NMC 2019, as in fields.scale

Mask = NDArray[np.bool_]  # (height, width)
ColourTable = NDArray[np.float32]  # (256, 3): grey level of the picture -> grey level of the crop, for each channel
Floats = NDArray[np.float32]

_NUCLEUS = 2.1  # length of the optical density of the darkest twentieth of a cell
_NUCLEUS_GAIN = (0.6, 1.8)
_DARKEST_GLASS = (118, 75, 115)  # grey levels: C-NMC 2019 hides its glass, and its cells are very dark


def crop_on_black(image: RGB) -> RGB:
    """Return the crop of a cell that was cut out on black at the scale of the release, uint8 RGB (SIDE, SIDE, 3).

    Everything is computed where the cell is: elsewhere the crop is glass.
    """
    crop = np.full((SIDE, SIDE, 3), GLASS, np.uint8)
    cut = _cut(image, RELEASE_UM_PER_PX)
    if cut is None:
        return crop
    soften, shrink, blur, edge = _resamplings()
    windows = [_Windows.around(start, length) for start, length in zip(cut.corner, cut.planes.shape[::2], strict=True)]
    levels = np.rint(table_on_black(cut.planes[:, :3].swapaxes(1, 2), cut.planes[:, 3] > 0))
    frame = cut.within([each.frame for each in windows])
    colours = _both_ways([soften.part(each.soft, each.frame) for each in windows], frame[:, :3])
    softened = np.rint(colours).astype(np.uint8)
    recoloured = np.stack([levels[:, channel].take(softened[:, channel]) for channel in range(3)], axis=1)
    shown = np.rint(_both_ways([shrink.part(each.shown, each.soft) for each in windows], recoloured, fill=GLASS))
    cover = _both_ways([blur.part(each.covered, each.frame) for each in windows], frame[:, 3:])
    rows, columns = (_slice(each.covered, each.rim) for each in windows)
    solid = np.zeros((len(windows[0].rim), 1, len(windows[1].rim)), np.float32)
    solid[rows, :, columns] = cover > 0.5
    inside = _both_ways([edge.part(each.shown, each.rim) for each in windows], solid)
    down, across = (slice(each.shown.start, each.shown.stop) for each in windows)
    crop[down, across] = np.clip(shown * inside + GLASS * (1 - inside) + 0.5, 0, 255).swapaxes(1, 2)
    return crop


def frame_on_black(image: RGB, *, um_per_px: float = RELEASE_UM_PER_PX) -> tuple[RGB, Mask]:
    """Return a cell on black in the middle of a frame, (FRAME_SIDE, FRAME_SIDE, 3), and its mask.

    The rim, blurred with black as it is shrunk, gets back the colour that black took from it.
    """
    cut = _cut(image, um_per_px)
    if cut is None:
        return np.zeros((FRAME_SIDE, FRAME_SIDE, 3), np.uint8), np.zeros((FRAME_SIDE, FRAME_SIDE), bool)
    whole = cut.within([range(FRAME_SIDE)] * 2)
    return np.ascontiguousarray(whole[:, :3].swapaxes(1, 2)), whole[:, 3] > 0


@dataclass(frozen=True)
class _Cut:
    """A cell at the scale of a frame, and where in the frame it lies."""

    planes: NDArray[np.uint8]  # (height, 4, width): red, green, blue, and where the cell is
    corner: tuple[int, int]  # row and column of the frame

    def within(self, window: Sequence[range]) -> NDArray[np.uint8]:
        """Return the planes in a window of the frame; around the cell they are 0."""
        height, number, width = self.planes.shape
        whole = np.zeros((len(window[0]), number, len(window[1])), np.uint8)
        top, left = (at - each.start for at, each in zip(self.corner, window, strict=True))
        whole[top : top + height, :, left : left + width] = self.planes
        return whole


def _cut(image: RGB, um_per_px: float) -> _Cut | None:
    """Return the cell of an image at the scale of a frame; None where there is none."""
    if (box := cell_box(image)) is None:
        return None
    left, top, right, bottom = box
    zoom = um_per_px / FRAME_UM_PER_PX
    (down, row), (across, column) = (
        _placed(side, start, end, zoom=zoom, middle=(start + end) / 2)
        for side, start, end in zip(image.shape[:2], (top, left), (bottom, right), strict=True)
    )
    planes = np.ascontiguousarray(image[top:bottom, left:right].swapaxes(1, 2))
    source = np.empty((bottom - top, 4, right - left), np.float32)
    source[:, :3], source[:, 3] = planes, planes.max(axis=1) > BLACK
    found = _both_ways([down, across], source)
    cover = 255 * found[:, 3:]
    found[:, :3] = np.minimum(found[:, :3] * 255 / np.maximum(cover, 64), 255)
    found[:, 3:] = cover > 127
    return _Cut(found.astype(np.uint8), (row, column))


@dataclass(frozen=True)
class _Windows:
    """Along one axis, the places of the frame and of the crop that a cell has a part in."""

    frame: range  # of the frame: what is softened
    soft: range  # of the frame: what the crop is made of
    covered: range  # of the crop: where the cell may be
    shown: range  # of the crop: where its softened outline reaches
    rim: range  # of the crop: what softens that outline

    @classmethod
    def around(cls, start: int, length: int) -> "_Windows":
        """Return the windows of a cell that takes `length` places of the frame from `start` on."""
        end = start + length
        zoom = FRAME_UM_PER_PX / UM_PER_PX
        # Beyond the mask a blurred one is below one half: there is no cell more than a place outside of it.
        low, high = (SIDE / 2 - 0.5 + zoom * (at - (FRAME_SIDE / 2 - 0.5)) for at in (start - 1, end))
        covered = _clipped(int(np.floor(low)), int(np.ceil(high)) + 1, SIDE)
        shown, rim = (_clipped(covered.start - by, covered.stop + by, SIDE) for by in (_REACH, 2 * _REACH))
        soft, frame = (_clipped(start - by, end + by, FRAME_SIDE) for by in (_AROUND, _AROUND + _BLURRED))
        return cls(frame, soft, covered, shown, rim)


_REACH = 3  # places of the crop by which its outline is softened
_AROUND, _BLURRED = 9, 8  # places of the frame that the softened outline reaches at most; by which the mask is blurred


def _clipped(start: int, stop: int, side: int) -> range:
    return range(max(0, start), min(side, stop))


def _slice(part: range, whole: range) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def table_on_black(pixels: RGB, mask: Mask) -> ColourTable:
    """Return what brings the colours of a cell on black to those of crops."""
    inside = np.moveaxis(pixels, 2, 0).reshape(3, -1).compress(mask.ravel(), axis=1)
    if inside.shape[1] < 50:
        return colour_table((255.0, 255.0, 255.0), np.ones(3))
    dark, bright = _percentiles(inside, np.array([0.05, 0.99])).T
    glass = np.clip(np.maximum(bright * 1.2 + 4, _DARKEST_GLASS), 1, 255)
    strength = float(np.linalg.norm(np.log((glass + OFFSET) / (dark + OFFSET))))
    return colour_table(glass, np.full(3, np.clip(_NUCLEUS / max(strength, 0.2), *_NUCLEUS_GAIN)))


def _percentiles(levels: NDArray[np.uint8], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return np.quantile of each channel of levels (3, pixels) by counting, without sorting: (3, shares)."""
    counts = np.bincount((levels + np.arange(0, 768, 256)[:, None]).ravel(), minlength=768).reshape(3, 256)
    upto, last = counts.cumsum(axis=1)[:, None], levels.shape[1] - 1
    place = last * shares
    before = np.floor(place)
    low, high = ((upto <= np.minimum(at, last)[:, None]).sum(axis=2) for at in (before, before + 1))
    share = place - before
    return np.asarray(np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share)))


def colour_table(glass: Sequence[float] | NDArray[np.float64], gain: NDArray[np.float64]) -> ColourTable:
    """Return the table by which a colour's optical density against `glass` is multiplied by `gain`, glass to GLASS."""
    level = np.arange(256)[:, None]
    density = np.clip(np.log((np.asarray(glass)[None] + OFFSET) / (level + OFFSET)), -0.1, 3.0) * gain
    return np.clip((GLASS + OFFSET) * np.exp(-density) - OFFSET, 0, 255).astype(np.float32)


@dataclass(frozen=True)
class _Taps:
    """A resampling along one axis: each new place is a weighted sum of few old ones, which lie side by side."""

    at: NDArray[np.int32]  # (new side, taps): old places
    weight: Floats  # (new side, taps)

    def __call__(self, lines: Floats) -> Floats:
        """Return lines (old side, values) resampled along their first axis."""
        from scipy.sparse import csr_array  # not needed by bundles without a type head

        ends = np.arange(0, self.at.size + 1, self.at.shape[1], dtype=np.int32)
        matrix = csr_array((self.weight.ravel(), self.at.ravel(), ends), shape=(len(self.at), len(lines)))
        return np.asarray(matrix @ lines)

    def part(self, new: range, old: range) -> "_Taps":
        """Return what gives some of the new places from some of the old ones; no weighed one is left out."""
        at = self.at[new.start : new.stop] - old.start
        weight = self.weight[new.start : new.stop]
        outside = (at < 0) | (at >= len(old))
        return _Taps(np.clip(at, 0, len(old) - 1), np.where(outside, 0, weight)) if outside.any() else _Taps(at, weight)

    @property
    def sums(self) -> Floats:
        return np.asarray(self.weight.sum(1), np.float32)


def _taps(dense: NDArray[np.floating[Any]]) -> _Taps:
    """Return the weights of a matrix (new side, old side) that are not 0."""
    present = dense != 0
    taps = max(1, int((dense.shape[1] - present[:, ::-1].argmax(1) - present.argmax(1))[present.any(1)].max(initial=1)))
    first = np.minimum(present.argmax(1), dense.shape[1] - min(taps, dense.shape[1]))
    at = (first[:, None] + np.arange(min(taps, dense.shape[1]))).astype(np.int32)
    return _Taps(at, np.take_along_axis(dense, at, 1).astype(np.float32))


def _both_ways(taps: Sequence[_Taps], planes: NDArray[np.generic], *, fill: float = 0) -> Floats:
    """Return planes (height, channels, width) resampled down and across; `fill` is what lies outside of them."""
    down, across = taps
    height, channels, width = planes.shape
    halfway = down(planes.astype(np.float32).reshape(height, channels * width))
    inner = np.ascontiguousarray(across(halfway.reshape(-1, width).T).T).reshape(-1, channels, len(across.at))
    return inner + np.float32(fill) * (1 - np.outer(down.sums, across.sums))[:, None] if fill else inner


def _placed(side: int, start: int, end: int, *, zoom: float, middle: float) -> tuple[_Taps, int]:
    """Return what shrinks places `start` to `end` of `side` by areas and puts `middle` into the middle of a frame.

    The second value is the first place of the frame that it reaches.
    """
    at, weight = _shift(side, zoom, middle)
    weight = np.where((at >= start) & (at < end), weight, 0)
    reached = np.flatnonzero(weight.any(axis=1))
    used = slice(reached[0], reached[-1] + 1)
    return _Taps(np.clip(at[used] - start, 0, end - start - 1), weight[used]), int(reached[0])


@lru_cache(maxsize=64)  # most cells of one source lie about the middle of their pictures
def _shift(side: int, zoom: float, middle: float) -> tuple[NDArray[np.int32], Floats]:
    """Return for each place of a frame the pixels of `side` that it is made of, and their weights."""
    first, areas = _areas(side, zoom)
    place = np.arange(FRAME_SIDE) - (FRAME_SIDE / 2 - middle * zoom)
    before = np.floor(place).astype(int)
    share = (place - before)[:, None]
    low, high = (np.clip(at + 1, 0, len(areas) - 1) for at in (before, before + 1))  # the first and last lie outside
    later = first[high] - first[low]
    weight = np.zeros((FRAME_SIDE, areas.shape[1] + int(later.max())))
    weight[:, : areas.shape[1]] = (1 - share) * areas[low]
    weight[np.arange(FRAME_SIDE)[:, None], later[:, None] + np.arange(areas.shape[1])] += share * areas[high]
    return first[low][:, None] + np.arange(weight.shape[1], dtype=np.int32), weight.astype(np.float32)


@lru_cache(maxsize=16)  # pictures of one source have few sizes; those of many must not pile up
def _areas(side: int, zoom: float) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return for each new place, and one beyond either end, the first of `side` pixels and the weights from it on."""
    small = max(1, round(side * zoom))
    edges = np.minimum(np.arange(small)[:, None] / zoom + (0, 1 / zoom), side)  # (small, 2), in old pixels
    pixels = np.arange(side)
    inside = np.clip(np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :1], pixels), 0, None)
    dense = inside / np.maximum(inside.sum(1, keepdims=True), 1e-9)
    taps = int((dense != 0).sum(1).max())
    first = np.minimum((dense != 0).argmax(1), side - taps)
    weights = np.take_along_axis(dense, first[:, None] + np.arange(taps), 1)
    return np.pad(first.astype(np.int32), 1, mode="edge"), np.pad(weights, ((1, 1), (0, 0)))


def _shrink() -> Floats:
    """Return the weights from a frame to a crop, (SIDE, FRAME_SIDE): pixel i takes the value at (i - shift) / zoom."""
    zoom = FRAME_UM_PER_PX / UM_PER_PX
    place = (np.arange(SIDE)[:, None] - ((SIDE / 2 - 0.5) - zoom * (FRAME_SIDE / 2 - 0.5))) / zoom
    return np.asarray(np.clip(1 - np.abs(place - np.arange(FRAME_SIDE)), 0, None), np.float32)


def _gaussian(side: int, spread: float, *, reach: int) -> Floats:
    """Return the weights of a Gaussian of standard deviation `spread` pixels; the border is mirrored."""
    step = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (step / spread) ** 2)
    place = np.arange(side)[:, None] + step
    mirrored = np.where(place < 0, -place, np.where(place >= side, 2 * side - 2 - place, place))
    weights = np.zeros((side, side), np.float32)
    np.add.at(weights, (np.broadcast_to(np.arange(side)[:, None], place.shape), mirrored), kernel / kernel.sum())
    return weights


@cache
def _resamplings() -> tuple[_Taps, _Taps, _Taps, _Taps]:
    """Return what softens a frame, what makes a crop of it, what blurs its mask, and what softens that of the crop."""
    zoom, shrink = FRAME_UM_PER_PX / UM_PER_PX, _shrink()
    soften, blur = _gaussian(FRAME_SIDE, 0.405 / zoom, reach=2), _gaussian(FRAME_SIDE, 2.0, reach=_BLURRED)
    return _taps(soften), _taps(shrink), _taps(shrink @ blur), _taps(_gaussian(SIDE, 0.7, reach=_REACH))
