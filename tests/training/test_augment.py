"""Laws of augmentation: black stays black, what is off changes nothing, the same seed gives the same batch."""

import math
from dataclasses import replace

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image
from scipy.ndimage import gaussian_filter

from leukoscope.config import Augment
from leukoscope.training.batches import Draws, augment, draw

OFF = Augment(flip=False, rotate=False)
STRONG = Augment(
    flip=True,
    rotate=True,
    zoom=(0.5, 2.0),
    shift=0.2,
    stain=0.5,
    colour=0.3,
    contrast=0.5,
    brightness=0.5,
    blur=2.0,
    coarse=4.0,
)


def cells(count: int, *, side: int = 24, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:side, :side] - side / 2 + 0.5
    disc = np.hypot(down, across) < side / 4
    crops = rng.integers(60, 200, size=(count, side, side, 3)) * disc[..., None]
    return torch.from_numpy(crops.astype(np.uint8))


def drawn(setting: Augment, crops: torch.Tensor, *, seed: int = 0) -> Draws:
    return draw(setting, crops=len(crops), generator=torch.Generator().manual_seed(seed))


SETTINGS = st.builds(
    Augment,
    flip=st.booleans(),
    rotate=st.booleans(),
    zoom=st.tuples(st.floats(0.4, 1.0), st.floats(1.0, 2.5)),
    stain=st.floats(0, 1),
    colour=st.floats(0, 1),
    contrast=st.floats(0, 0.9),
    brightness=st.floats(0, 1),
    blur=st.floats(0, 3),
    coarse=st.floats(1, 16),
)


@settings(max_examples=25, deadline=None)
@given(setting=SETTINGS, seed=st.integers(0, 1000), side=st.integers(16, 33))
def test_black_stays_black_and_light_stays_in_range(setting: Augment, seed: int, side: int) -> None:
    crops = cells(3, side=side, seed=seed)
    crops[0] = 0
    changed = augment(crops, drawn(setting, crops, seed=seed))
    assert changed.shape == crops.shape
    assert not changed[0].any()
    if setting.zoom[1] <= 1.2:  # the disc of 1/2 of the crop, enlarged, does not reach the corner
        assert not changed[:, 0, 0].any()
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 255.01  # resampling rounds


