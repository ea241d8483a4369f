"""The first line: it names the figure that fails, and never speaks against its own numbers."""

from typing import Any

import pytest

from leukoscope.evaluation.verdict import verdict


def number(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


GOOD, WIDE, SOLID = number(0.88, 0.72, 1.0), number(0.81, 0.47, 1.0), number(0.9, 0.8, 0.95)


def judged(*, balanced: dict[str, float], auroc: dict[str, float], size: dict[str, float] | None = None) -> Any:
    model = {"balanced_accuracy": balanced, "auroc": auroc, "sensitivity": SOLID, "specificity": SOLID}
    more = {name: {key: value - 0.5 for key, value in model[name].items()} for name in ("balanced_accuracy", "auroc")}
    differences = {"majority": more} | ({"size": {"auroc": size}} if size else {})
    facts: dict[str, Any] = {"one_class": "", "leaky": False, "synthetic": False, "groups": {"hem": 6, "all": 6}}
    return verdict(classes=("hem", "all"), model=model, differences=differences, **facts)


@pytest.mark.parametrize(
    ("balanced", "auroc", "fails", "holds"),
    [(GOOD, WIDE, "AUROC, 0.81", "balanced accuracy, 0.88"), (WIDE, GOOD, "balanced accuracy, 0.81", "AUROC, 0.88")],
)
def test_the_figure_that_fails_is_named_apart_from_the_one_that_does_not(
    balanced: dict[str, float], auroc: dict[str, float], fails: str, holds: str
) -> None:
    found = judged(balanced=balanced, auroc=auroc)
    failing, holding = found["text"].split(";")
    assert fails in failing
    assert "not shown to do better than guessing (0.50)" in failing
    assert holds in holding
    assert found["level"] == "fail"
    assert not found["beats_baseline"]


def test_two_figures_that_fail_are_named_together() -> None:
    text = judged(balanced=WIDE, auroc=WIDE)["text"]
    assert text.startswith("This model is not shown to do better than guessing: balanced accuracy 0.81 (0.47 to 1.00)")
    assert "AUROC 0.81 (0.47 to 1.00)" in text


def test_a_model_like_size_shows_how_far_it_is_from_size() -> None:
    found = judged(balanced=GOOD, auroc=GOOD, size=number(0.02, -0.03, 0.07))
    assert "size of the cell" in found["text"]
    assert "0.02 (-0.03 to 0.07)" in found["text"]
    assert found["level"] == "fail"


def test_a_good_model_has_no_fault_in_its_first_line() -> None:
    found = judged(balanced=GOOD, auroc=GOOD, size=number(0.2, 0.1, 0.3))
    assert found["text"].startswith("On subjects it has never seen, this model finds 90 of 100 leukemia cells")
    assert found["level"] == "good"
