"""The differential: intervals as SciPy's, corrected ones that hold the truth, rows that sum to 100."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from leukoscope.bundle.manifest import TYPES
from leukoscope.errors import UnknownNameError, UsageError
from leukoscope.inference.cell_types import (
    APART,
    FEWEST,
    ORDER,
    Errors,
    Kinds,
    checked_order,
    differential,
    kind_of,
    rounded,
    wilson,
)
from leukoscope.inference.opinions import Opinion
from leukoscope.inference.prevalence import Accuracy


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilsons_interval_is_that_of_scipy(counted: tuple[int, int]) -> None:
    cells, total = counted
    expected = binomtest(cells, total).proportion_ci(method="wilson")
    assert wilson(cells, total) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.dictionaries(st.sampled_from(ORDER), st.integers(0, 300), min_size=1))
def test_the_rows_are_the_white_cells_and_sum_to_a_hundred(cells: dict[str, int]) -> None:
    counted = differential(Kinds(Counter(cells)))
    assert sum(row.cells for row in counted.rows) == counted.white == sum(cells.values())
    if counted.white < FEWEST:
        assert all(row.percent is row.low is row.high is None for row in counted.rows)
        assert "too few" in counted.summary or "no differential" in counted.summary
        return
    assert sum(row.percent or 0 for row in counted.rows) == pytest.approx(100)
    assert sum(rounded([row.percent or 0 for row in counted.rows], digits=1)) == pytest.approx(100)
    assert all((row.low or 0) <= (row.percent or 0) <= (row.high or 0) for row in counted.rows)


def test_platelets_erythroblasts_smudges_refused_and_unsure_are_counted_apart() -> None:
    cells = dict.fromkeys(APART, 7) | {"neutrophil": 30, "immature granulocyte": 10}
    counted = differential(Kinds(Counter(cells)))
    assert counted.white == 40
    assert counted.apart == dict.fromkeys(APART, 7)
    assert counted.per_100["erythroblast"].percent == pytest.approx(100 * 7 / 40)
    assert counted.per_100["immature granulocyte"].percent == pytest.approx(25)


def test_a_rate_per_100_white_cells_has_the_interval_of_its_share_of_both() -> None:
    counted = differential(Kinds(Counter({"neutrophil": 40, "erythroblast": 7})))
    expected = binomtest(7, 47).proportion_ci(method="wilson")
    row = counted.per_100["erythroblast"]
    assert row.low == pytest.approx(100 * expected.low / (1 - expected.low))
    assert row.high == pytest.approx(100 * expected.high / (1 - expected.high))


@pytest.mark.parametrize(
    ("opinion", "kind"),
    [
        (Opinion("x", "not asked", type="neutrophil"), "neutrophil"),
        (Opinion("x", "not asked", type="unsure"), "unsure"),
        (Opinion("x", "all", type="lymphoid", called="all"), "blast"),
        (Opinion("x", "hem", type="lymphoid", called="hem"), "lymphocyte"),
        (Opinion("x", "unsure", type="lymphoid", called="all"), "lymphoid, undecided"),
        (Opinion("x", "refused", type="lymphoid"), "lymphoid, undecided"),
        (Opinion("x", "refused", type="smudge"), "smudge"),
        (Opinion("x", "refused"), "refused"),
    ],
)
def test_a_cell_counts_in_one_row(opinion: Opinion, kind: str) -> None:
    assert kind_of(opinion, positive="all") == kind


def test_blasts_are_a_share_of_lymphoid_cells_as_well() -> None:
    kinds = Kinds(Counter({"blast": 10, "lymphocyte": 25, "lymphoid, undecided": 5, "neutrophil": 60}), 12, 40)
    of_lymphoid = differential(kinds).blasts_of_lymphoid
    assert of_lymphoid is not None
    assert of_lymphoid.percent == pytest.approx(25)


def _confusion(right: float, cells: int = 4000) -> np.ndarray:  # type: ignore[type-arg]
    wrong = (1 - right) / len(TYPES)
    return np.round(cells * (np.eye(len(TYPES), len(TYPES) + 1) * (right - wrong) + wrong))


def test_corrected_intervals_hold_the_truth_behind_what_an_erring_model_calls() -> None:
    """Rows of 200 cells drawn again and again: 95 % intervals hold the true share about as often as they say."""
    rng = np.random.default_rng(1)
    true = np.array([0.55, 0.05, 0.02, 0.08, 0.25, 0.05, 0, 0, 0])
    matrix = _confusion(0.85)
    chances = matrix / matrix.sum(1, keepdims=True)
    exact = Accuracy(0.999, 0.999, np.full(4000, 0.999), np.full(4000, 0.999))
    held: list[list[bool]] = []
    for draw in range(60):
        called = rng.multinomial(200, true @ chances)
        cells = Counter(dict(zip((*TYPES, "unsure"), called.tolist(), strict=True)))
        cells["lymphocyte"] = cells.pop("lymphoid")
        counted = differential(Kinds(cells, 0, cells["lymphocyte"]), errors=Errors(TYPES, matrix, exact), seed=draw)
        rows = {row.name: row for row in counted.rows}
        shares = dict(zip(TYPES, 100 * true, strict=True)) | {"lymphocyte": 25.0}
        named = ("neutrophil", "eosinophil", "monocyte", "lymphocyte")
        held.append([(rows[name].low or 0) <= shares[name] <= (rows[name].high or 0) for name in named])
    assert np.mean(held) > 0.94
    assert np.mean(held, axis=0).min() > 0.88


def test_without_correction_the_truth_is_missed() -> None:
    """What the test above proves is no matter of course: Wilson's interval of what is called misses it."""
    rng = np.random.default_rng(1)
    true = np.array([0.9, 0.0, 0.0, 0.0, 0.1, 0.0, 0, 0, 0])
    matrix = _confusion(0.85)
    called = rng.multinomial(400, true @ (matrix / matrix.sum(1, keepdims=True)))
    cells = Counter(dict(zip((*TYPES, "unsure"), called.tolist(), strict=True)))
    cells["lymphocyte"] = cells.pop("lymphoid")
    plain, mended = (
        next(row for row in differential(Kinds(cells), errors=errors).rows if row.name == "neutrophil")
        for errors in (None, Errors(TYPES, matrix, None))
    )
    assert (plain.high or 0) < 90 < (mended.high or 0)


