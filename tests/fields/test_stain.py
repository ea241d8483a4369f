"""The stain of a field, and crops brought to the stain of the training cells."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import color

from leukoscope.errors import UnknownNameError
from leukoscope.fields.cells import find_cells, open_field
from leukoscope.fields.crops import cut_crop
from leukoscope.fields.extraction import SharedStains
from leukoscope.fields.stain import (
    RELEASE_STAIN,
    StainStatistics,
    background_colour,
    learn_stain,
    measure,
    normaliser,
    optical_density,
    sample_crops,
)

from .conftest import GLASS, Painting


def _crops(rng, *, shade):
    crops = np.zeros((6, 60, 60, 3), np.uint8)
    crops[:, 10:50, 10:50] = np.clip(np.array(shade) + rng.normal(0, 14, (6, 40, 40, 3)), 1, 255)
    return crops


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
@pytest.mark.parametrize("shade", [(120, 80, 180), (210, 150, 220), (60, 50, 120)], ids=["usual", "pale", "dark"])
def test_normalised_cells_have_the_colours_of_the_release(rng, method, shade):
    crops = _crops(rng, shade=shade)
    apply = normaliser(method, measure(sample_crops(crops, every=1)), target=RELEASE_STAIN)
    after = measure(sample_crops([apply(crop) for crop in crops], every=1))
    assert after is not None
    assert np.abs(np.array(after.lab_mean) - RELEASE_STAIN.lab_mean).max() < (3 if method == "reinhard" else 14)


def test_reinhard_statistics_are_those_of_scikit_image(rng):
    samples = sample_crops(_crops(rng, shade=(120, 80, 180)), every=1)
    lab = color.rgb2lab(samples[None])[0]
    statistics = measure(samples)
    assert statistics is not None
    assert np.array(statistics.lab_mean) == pytest.approx(lab.mean(axis=0), abs=0.2)
    assert np.array(statistics.lab_spread) == pytest.approx(lab.std(axis=0), abs=0.2)


def test_black_stays_black_and_cells_never_become_black(rng):
    crops = _crops(rng, shade=(30, 20, 60))
    apply = normaliser("reinhard", measure(sample_crops(crops, every=1)), target=RELEASE_STAIN)
    for crop in crops:
        assert np.array_equal(apply(crop).any(axis=-1), crop.any(axis=-1))


def test_a_nearly_empty_field_leaves_its_crops_as_they_are():
    crop = np.zeros((60, 60, 3), np.uint8)
    crop[:5, :5] = 90
    assert measure(sample_crops([crop], every=1)) is None
    assert np.array_equal(normaliser("macenko", None, target=RELEASE_STAIN)(crop), crop)


def test_cells_keep_their_order_from_dark_to_pale(rng):
    crops = np.concatenate([_crops(rng, shade=(90 + 20 * step,) * 2 + (180,)) for step in range(4)])
    apply = normaliser("reinhard", measure(sample_crops(crops)), target=RELEASE_STAIN)
    means = [apply(crop)[10:50, 10:50].mean() for crop in crops[::6]]
    assert means == sorted(means)


def test_an_unknown_method_shows_the_known_ones():
    with pytest.raises(UnknownNameError, match="reinhard"):
        normaliser("rheinhard", None, target=RELEASE_STAIN)


def test_statistics_survive_a_bundle():
    text = json.dumps(RELEASE_STAIN.to_json())
    assert StainStatistics.from_json(json.loads(text)) == RELEASE_STAIN


def test_glass_is_found_under_many_cells(rng):
    pixels = Painting(64, 48).white_cell(20, 20).red_cells(rng, count=30).taken(rng)
    assert background_colour(pixels) == pytest.approx(np.array(GLASS), abs=6)


@given(st.tuples(*[st.integers(20, 255)] * 3))
def test_glass_itself_has_no_optical_density(colour):
    pixels = np.full((4, 4, 3), colour, np.uint8)
    assert np.abs(optical_density(pixels, colour)).max() < 1e-6


@pytest.mark.parametrize(
    "lamp", [(1.0, 1.0, 1.0), (1.0, 0.93, 0.75), (0.8, 0.85, 1.0)], ids=["white", "yellow", "blue"]
)
def test_the_lamp_does_not_change_the_stain(synthetic, lamp):
    lit = np.clip(synthetic[1] * np.array(lamp), 0, 255).astype(np.uint8)
    stain, reference = learn_stain(lit), learn_stain(synthetic[1])
    assert np.array(stain.nucleus) @ np.array(reference.nucleus) > 0.99
    assert stain.purple == pytest.approx(reference.purple, abs=0.12)


def test_fields_of_one_camera_share_a_stain_and_one_alone_has_its_own(shared_data):
    fields = sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:4]
    opened = [open_field(path, um_per_px=0.1) for path in fields]
    shared = SharedStains(fields, um_per_px=0.1)
    stains = [shared.of(path, field) for path, field in zip(fields, opened, strict=True)]
    assert stains[0] is not None
    assert all(stain == stains[0] for stain in stains)
    alone = [measure(sample_crops(cut_crop(field, cell) for cell in find_cells(field))) for field in opened]
    for channel in range(3):  # the shared mean lies among theirs
        each = [stain.lab_mean[channel] for stain in alone if stain]
        assert min(each) <= stains[0].lab_mean[channel] <= max(each)
    assert SharedStains(fields[:2]).of(fields[0], opened[0]) is None


def test_an_unusable_field_does_not_keep_the_others_from_sharing(shared_data, tmp_path):
    fields = [tmp_path / path.name for path in sorted((shared_data / "bccd" / "JPEGImages").glob("*.jpg"))[:6]]
    for path in fields:
        path.write_bytes((shared_data / "bccd" / "JPEGImages" / path.name).read_bytes())
    blank = tmp_path / "blank.png"
    Image.new("RGB", (640, 480), "white").save(blank)
    assert SharedStains([blank, *fields], um_per_px=0.1).of(fields[0], open_field(fields[0], um_per_px=0.1))
