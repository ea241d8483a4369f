"""Every fault of a picture is found and named, and sound cells pass."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as pieces

from leukoscope.bundle.manifest import QualityLimits
from leukoscope.errors import DataError
from leukoscope.images.crop import cell_mask
from leukoscope.images.read import read_image
from leukoscope.inference.rejection import fit_quality, judge, measure

SIDE = 300
Picture = np.ndarray


def cell(seed: int = 0, *, radius: float = 60, middle: tuple[float, float] = (150, 150), bright: int = 110) -> Picture:
    """Paint a disc with fine texture on black."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:SIDE, :SIDE]
    inside = np.hypot(down - middle[0], right - middle[1]) < radius * rng.uniform(0.9, 1.1)
    texture = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.5)
    picture = bright + 12 * texture / texture.std() + np.array([10, -30, 40])[:, None, None]
    return (picture * inside).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


@pytest.fixture(scope="module")
def limits() -> QualityLimits:
    return fit_quality([measure(cell(seed)) for seed in range(1, 40)])


def test_a_sound_cell_passes_with_a_good_score(limits: QualityLimits) -> None:
    quality = judge(measure(cell(100)), limits)
    assert quality.reason == ""
    assert quality.score > 0.3


def _two(_: Picture) -> Picture:
    return cell(1, radius=50, middle=(150, 80)) + cell(2, radius=50, middle=(150, 220))


def _zoomed(picture: Picture, size: int) -> Picture:
    small = np.asarray(Image.fromarray(picture).resize((size, size)))
    return np.pad(small, (((SIDE - size) // 2,) * 2, ((SIDE - size) // 2,) * 2, (0, 0)))


FAULTS = {
    "Empty": np.zeros_like,
    "background is not black": lambda picture: np.where(cell_mask(picture)[..., None], picture, 200).astype(np.uint8),
    "Not one cell cut out on black": lambda picture: np.where(
        cell_mask(picture)[..., None], picture, np.random.default_rng(0).integers(160, 220, picture.shape)
    ).astype(np.uint8),
    "2 separate cells": _two,
    "cut off by the border": lambda _: cell(3, middle=(150, 10)),
    "Too small": lambda picture: _zoomed(picture, 150),
    "Too large": lambda _: cell(4, radius=120),
    "Overexposed": lambda picture: np.clip(picture.astype(int) * 2, 0, 255).astype(np.uint8),
    "Blurred": lambda picture: (gaussian_filter(picture, (3, 3, 0)) * cell_mask(picture)[..., None]).astype(np.uint8),
    "not a cell": lambda picture: np.where(
        cell_mask(picture)[..., None], np.random.default_rng(0).integers(30, 240, picture.shape), 0
    ).astype(np.uint8),
    "less fine detail": lambda picture: np.where(cell_mask(picture)[..., None], 90, 0).astype(np.uint8).repeat(3, 2),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_is_named(words: str, limits: QualityLimits) -> None:
    quality = judge(measure(FAULTS[words](cell(200))), limits)
    assert words in quality.reason
    assert quality.score == 0


@pytest.mark.parametrize("colour", [255, 200, 60])
def test_a_sharp_cell_on_another_ground_is_told_so(limits: QualityLimits, colour: int) -> None:
    picture = cell(9)
    cut_out = np.where(cell_mask(picture)[..., None], picture, colour).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(cut_out).save(stream, "JPEG", quality=85)
    for each in (cut_out, np.asarray(Image.open(stream))):
        assert "is not black" in judge(measure(each), limits).reason


def test_a_plain_picture_holds_no_cell() -> None:
    assert not measure(np.full((90, 90, 3), 200, np.uint8)).plain


def test_a_speck_of_dirt_is_not_a_second_cell(limits: QualityLimits) -> None:
    picture = cell(5)
    picture[10:16, 10:16] = 120
    assert judge(measure(picture), limits).reason == ""


def test_a_tight_crop_is_not_cut_off(limits: QualityLimits) -> None:
    picture = cell(6)
    rows, columns = np.flatnonzero(cell_mask(picture).any(1)), np.flatnonzero(cell_mask(picture).any(0))
    tight = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert judge(measure(tight), limits).reason == ""


def test_traits_are_those_of_plain_arithmetic() -> None:
    picture = cell(7)
    traits, mask = measure(picture), cell_mask(picture)
    assert traits.cells == pieces(mask)[1] == 1
    assert abs(traits.side - max(mask.any(0).sum(), mask.any(1).sum())) <= 2
    assert traits.framed == traits.cut == traits.saturated == 0
    assert traits.contrast == pytest.approx(picture[120:180, 120:180, 1].std(), rel=0.25)


@pytest.mark.parametrize("side", range(4))
def test_light_along_any_side_of_the_frame_counts(side: int) -> None:
    """300 pixels of that side, and one at each end of the two sides beside it, of four times 300."""
    picture = cell(7)
    np.rot90(picture, side)[-1] = 120
    assert measure(picture).framed == pytest.approx(302 / 1200)


@pytest.mark.parametrize("side", [3, 9, 15])
def test_a_picture_too_small_for_texture_has_none(side: int) -> None:
    noise = np.random.default_rng(0).integers(60, 200, (side, side, 3), dtype=np.uint8)
    traits = measure(noise)
    assert (traits.detail, traits.contrast) == (0, 0)


def test_of_complete_fields_a_usual_one_passes_and_a_blurred_one_is_named() -> None:
    def field(seed: int) -> Picture:
        grain = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE, 3)), (1.5, 1.5, 0))
        return (170 + 25 * grain / grain.std()).clip(0, 255).astype(np.uint8)

    known = fit_quality([measure(field(seed)) for seed in range(40)])
    blurred = gaussian_filter(field(100), (3, 3, 0))
    assert judge(measure(field(100)), known, pictures="fields").reason == ""
    assert judge(measure(blurred), known, pictures="fields").reason.startswith("Blurred")
    assert "cut out on black" in judge(measure(cell()), known, pictures="fields").reason


def test_the_score_falls_towards_the_limit(limits: QualityLimits) -> None:
    traits = measure(cell(8))
    low, middle, _ = limits.side
    sides = np.linspace(middle, low, 6)
    scores = [judge(replace(traits, side=side, detail=limits.detail[1]), limits).score for side in sides]
    assert scores == sorted(scores, reverse=True)


def test_too_few_cells_set_no_limits() -> None:
    with pytest.raises(DataError, match="20 training cells"):
        fit_quality([measure(cell())])


def test_real_cells_pass_and_smear_fields_do_not(shared_data: Path) -> None:
    with (shared_data / "cnmc" / "cells.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"]]
    traits = [measure(read_image(shared_data / "cnmc" / row["file"])) for row in rows[::50]]
    learned = fit_quality(traits[::2])
    passed = [not judge(each, learned).reason for each in traits[1::2]]
    assert np.mean(passed) > 0.95
    for field in sorted((shared_data / "bccd" / "JPEGImages").glob("*"))[:10]:
        assert "Not one cell cut out on black" in judge(measure(read_image(field)), learned).reason
