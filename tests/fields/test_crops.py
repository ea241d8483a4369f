"""Crops as the model knows them."""

import numpy as np
import pytest

from leukoscope.fields.cells import field_of, find_cells
from leukoscope.fields.crops import CROP_SIDE, cut_crop
from leukoscope.fields.images import rescaled
from leukoscope.fields.scale import RELEASE_UM_PER_PX, Scale


def _field(pixels, um=0.1):
    return field_of(pixels, name="synthetic", scale=Scale.exact(um, source="user"))


def test_a_crop_holds_one_cell_on_black_in_the_middle(synthetic):
    field = _field(synthetic[1])
    crop = cut_crop(field, find_cells(field)[0])
    assert crop.shape == (CROP_SIDE, CROP_SIDE, 3)
    assert crop.dtype == np.uint8
    inside = crop.any(axis=-1)
    rows, columns = np.nonzero(inside)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(225, abs=3)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(225, abs=3)
    assert not inside[[0, -1]].any()


@pytest.mark.parametrize("zoom", [0.3, 0.6, 1.0, 2.5])
def test_a_cell_has_the_same_size_in_its_crop_at_any_magnification(synthetic, zoom):
    field = _field(rescaled(synthetic[1], zoom), um=0.1 / zoom)
    areas = [cut_crop(field, cell).any(axis=-1).sum() * RELEASE_UM_PER_PX**2 for cell in find_cells(field)]
    expected = [cell.area_um2 for cell in find_cells(_field(synthetic[1]))]
    assert areas == pytest.approx(expected, rel=0.12)


def test_a_crop_shows_the_very_cell_and_not_its_neighbour(synthetic):
    field = _field(synthetic[1])
    for cell in find_cells(field):
        crop = cut_crop(field, cell)
        area = crop.any(axis=-1).sum() * RELEASE_UM_PER_PX**2
        assert area == pytest.approx(cell.area_um2, rel=0.03)


def test_colours_survive_resampling(synthetic):
    field = _field(synthetic[1])
    cell = find_cells(field)[0]
    crop = cut_crop(field, cell)
    x, y = (round(value) for value in cell.centre)
    assert crop[215:235, 215:235].mean(axis=(0, 1)) == pytest.approx(
        field.pixels[y - 6 : y + 6, x - 6 : x + 6].mean(axis=(0, 1)), abs=3
    )


def test_a_cell_cut_off_by_the_border_is_black_beyond_it(synthetic):
    pixels = synthetic[1][:, 60:]  # the first cell stands at x = 120
    field = _field(np.ascontiguousarray(pixels))
    cell = find_cells(field)[0]
    assert "cut off" in cell.flags
    assert not cut_crop(field, cell)[0].any()
