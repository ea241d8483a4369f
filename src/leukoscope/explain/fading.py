"""What it means to take a part of a cell away: its pixels get the cell's mean colour, the outline stays.

Painting them black would make holes that no cell has, and the answer would be about the holes.
"""

import numpy as np
from numpy.typing import NDArray

from ..data.images import RGB
from ..data.prepare import cell_mask
from .heat import Crops

Mask = NDArray[np.bool_]


def without(crop: RGB, parts: Mask) -> Crops:
    """Return one crop per mask (parts, size, size), with the cell's pixels under it at the cell's mean colour."""
    cell = cell_mask(crop)
    mean = crop[cell].mean(axis=0) if cell.any() else np.zeros(3)
    gone = (parts & cell)[..., None]
    return np.where(gone, mean.round().astype(np.uint8), crop)
