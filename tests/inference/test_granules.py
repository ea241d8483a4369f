"""Neutrophil or eosinophil: where the network is torn, the colours of cytoplasm and nucleus are heard too."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.bundle.manifest import TYPES
from leukoscope.fields.crops import granule_colours
from leukoscope.images.crop import GLASS, SIDE
from leukoscope.inference.cell_types import EOSINOPHIL, LYMPHOID, NEUTROPHIL, TypeOpinion, by_granules

PALE, ORANGE, NUCLEUS = (205, 190, 205), (225, 130, 110), (90, 60, 140)


def cell(cytoplasm: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Paint a crop: a cell with two lobes on glass."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    crop = np.full((SIDE, SIDE, 3), GLASS, np.uint8)
    crop[np.hypot(x, y) < 42] = cytoplasm
    for side in (-15, 15):
        crop[np.hypot(x - side, y) < 13] = NUCLEUS
    noise = np.random.default_rng(0).normal(0, 2, crop.shape)
    return np.asarray(np.clip(crop + noise, 0, 255), np.uint8)


def opinion(**chances: float) -> TypeOpinion:
    table = dict.fromkeys(TYPES, 0.0) | chances
    first = max(table, key=lambda name: table[name])
    return TypeOpinion(first, table, first == LYMPHOID, "")


def test_where_the_network_is_torn_the_colour_of_the_granules_decides() -> None:
    torn = {"neutrophil": 0.5, "eosinophil": 0.45, "monocyte": 0.05}
    turned = {"neutrophil": 0.45, "eosinophil": 0.5, "monocyte": 0.05}
    for chances in (torn, turned):
        for cytoplasm, name in ((ORANGE, EOSINOPHIL), (PALE, NEUTROPHIL)):
            said = by_granules(opinion(**chances), partial(granule_colours, cell(cytoplasm)))
            assert said.type == name == max(said.probabilities, key=lambda each: said.probabilities[each])
            assert sum(said.probabilities.values()) == pytest.approx(1)
            assert not said.asked


def test_a_sure_network_and_cells_of_other_types_are_left_alone() -> None:
    def colours() -> None:
        raise AssertionError("not to be looked at")

    for chances in (
        {"neutrophil": 0.97, "eosinophil": 0.03},
        {"lymphoid": 0.5, "neutrophil": 0.3, "eosinophil": 0.2},
        {"monocyte": 0.6, "eosinophil": 0.4},
    ):
        before = opinion(**chances)
        assert by_granules(before, colours) is before


def test_a_crop_without_a_cell_says_nothing() -> None:
    assert granule_colours(np.full((SIDE, SIDE, 3), GLASS, np.uint8)) is None
    torn = opinion(neutrophil=0.5, eosinophil=0.45)
    assert by_granules(torn, lambda: None) is torn