@settings(max_examples=10, deadline=None)
@given(setting=SETTINGS, seed=st.integers(0, 1000))
def test_the_same_seed_gives_the_same_batch(setting: Augment, seed: int) -> None:
    crops = cells(4)
    before = crops.clone()
    first, second = (augment(crops, drawn(setting, crops, seed=seed)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(crops, before)  # the crops that were handed in are left alone


def test_settings_that_are_off_change_nothing() -> None:
    crops = cells(4)
    assert torch.equal(augment(crops, drawn(OFF, crops)), crops.float())


@pytest.mark.parametrize(
    "field", ["flip", "rotate", "zoom", "shift", "stain", "colour", "brightness", "blur", "coarse"]
)
def test_each_setting_alone_changes_cells(field: str) -> None:
    crops = cells(8)
    value = {"flip": True, "rotate": True, "zoom": (0.8, 1.2), "coarse": 4.0}.get(field, 0.5)
    setting = OFF.model_copy(update={field: value})
    changed = augment(crops, drawn(setting, crops))
    assert not torch.equal(changed, crops.float())


def test_several_processes_that_share_a_batch_see_what_one_would() -> None:
    crops = cells(7)
    draws = drawn(STRONG, crops)
    whole = augment(crops, draws)
    shares = [augment(crops[mine], draws.share(mine)) for mine in (slice(0, None, 2), slice(1, None, 2))]
    torch.testing.assert_close(whole[0::2], shares[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(whole[1::2], shares[1], atol=1e-3, rtol=0)


def test_a_mirror_and_a_quarter_turn_are_exact() -> None:
    crops = cells(1)
    still = drawn(OFF, crops)
    mirrored = replace(still, mirror=-still.mirror)
    torch.testing.assert_close(augment(crops, mirrored), crops.float().flip(2), atol=1e-2, rtol=0)
    quarter = replace(still, turn=still.turn + math.pi / 2)
    turned = augment(crops, quarter)
    matches = [torch.allclose(turned, crops.float().rot90(times, (1, 2)), atol=1e-1) for times in (1, 3)]
    assert any(matches)


def test_zoom_scales_the_area_of_the_cell_by_its_square() -> None:
    crops = cells(1, side=64)
    still = drawn(OFF, crops)
    areas = {}
    for zoom in (0.5, 1.0, 1.5):
        draws = replace(still, zoom=still.zoom * zoom)
        areas[zoom] = (augment(crops, draws).amax(dim=3) > 50).sum().item()
    assert areas[0.5] / areas[1.0] == pytest.approx(0.25, rel=0.1)
    assert areas[1.5] / areas[1.0] == pytest.approx(2.25, rel=0.1)


def test_blur_inside_the_cell_is_scipys_gaussian() -> None:
    rng = np.random.default_rng(0)
    crops = torch.from_numpy(rng.integers(60, 200, size=(2, 32, 32, 3)).astype(np.uint8))
    still = drawn(OFF, crops)
    sigma = torch.tensor([0.8, 1.5])
    blurred = augment(crops, replace(still, blur=sigma))
    for number in range(2):
        spread = (float(sigma[number]),) * 2 + (0,)
        expected = gaussian_filter(crops[number].float().numpy(), spread, truncate=5 / float(sigma[number]))
        middle = (slice(8, 24), slice(8, 24))  # away from the border, where the two treat the outside differently
        np.testing.assert_allclose(blurred[number].numpy()[middle], expected[middle], atol=0.2)


@pytest.mark.parametrize("smoothed", [{"blur": torch.tensor([2.0])}, {"coarse": torch.tensor([5.0])}])
def test_the_black_around_a_cell_does_not_darken_its_rim(smoothed: dict[str, torch.Tensor]) -> None:
    """A cell of one colour has nothing to smooth: it stays as it is up to its last pixel."""
    flat = torch.where(cells(1, side=48) > 0, 150, 0).to(torch.uint8)
    changed = augment(flat, replace(drawn(OFF, flat), **smoothed))
    np.testing.assert_allclose(changed.numpy(), flat.numpy(), atol=0.01)


@pytest.mark.parametrize("factor", [1.7, 4.0, 9.0])
def test_a_coarse_crop_is_what_pillow_reduces_and_opencv_enlarges(factor: float) -> None:
    crops = torch.from_numpy(np.random.default_rng(0).integers(60, 200, size=(1, 36, 36, 3)).astype(np.uint8))
    still = drawn(OFF, crops)
    small = round(36 / factor)
    planes = [Image.fromarray(crops[0, :, :, colour].numpy().astype(np.float32)) for colour in range(3)]
    reduced = [np.asarray(plane.resize((small, small), Image.Resampling.BILINEAR)) for plane in planes]
    expected = np.stack([cv2.resize(plane, (36, 36), interpolation=cv2.INTER_CUBIC) for plane in reduced], axis=2)
    coarse = augment(crops, replace(still, coarse=torch.tensor([factor])))[0].numpy()
    np.testing.assert_allclose(coarse, expected, atol=0.5)


def test_half_of_the_crops_keep_their_detail_and_their_outline() -> None:
    crops = cells(400)
    draws = drawn(OFF.model_copy(update={"coarse": 8.0}), crops)
    assert 150 < int((draws.coarse == 1).sum()) < 250
    assert torch.equal(augment(crops, draws).amax(dim=3) > 1, crops.amax(dim=3) > 1)


def test_stain_works_on_optical_density() -> None:
    crops = torch.full((1, 4, 4, 3), 155, dtype=torch.uint8)
    still = drawn(OFF, crops)
    stain = still.stain.clone()
    stain[:, 0], stain[:, 1] = torch.tensor([2.0, 1.0, 0.5]), torch.tensor([0.1, 0.0, 0.0])
    changed = augment(crops, replace(still, stain=stain))
    share = 155 / 255
    expected = [255 * share**2 * math.exp(-0.1), 155, 255 * share**0.5]
    torch.testing.assert_close(changed[0, 2, 3], torch.tensor(expected), rtol=1e-4, atol=0)


def test_contrast_keeps_the_mean_colour_of_the_cell() -> None:
    crops = cells(3)
    still = drawn(OFF, crops)
    flatter = augment(crops, replace(still, contrast=torch.full((3,), 0.5)))
    inside = crops.amax(dim=3) > 0
    before, after = crops[inside].float(), flatter[inside]
    assert torch.allclose(after.mean(dim=0), before.mean(dim=0), atol=0.5)
    assert after.std() == pytest.approx(float(before.std()) / 2, rel=0.02)


def test_a_shift_moves_the_cell_by_whole_pixels() -> None:
    crops = cells(1)  # 24 px a side, so 2 / 24 is one pixel
    still = drawn(OFF, crops)
    moved = augment(crops, replace(still, shift=torch.tensor([[3 * 2 / 24, -2 * 2 / 24]])))
    assert torch.allclose(moved, torch.roll(crops.float(), (-2, 3), dims=(1, 2)), atol=1e-3)


def test_colour_multiplies_each_channel() -> None:
    crops = cells(6)
    changed = augment(crops, drawn(Augment(flip=False, rotate=False, colour=0.2), crops))
    cell = crops.amax(dim=3) > 1
    for before, after, inside in zip(crops.float(), changed, cell, strict=True):
        factors = after[inside] / before[inside]
        assert torch.allclose(factors, factors[:1].expand_as(factors), rtol=1e-3)
        assert ((factors[0].log().abs() > 0) & (factors[0].log().abs() <= 0.2001)).all()


def test_about_half_of_the_crops_stay_sharp() -> None:
    draws = draw(Augment(blur=2.0), crops=400, generator=torch.Generator().manual_seed(0))
    assert 150 < int((draws.blur == 0).sum()) < 250
