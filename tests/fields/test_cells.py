"""From a field to its white cells."""

import cv2
import numpy as np
import pytest
from skimage import data, measure

from leukoscope.errors import ImageError
from leukoscope.fields.cells import FLAGS, Field, drawn_cell, field_of, find_cells, smooth
from leukoscope.fields.scale import Scale

from .conftest import RED, Painting


def test_every_synthetic_white_cell_is_found_in_its_place_and_of_its_size(synthetic):
    painting, pixels = synthetic
    cells = find_cells(field_of(pixels, name="synthetic", scale=Scale.exact(0.1, source="user")))
    assert len(cells) == len(painting.white)
    for x, y, radius in painting.white:
        nearest = min(cells, key=lambda cell: np.hypot(cell.centre[0] - x * 10, cell.centre[1] - y * 10))
        assert np.hypot(nearest.centre[0] - x * 10, nearest.centre[1] - y * 10) < 5
        assert nearest.area_um2 == pytest.approx(np.pi * radius**2, rel=0.12)
        assert nearest.nucleus_um2 == pytest.approx(np.pi * (0.8 * radius) ** 2, rel=0.2)


@pytest.mark.parametrize("um", [0.06, 0.1, 0.15, 0.25])
def test_the_outline_lies_on_the_edge_of_the_cell_at_every_magnification(rng, um):
    painting = Painting(64, 48, um=um)
    for x, y, radius in [(11, 12, 3.6), (32, 13, 4.5), (53, 12, 6.0), (20, 36, 7.5)]:
        painting.white_cell(x, y, radius=radius)
    pixels = painting.red_cells(rng, count=8).taken(rng)
    cells = find_cells(field_of(pixels, name="synthetic", scale=Scale.exact(um, source="user")))
    for x, y, radius in painting.white:
        nearest = min(cells, key=lambda cell: np.hypot(cell.centre[0] * um - x, cell.centre[1] * um - y))
        assert nearest.area_um2 == pytest.approx(np.pi * radius**2, rel=0.04)


def test_touching_cells_are_two_and_say_so(synthetic):
    _, pixels = synthetic
    cells = find_cells(field_of(pixels, name="synthetic", scale=Scale.exact(0.1, source="user")))
    assert [("touching" in cell.flags) for cell in cells] == [False, False, True, True]


@pytest.mark.parametrize("zoom", [0.25, 0.5, 1.0, 2.0])
def test_the_same_field_at_other_magnifications_has_the_same_cells(synthetic, zoom):
    painting, pixels = synthetic
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    cells = find_cells(field_of(cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=how), name="synthetic"))
    assert len(cells) == len(painting.white)


def test_a_field_of_red_cells_only_has_no_white_cells(rng):
    pixels = Painting(64, 48).red_cells(rng, count=25).taken(rng)
    assert find_cells(field_of(pixels, name="red")) == []


@pytest.mark.parametrize("red", [RED, (150, 160, 178), (110, 150, 178)], ids=["pink", "grey-blue", "teal"])
def test_red_cells_of_any_stain_are_not_taken_for_white_ones(rng, red):
    painting = Painting(64, 48, red=red).white_cell(20, 20).white_cell(44, 30).red_cells(rng, count=16)
    assert len(find_cells(field_of(painting.taken(rng), name="stain"))) == 2


def test_a_cell_at_the_border_is_flagged_as_cut_off(rng):
    pixels = Painting(64, 48).white_cell(2, 24).white_cell(40, 24).red_cells(rng, count=10).taken(rng)
    cells = find_cells(field_of(pixels, name="border"))
    assert [("cut off" in cell.flags) for cell in cells] == [True, False]
    assert cells[0].box[0] == 0


def test_a_blurred_cell_is_flagged_as_out_of_focus(synthetic):
    _, pixels = synthetic
    blurred = cv2.GaussianBlur(pixels, (0, 0), 15)
    cells = find_cells(field_of(blurred, name="blurred", scale=Scale.exact(0.1, source="user")))
    assert cells
    assert all("out of focus" in cell.flags for cell in cells)


