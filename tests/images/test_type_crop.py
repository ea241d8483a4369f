"""The crop that tells a cell's type: NumPy makes the same of a cell on black as OpenCV does."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from leukoscope.fields.crops import crop_of_frame
from leukoscope.images.crop import (
    FRAME_SIDE,
    FRAME_UM_PER_PX,
    GLASS,
    SIDE,
    UM_PER_PX,
    crop_on_black,
    frame_on_black,
    table_on_black,
)


def cell_on_black(*, side: int = 450, shift: int = 0, radius: int = 120, square: bool = False) -> NDArray[np.uint8]:
    """Paint a textured cell with an eccentric nucleus, cut out on black."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:side, :side] - side // 2
    inside = rows**2 + (columns - shift) ** 2 < radius**2
    if square:
        inside = np.maximum(np.abs(rows), np.abs(columns - shift)) < radius
    nucleus = (rows - 15) ** 2 + (columns - shift + 10) ** 2 < (0.6 * radius) ** 2
    colour = np.where(nucleus[..., None], (90, 40, 130), (190, 160, 210)) + rng.normal(0, 6, (side, side, 3))
    return np.where(inside[..., None], np.clip(colour, 30, 250), 0).astype(np.uint8)


@pytest.mark.parametrize(("side", "shift", "radius"), [(450, 0, 120), (450, 90, 70), (300, 20, 60), (600, -40, 190)])
def test_numpy_and_opencv_make_the_same_crop(side: int, shift: int, radius: int) -> None:
    image = cell_on_black(side=side, shift=shift, radius=radius)
    frame, mask = frame_on_black(image)
    expected = crop_of_frame(frame, mask, table_on_black(frame, mask))
    apart = np.abs(crop_on_black(image).astype(int) - expected)
    assert apart.mean() < 0.6  # grey levels
    assert np.quantile(apart, 0.999) <= 6


def test_a_cell_lies_in_the_middle_at_the_scale_of_the_crop_with_glass_around() -> None:
    crop = crop_on_black(cell_on_black(shift=90, radius=100))
    assert crop.shape == (SIDE, SIDE, 3)
    assert np.abs(crop[0, 0].astype(int) - GLASS).max() <= 1
    dark = np.flatnonzero((crop[..., 1] < 220).any(axis=0))
    assert dark.mean() == pytest.approx((SIDE - 1) / 2, abs=1)
    assert np.ptp(dark) == pytest.approx(200 * 0.06 / 0.17, abs=3)  # 12 µm across


def test_an_all_black_image_is_glass() -> None:
    assert (crop_on_black(np.zeros((450, 450, 3), np.uint8)) == GLASS).all()


def of_whole_frame(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the crop as SciPy makes it of the whole frame, without regard to where in it the cell lies."""
    frame, mask = frame_on_black(image)
    levels = np.rint(np.clip(table_on_black(frame, mask), 0, 255))
    zoom = FRAME_UM_PER_PX / UM_PER_PX

    def blurred(plane: NDArray[np.generic], spread: float, reach: int) -> NDArray[np.float64]:
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
        for axis in (0, 1):
            plane = correlate1d(np.asarray(plane, float), kernel / kernel.sum(), axis, mode="mirror")
        return np.asarray(plane)

    place = (np.arange(SIDE) - (SIDE / 2 - 0.5)) / zoom + FRAME_SIDE / 2 - 0.5
    shrink = np.clip(1 - np.abs(place[:, None] - np.arange(FRAME_SIDE)), 0, None)
    soft = np.rint(blurred(frame, 0.405 / zoom, 2)).astype(int)
    coloured = np.stack([levels[soft[..., channel], channel] for channel in range(3)], axis=-1)
    shown = np.rint(np.einsum("ij,jkc,lk->ilc", shrink, coloured, shrink, optimize=True))
    solid = shrink @ blurred(mask, 2.0, 8) @ shrink.T > 0.5
    inside = blurred(solid, 0.7, 3)[..., None]
    return shown * inside + GLASS * (1 - inside)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize(
    ("side", "shift", "radius"),
    [(450, 0, 120), (450, 90, 70), (450, 0, 4), (450, -224, 30), (900, 0, 260), (600, 9, 2)],
)
def test_a_crop_of_where_the_cell_lies_is_that_of_the_whole_frame(
    side: int, shift: int, radius: int, square: bool
) -> None:
    """Also of a cell at the rim of the picture, of one larger than the frame, of a speck, and of one with corners."""
    image = cell_on_black(side=side, shift=shift, radius=radius, square=square)
    apart = np.abs(crop_on_black(image) - of_whole_frame(image))
    assert (apart > 0.51).mean() < 0.002  # rounding; where softening meets a tie, a place may move by a level more
    assert apart.max() < 5
