"""A cell of a field that looks lymphoid by colour is not asked about blasts where its nucleus is small or lobed."""

import numpy as np

from leukoscope.fields.cells import field_of, find_cells
from leukoscope.fields.scale import Scale
from leukoscope.inference.cell_types import (
    LEAST_NUCLEUS,
    LEAST_ROUNDNESS,
    LYMPHOID,
    UNSURE_TYPE,
    TypeOpinion,
    require_round_nucleus,
)
from tests.fields.conftest import CYTOPLASM, NUCLEUS, Painting

ASKED = TypeOpinion(LYMPHOID, {LYMPHOID: 0.9, "neutrophil": 0.1}, True, "")


def test_a_small_nucleus_makes_a_lymphoid_cell_unsure_and_says_why() -> None:
    opinion = require_round_nucleus(ASKED, share=0.4, roundness=0.9)
    assert (opinion.type, opinion.asked) == (UNSURE_TYPE, False)
    assert "40% of the cell" in opinion.reason
    assert opinion.probabilities == ASKED.probabilities


def test_a_large_nucleus_and_a_mature_cell_change_nothing() -> None:
    why = "neutrophil: blast or normal is asked of lymphoid cells only"
    mature = TypeOpinion("neutrophil", {"neutrophil": 1.0}, False, why)
    assert require_round_nucleus(ASKED, share=LEAST_NUCLEUS, roundness=LEAST_ROUNDNESS) is ASKED
    assert require_round_nucleus(mature, share=0.3, roundness=0.2) is mature


def test_a_field_asks_for_more_certainty() -> None:
    hardly = TypeOpinion(LYMPHOID, {LYMPHOID: 0.55, "monocyte": 0.45}, True, "")
    opinion = require_round_nucleus(hardly, share=0.9, roundness=0.9)
    assert (opinion.type, opinion.asked) == (UNSURE_TYPE, False)
    assert "0.55 sure" in opinion.reason


def test_a_lobed_nucleus_makes_a_lymphoid_cell_unsure_and_says_why() -> None:
    opinion = require_round_nucleus(ASKED, share=0.9, roundness=0.35)
    assert (opinion.type, opinion.asked) == (UNSURE_TYPE, False)
    assert "lobed" in opinion.reason


def test_roundness_of_painted_nuclei_is_that_of_their_form() -> None:
    painting = Painting(64, 48)
    painting.white_cell(16, 24)
    painting.disc(46, 24, radius=7, colour=CYTOPLASM)
    for x, y in ((43, 21.5), (49, 21.5), (46, 27.5)):
        painting.disc(x, y, radius=2.4, colour=NUCLEUS)
    field = field_of(painting.taken(np.random.default_rng(0)), name="two", scale=Scale.exact(0.1, source="user"))
    whole, lobed = sorted(find_cells(field), key=lambda cell: cell.centre[0])
    assert whole.nucleus_round > 0.85
    assert lobed.nucleus_round < 0.45