def test_flags_come_from_the_published_list(synthetic):
    _, pixels = synthetic
    assert {flag for cell in find_cells(field_of(pixels, name="synthetic")) for flag in cell.flags} <= set(FLAGS)


def test_numbers_follow_reading_order(synthetic):
    _, pixels = synthetic
    cells = find_cells(field_of(pixels, name="synthetic"))
    assert [cell.number for cell in cells] == [1, 2, 3, 4]
    assert [round(cell.centre[1]) for cell in cells] == sorted(round(cell.centre[1]) for cell in cells)


def test_area_of_an_outline_is_that_of_scikit_image(synthetic):
    _, pixels = synthetic
    field = field_of(pixels, name="synthetic", scale=Scale.exact(0.1, source="user"))
    for cell in find_cells(field):
        mask = measure.grid_points_in_poly(field.pixels.shape[:2], cell.outline[:, ::-1] - 0.5)
        assert cell.area_um2 == pytest.approx(mask.sum() * 0.01, rel=0.01)


def test_a_cell_outlined_by_a_person_is_measured_like_one_that_is_found(synthetic):
    field = field_of(synthetic[1], name="synthetic", scale=Scale.exact(0.1, source="user"))
    for cell in find_cells(field):
        drawn = drawn_cell(cell.outline, field)
        assert drawn.area_um2 == pytest.approx(cell.area_um2, rel=0.05)
        assert drawn.nucleus_um2 == pytest.approx(cell.nucleus_um2, rel=0.08)
        assert drawn.nucleus_round == pytest.approx(cell.nucleus_round, abs=0.08)
    height, width = field.pixels.shape[:2]
    beyond = np.array([[width - 9.0, height - 9], [width + 9, height - 9], [width + 9, height + 9]])
    assert drawn_cell(beyond, field).nucleus_um2 >= 0, "an outline may reach over the border"


def test_smoothing_keeps_the_size_of_a_circle():
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.stack([100 + 50 * np.cos(turn), 80 + 50 * np.sin(turn)], axis=1)
    radius = np.linalg.norm(smooth(np.rint(circle), reach=3) - (100, 80), axis=1)
    assert radius.mean() == pytest.approx(50, abs=0.3)
    assert radius.std() < 0.25


BLANK = np.full((480, 640, 3), 230, np.uint8)
GREY = np.random.default_rng(0).integers(0, 255, (48, 64, 1), np.uint8).repeat(10, 0).repeat(10, 1).repeat(3, 2)
CROP = np.pad(np.full((200, 200, 3), 90, np.uint8), ((125, 125), (125, 125), (0, 0)))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (BLANK, "blank"),
        (GREY, "black and white"),
        (data.astronaut(), "does not look like a stained blood smear"),
        (CROP, "cut out on black"),
    ],
    ids=["blank", "grey", "photograph", "crop"],
)
def test_what_is_no_smear_is_named_in_words(pixels, words):
    with pytest.raises(ImageError, match=words):
        field_of(pixels, name="field.png")


def test_nothing_to_measure_the_scale_on_asks_for_it(rng):
    pixels = Painting(64, 48).taken(rng)
    pixels[200:260, 300:420] = (230, 150, 60)  # a drop of something that is no cell
    with pytest.raises(ImageError, match="--um-per-px"):
        field_of(pixels, name="drop.png")


def test_a_field_is_plain_data(synthetic):
    _, pixels = synthetic
    field = field_of(pixels, name="synthetic")
    assert isinstance(field, Field)
    assert field.pixels is pixels


def test_a_round_view_is_searched_and_what_its_rim_cuts_is_flagged(synthetic):
    pixels = synthetic[1]
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    view = (rows - 240) ** 2 + (columns - 320) ** 2 < 225**2
    dark = np.where(view[..., None], pixels, np.uint8(4))
    cells = find_cells(field_of(dark, name="round", scale=Scale.exact(0.1, source="user")))
    whole = [cell for cell in cells if "cut off" not in cell.flags]
    assert [cell.centre for cell in whole] == [pytest.approx((240, 360), abs=5), pytest.approx((350, 360), abs=5)]
    assert len(cells) > 2  # two that the rim cuts
