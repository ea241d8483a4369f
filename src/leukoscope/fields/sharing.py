"""One scale and one stain for fields that were taken alike: same folder, same size.

A field alone tells little: its few red cells mislead about the scale, and to bring each field's cells to one mean
colour takes away what tells a field of blasts from a field of normal cells.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.images import read_size
from ..data.pack import in_parallel
from ..errors import ImageError
from .cells import Field, find_cells, open_field
from .crops import cut_crop
from .normalisation import Samples, StainStatistics, measure, sample_crops
from .scale import Scale, common_scale

_SAMPLE = 24  # fields whose estimates are pooled; more would not move their median
_STAINED = 12  # fields whose cells are pooled for the stain: they have to be found first
_CELLS = 20  # of each of them, so that no crowded field decides
_FEWEST = 3

Likeness = tuple[Path, int, int]  # folder, width, height


class SharedScales:
    """The scales of a set of fields, each group measured when its first field comes."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._known: dict[Likeness, Scale | None] = {}

    def of(self, path: Path, field: Field) -> Scale:
        """Return the scale of a field: its own where it is known, else the one shared by three or more like it."""
        if field.scale.source in ("user", "file"):
            return field.scale
        key = _likeness(path, field)
        if key not in self._known:
            self._known[key] = self._pooled(key)
        return self._known[key] or field.scale

    def _pooled(self, likeness: Likeness) -> Scale | None:
        chosen = _some(self._files, likeness, most=_SAMPLE)
        scales = [scale for path in chosen if (scale := _estimated(path)) is not None]
        return common_scale(scales) if len(scales) >= _FEWEST else None


class SharedStains:
    """The stains of a set of fields, each group measured on cells of some of its fields when its first one comes."""

    def __init__(self, files: Sequence[Path], *, um_per_px: float | None = None) -> None:
        self._files, self._um_per_px = list(files), um_per_px
        self._scales = SharedScales(files)
        self._known: dict[Likeness, StainStatistics | None] = {}

    def of(self, path: Path, field: Field) -> StainStatistics | None:
        """Return the stain shared by three or more fields like this one, or None where there are fewer with cells."""
        key = _likeness(path, field)
        if key not in self._known:
            self._known[key] = self._pooled(key)
        return self._known[key]

    def _pooled(self, likeness: Likeness) -> StainStatistics | None:
        chosen = _some(self._files, likeness, most=_STAINED)
        samples = [found for found in in_parallel(self._sampled, chosen) if len(found)]
        return measure(np.concatenate(samples)) if len(samples) >= _FEWEST else None

    def _sampled(self, path: Path) -> Samples:
        try:
            field = open_field(path, um_per_px=self._um_per_px)
        except ImageError:
            return sample_crops([])
        field = replace(field, scale=self._scales.of(path, field))
        whole = [cell for cell in find_cells(field) if "cut off" not in cell.flags]
        return sample_crops(cut_crop(field, cell) for cell in whole[:_CELLS])


def _likeness(path: Path, field: Field) -> Likeness:
    height, width = field.pixels.shape[:2]
    return path.parent, width, height


def _some(files: Sequence[Path], likeness: Likeness, *, most: int) -> list[Path]:
    """Return some of the files that are like this, from the first to the last."""
    folder, *size = likeness
    alike = [path for path in files if path.parent == folder and _size(path) == tuple(size)]
    return [alike[place] for place in np.linspace(0, len(alike) - 1, min(most, len(alike))).round().astype(int)]


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return read_size(path)
    except (ImageError, PermissionError):
        return None


def _estimated(path: Path) -> Scale | None:
    """Return the scale measured on a field; None where it is stated in the file, or the field cannot be used."""
    try:
        scale = open_field(path).scale
    except ImageError:
        return None
    return None if scale.source == "file" else scale
