"""Red cells and platelets of painted fields, whose number, place and size are known."""

import numpy as np
import pytest

from leukoscope.fields.blood_count import BloodCount, count_blood
from leukoscope.fields.cells import field_of, find_cells
from leukoscope.fields.scale import Scale
from tests.fields.conftest import Painting

PLATELET = (168, 150, 205)


def counted(painting: Painting, rng: np.random.Generator, *, source: str = "user") -> BloodCount:
    field = field_of(painting.taken(rng), name="painted", scale=Scale.exact(painting.um, source=source))
    found = count_blood(field, find_cells(field))
    assert found is not None
    return found


def with_platelets(painting: Painting, places: list[tuple[float, float]]) -> Painting:
    for x, y in places:
        painting.disc(x, y, radius=1.3, colour=PLATELET)
    return painting


def middle(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_red_cells_are_counted_and_white_cells_are_none_of_them(rng: np.random.Generator) -> None:
    painting = Painting(96, 72).white_cell(20, 20).white_cell(70, 50).red_cells(rng, count=30)
    found = counted(painting, rng)
    assert 27 <= len(found.red_cells) <= 32
    for x, y, radius in painting.white:
        middles = [cell.outline.mean(axis=0) * painting.um for cell in found.red_cells]
        assert all(np.hypot(*(each - (x, y))) > radius for each in middles)


def test_red_cells_that_lie_over_each_other_are_each_counted(rng: np.random.Generator) -> None:
    painting = Painting(64, 48).white_cell(50, 36)
    for x in (12.0, 17.0, 22.0):  # a chain: each hides a third of the next
        ring = np.zeros_like(painting.pixels)
        before = painting.pixels.copy()
        painting.disc(x, 14, radius=3.6, colour=painting.red)
        ring[:] = np.minimum(before, painting.pixels)
        both = (before != painting.pixels).any(axis=2) & (before != np.array((228, 228, 222))).any(axis=2)
        painting.pixels[both] = (ring[both] * 0.85).astype(np.uint8)
    found = counted(painting.red_cells(rng, count=0), rng)
    near = [cell for cell in found.red_cells if cell.outline[:, 1].mean() * painting.um < 22]
    assert len(near) == 3


def test_size_is_told_only_where_the_scale_is_stated(rng: np.random.Generator) -> None:
    painting = Painting(96, 72).white_cell(20, 20).red_cells(rng, count=30)
    diameters = counted(painting, rng).diameters_um
    assert len(diameters) >= 25
    assert np.mean(diameters) == pytest.approx(7.2, rel=0.06)
    assert counted(painting, rng, source="red cells of 4 fields").diameters_um == []


def test_a_cell_at_the_border_is_counted_and_not_measured(rng: np.random.Generator) -> None:
    painting = Painting(64, 48).white_cell(40, 30)
    painting.disc(1.5, 20, radius=3.6, colour=painting.red)
    painting.disc(16, 16, radius=3.6, colour=painting.red)
    found = counted(painting, rng)
    assert sorted(cell.whole for cell in found.red_cells) == [False, True]
    assert len(found.diameters_um) == 1


def test_platelets_are_found_where_they_lie(rng: np.random.Generator) -> None:
    places = [(40.0, 8.0), (50.0, 30.0), (8.0, 40.0)]
    painting = with_platelets(Painting(64, 48).white_cell(16, 14), places)
    found = counted(painting, rng)
    middles = np.array([middle(each.box) for each in found.platelets]) * painting.um
    assert len(middles) == len(places)
    assert all(np.hypot(*(middles - place).T).min() < 1 for place in places)
    assert found.clumped == 0


def test_red_cells_alone_are_no_platelets(rng: np.random.Generator) -> None:
    painting = Painting(64, 48).white_cell(50, 14).red_cells(rng, count=16)
    assert counted(painting, rng).platelets == ()


def test_platelets_close_together_are_a_clump(rng: np.random.Generator) -> None:
    clump = [(40.0, 20.0), (43.9, 20.5), (41.9, 23.9)]
    painting = with_platelets(Painting(64, 48).white_cell(14, 14), [*clump, (12.0, 40.0)])
    found = counted(painting, rng)
    assert found.clumped == 3
    assert any(not each.clumped for each in found.platelets)


def test_a_coarse_field_is_not_counted(rng: np.random.Generator) -> None:
    painting = Painting(240, 180, um=0.5).white_cell(60, 60).red_cells(rng, count=60)
    field = field_of(painting.taken(rng), name="coarse", scale=Scale.exact(0.5, source="user"))
    assert count_blood(field, find_cells(field)) is None


def test_a_field_with_a_white_cell_and_nothing_else_has_no_red_cells_and_no_platelets(rng: np.random.Generator) -> None:
    found = counted(Painting(64, 48).white_cell(30, 24), rng)
    assert (found.red_cells, found.platelets) == ((), ())
