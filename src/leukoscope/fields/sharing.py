"""One scale for fields that were taken alike: same folder, same size, and no scale in the file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.images import read_size
from ..errors import ImageError
from .cells import Field, open_field
from .scale import Scale, common_scale

_SAMPLE = 24  # fields whose estimates are pooled; more would not move their median
_FEWEST = 3


class SharedScales:
    """The scales of a set of fields, each group measured when its first field comes."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(files)
        self._known: dict[tuple[Path, int, int], Scale | None] = {}

    def of(self, path: Path, field: Field) -> Scale:
        """Return the scale of a field: its own where it is known, else the one shared by three or more like it."""
        if field.scale.source in ("user", "file"):
            return field.scale
        height, width = field.pixels.shape[:2]
        key = (path.parent, width, height)
        if key not in self._known:
            self._known[key] = self._pooled(*key)
        return self._known[key] or field.scale

    def _pooled(self, folder: Path, width: int, height: int) -> Scale | None:
        alike = [path for path in self._files if path.parent == folder and _size(path) == (width, height)]
        chosen = np.linspace(0, len(alike) - 1, min(_SAMPLE, len(alike))).round().astype(int)
        scales = [scale for place in chosen if (scale := _estimated(alike[place])) is not None]
        return common_scale(scales) if len(scales) >= _FEWEST else None


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
