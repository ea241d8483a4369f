"""The crop that tells a cell's type: NumPy makes the same of a cell on black as OpenCV does."""

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.fields.type_crops import shown
from leukoscope.images.crop import GLASS, SIDE, crop_on_black, frame_on_black, table_on_black


def cell_on_black(*, side: int = 450, shift: int = 0, radius: int = 120) -> NDArray[np.uint8]:
    """Paint a textured cell with an eccentric nucleus, cut out on black."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:side, :side] - side // 2
    inside = rows**2 + (columns - shift) ** 2 < radius**2
    nucleus = (rows - 15) ** 2 + (columns - shift + 10) ** 2 < (0.6 * radius) ** 2
    colour = np.where(nucleus[..., None], (90, 40, 130), (190, 160, 210)) + rng.normal(0, 6, (side, side, 3))
    return np.where(inside[..., None], np.clip(colour, 30, 250), 0).astype(np.uint8)


@pytest.mark.parametrize(("side", "shift", "radius"), [(450, 0, 120), (450, 90, 70), (300, 20, 60), (600, -40, 190)])
def test_numpy_and_opencv_make_the_same_crop(side: int, shift: int, radius: int) -> None:
    image = cell_on_black(side=side, shift=shift, radius=radius)
    frame, mask = frame_on_black(image)
    expected = shown(frame, mask, table_on_black(frame, mask))
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