def test_unknown_errors_about_blasts_allow_any_share_of_lymphoid_cells() -> None:
    kinds = Kinds(Counter({"blast": 5, "lymphocyte": 35, "neutrophil": 60}), 5, 40)
    counted = differential(kinds, errors=Errors(TYPES, _confusion(0.95), None))
    rows = {row.name: row for row in counted.rows}
    assert (rows["blast"].low or 0) < 1
    assert (rows["blast"].high or 0) > 35
    assert "any share is possible" in counted.how


def test_a_confusion_that_was_not_measured_leaves_wilsons_interval() -> None:
    counted = differential(
        Kinds(Counter({"neutrophil": 60, "monocyte": 40})), errors=Errors(TYPES, np.zeros((9, 10)), None)
    )
    assert "not measured" in counted.how
    row = counted.rows[0]
    assert ((row.low or 0) / 100, (row.high or 0) / 100) == pytest.approx(wilson(60, 100), abs=0.02)


def test_the_order_is_the_laboratorys_and_wrong_names_are_refused() -> None:
    assert checked_order(["blast", "monocyte"])[:3] == ("blast", "monocyte", "neutrophil")
    assert len(checked_order(["blast"])) == len(ORDER)
    with pytest.raises(UnknownNameError, match="neutrophil"):
        checked_order(["neutrofil"])
    with pytest.raises(UsageError, match="twice"):
        checked_order(["blast", "blast"])


def test_the_goal_is_named_until_it_is_reached() -> None:
    assert differential(Kinds(Counter({"neutrophil": 100}))).summary == "100 of 200 white cells classified."
    assert differential(Kinds(Counter({"neutrophil": 250}))).summary == "250 white cells classified."
    assert "no differential" in differential(Kinds(Counter({"platelet": 9, "smudge": 3}))).summary
