"""Stages: the order recognised, given, or said to be unknown."""

import numpy as np
import pytest

from leukoscope.errors import UsageError
from leukoscope.survival.table import cut_stages, order_stages


@pytest.mark.parametrize(
    "mildest_first",
    [
        ("I", "II", "III", "IV"),
        ("Stage I", "Stage IIA", "Stage IIB", "Stage IV"),
        ("1", "2", "3"),
        ("CR1", "CR2", "CR3", "Relapse"),
        ("Low risk", "Medium risk", "High risk"),
        ("low", "intermediate", "high"),
        ("favorable", "intermediate", "adverse"),
        ("chronic phase", "accelerated phase", "blast crisis"),
        ("Binet A", "Binet B", "Binet C"),
        ("Rai 0", "Rai I", "Rai II", "Rai IV"),
    ],
)
def test_usual_scales_are_put_in_order(mildest_first: tuple[str, ...]) -> None:
    assert order_stages(sorted(mildest_first)) == (mildest_first, True)


def test_an_unknown_scale_is_not_given_an_order() -> None:
    assert order_stages(["yellow", "red"]) == (("red", "yellow"), False)
    assert order_stages(["low", "red"])[1] is False


def test_two_names_for_one_stage_are_not_taken_for_a_scale() -> None:
    assert order_stages(["low", "good", "high"])[1] is False


def test_a_given_order_must_name_every_stage_once() -> None:
    assert order_stages(["a1", "b1"], given=["b1", "a1"]) == (("b1", "a1"), True)
    with pytest.raises(UsageError, match="leaves out b1"):
        order_stages(["a1", "b1"], given=["a1"])
    with pytest.raises(UsageError, match="twice"):
        order_stages(["a1"], given=["a1", "a1"])


def test_a_value_on_a_cut_belongs_to_the_lower_group() -> None:
    groups = cut_stages(np.array([0.8, 0.81, 1.2, 2.0, np.nan]), cuts=(0.8, 1.2), name="x")
    assert groups == ["x ≤ 0.8", "0.8 < x ≤ 1.2", "0.8 < x ≤ 1.2", "x > 1.2", ""]
    with pytest.raises(UsageError, match="must rise"):
        cut_stages(np.array([1.0]), cuts=(2, 1), name="x")
