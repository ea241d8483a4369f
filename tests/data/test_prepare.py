"""Crops: three views of one image, by the arithmetic that prediction uses too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from leukoscope.config import Prepare
from leukoscope.errors import ImageError
from leukoscope.images.crop import VIEWS, bounding_box, cell_mask, prepare_crop, turn


def disc(side: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    cx, cy = centre or (side / 2, side / 2)
    y, x = np.mgrid[:side, :side] + 0.5
    image = np.zeros((side, side, 3), dtype=np.uint8)
    image[np.hypot(x - cx, y - cy) < radius] = (120, 60, 160)
    return image


def area(crop: np.ndarray) -> float:
    """Return the share of the crop that the disc fills, edges counted by their brightness."""
    return float(crop[..., 2].mean() / 160)


def test_the_window_view_keeps_the_scale_whatever_the_size_of_the_image() -> None:
    prepare = Prepare(view="window", window=450, size=90)
    small, large = prepare_crop(disc(450, 100), prepare), prepare_crop(disc(600, 100), prepare)
    assert np.array_equal(small, large)
    assert area(small) == pytest.approx(np.pi * 100**2 / 450**2, rel=0.01)


def test_the_cell_view_takes_size_and_place_away() -> None:
    prepare = Prepare(view="cell", size=64)
    small, large = prepare_crop(disc(450, 60, (150, 200)), prepare), prepare_crop(disc(450, 150), prepare)
    assert area(small) == pytest.approx(area(large), rel=0.05)
    assert bounding_box(cell_mask(small)) == pytest.approx((3, 3, 61, 61), abs=1)


def test_the_area_view_is_not_moved_by_what_hangs_on_the_cell() -> None:
    prepare = Prepare(view="area", size=64, margin=0.1)
    plain, torn = disc(450, 90), disc(450, 90)
    torn[223:227, 300:420] = (120, 60, 160)  # a thread
    torn[215:235, 410:430] = (120, 60, 160)  # and debris at its end
    difference = np.abs(prepare_crop(plain, prepare).astype(int) - prepare_crop(torn, prepare))
    assert (difference.max(axis=2) > 20).mean() < 0.03
    assert area(prepare_crop(plain, prepare)) == pytest.approx(np.pi / 4 / 1.2**2, rel=0.03)
    assert area(prepare_crop(disc(450, 40, (150, 200)), prepare)) == pytest.approx(np.pi / 4 / 1.2**2, rel=0.05)


def test_the_frame_view_shows_the_whole_image_without_distortion() -> None:
    wide = np.full((100, 200, 3), 90, dtype=np.uint8)
    crop = prepare_crop(wide, Prepare(view="frame", size=100))
    assert bounding_box(cell_mask(crop)) == pytest.approx((0, 25, 100, 75), abs=1)


def test_a_crop_of_the_same_size_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(25, 255, (450, 450, 3), dtype=np.uint8)
    assert np.array_equal(prepare_crop(image, Prepare(view="window", window=450, size=450)), image)


def test_a_crop_is_resized_as_pillow_resizes() -> None:
    image = np.random.default_rng(0).integers(25, 255, (450, 450, 3), dtype=np.uint8)
    expected = Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare_crop(image, Prepare(view="frame", size=128)), np.asarray(expected))


def test_an_all_black_image_has_no_crop() -> None:
    with pytest.raises(ImageError, match="all black"):
        prepare_crop(np.zeros((450, 450, 3), dtype=np.uint8), Prepare())


def evened(image: np.ndarray, symmetry: str) -> np.ndarray:
    """Return an image that is its own mirror image, so that it does not say how it is to lie."""
    others = {
        "none": [],
        "left to right": [image[:, ::-1]],
        "half a turn": [image[::-1, ::-1]],
        "across the diagonal": [image.transpose(1, 0, 2)] if image.shape[0] == image.shape[1] else [],
        "all": [image[:, ::-1], image[::-1], image[::-1, ::-1]],
    }
    return np.max([image, *others[symmetry]], axis=0)


@given(
    size=st.tuples(st.integers(16, 24), st.integers(16, 24)),
    symmetry=st.sampled_from(["none", "left to right", "half a turn", "across the diagonal", "all"]),
    levels=st.integers(2, 255),
    seed=st.integers(0, 99),
)
def test_a_cell_turned_or_mirrored_gives_the_same_crop(
    size: tuple[int, int], symmetry: str, levels: int, seed: int
) -> None:
    """To the last bit, also where the side is odd, or the cell so even that it has no darker half."""
    image = np.random.default_rng(seed).integers(0, levels, (*size, 3), dtype=np.uint8)
    image[2, 3] = 200  # not all black
    image = evened(image, symmetry)
    for prepare in (Prepare(window=19, size=16, canonical=True), Prepare(view="area", size=16, canonical=True)):
        crops = [prepare_crop(turn(image, view, axes=(0, 1)), prepare) for view in VIEWS["turns"]]
        assert all(np.array_equal(crop, crops[0]) for crop in crops)


def test_turning_a_cell_first_changes_nothing_else() -> None:
    image = disc(450, 100, (210, 240))
    image[100:130, 200:260] = (90, 30, 120)
    as_it_is = Prepare(window=320, size=128)
    crop = prepare_crop(image, as_it_is.model_copy(update={"canonical": True}))
    seen = [prepare_crop(turn(image, view, axes=(0, 1)), as_it_is) for view in VIEWS["turns"]]
    assert [np.array_equal(crop, each) for each in seen].count(True) == 1
