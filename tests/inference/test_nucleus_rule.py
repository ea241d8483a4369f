"""A cell of a field that looks lymphoid by colour is not asked about blasts where its nucleus is small."""

from leukoscope.inference.cell_types import LEAST_NUCLEUS, LYMPHOID, UNSURE_TYPE, TypeOpinion, require_large_nucleus

ASKED = TypeOpinion(LYMPHOID, {LYMPHOID: 0.9, "neutrophil": 0.1}, True, "")


def test_a_small_nucleus_makes_a_lymphoid_cell_unsure_and_says_why() -> None:
    opinion = require_large_nucleus(ASKED, nucleus=0.4)
    assert (opinion.type, opinion.asked) == (UNSURE_TYPE, False)
    assert "40% of the cell" in opinion.reason
    assert opinion.probabilities == ASKED.probabilities


def test_a_large_nucleus_and_a_mature_cell_change_nothing() -> None:
    mature = TypeOpinion("neutrophil", {"neutrophil": 1.0}, False, "neutrophil: only lymphoid cells are asked")
    assert require_large_nucleus(ASKED, nucleus=LEAST_NUCLEUS) is ASKED
    assert require_large_nucleus(mature, nucleus=0.3) is mature


def test_a_field_asks_for_more_certainty() -> None:
    hardly = TypeOpinion(LYMPHOID, {LYMPHOID: 0.55, "monocyte": 0.45}, True, "")
    opinion = require_large_nucleus(hardly, nucleus=0.9)
    assert (opinion.type, opinion.asked) == (UNSURE_TYPE, False)
    assert "0.55 sure" in opinion.reason
