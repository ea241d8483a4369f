"""The corrected share of blasts: published numbers, the textbook's variance, and honest coverage over subjects."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.bundle.manifest import Bundle
from leukoscope.inference.opinions import Opinion, Tally
from leukoscope.inference.prevalence import Accuracy, accuracy_of, draw_rates, rogan_gladen, share_in_words

from .conftest import changed


def test_the_share_is_that_of_a_published_example() -> None:
    # epiR, epi.prev: 23 of 150 cows positive, sensitivity 96 %, specificity 89 %: 5.1 of 100 cows (apparent 15.3).
    share = rogan_gladen(23 / 150, 0.96, 0.89)
    assert share == pytest.approx(0.051, abs=5e-4)


@given(st.floats(0, 1), st.floats(0.51, 1), st.floats(0.51, 1))
def test_the_share_undoes_what_an_imperfect_test_does(share: float, sensitivity: float, specificity: float) -> None:
    apparent = share * sensitivity + (1 - share) * (1 - specificity)
    assert rogan_gladen(apparent, sensitivity, specificity) == pytest.approx(share, abs=1e-6)


def test_a_model_that_guesses_has_no_share() -> None:
    assert rogan_gladen(0.3, 0.4, 0.6) is None
    rates = np.full(100, 0.5)
    answer = Accuracy(0.5, 0.5, rates, rates).share(3, cells=10, rng=np.random.default_rng(0))
    assert answer == {"value": None, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(
    ("low", "high", "cells", "words"),
    [
        (0.5, 1.0, 20, "75 % (50 to 100)"),
        (0.4, 0.9, 20, "75 % (40 to 90)"),
        (0.4, 0.91, 4000, "not known yet (40 to 91)"),  # more than half of all shares would fit
        (0.7, 0.8, 19, "not known yet (70 to 80)"),  # fewer cells than a percentage takes
        (0.18, 1.0, 2, "not known yet (18 to 100)"),
    ],
)
def test_a_share_is_shown_only_where_its_interval_says_something(
    low: float, high: float, cells: int, words: str
) -> None:
    assert share_in_words({"value": 0.75, "low": low, "high": high}, cells=cells) == words


def test_with_equal_subjects_the_interval_is_that_of_rogan_and_gladen() -> None:
    """Their variance: that of the apparent share plus those of sensitivity and specificity, over the gain squared."""
    rng = np.random.default_rng(0)
    cells = np.full(40, 50.0)
    found, spared = rng.binomial(50, 0.85, 40).astype(float), rng.binomial(50, 0.9, 40).astype(float)
    sensitivity, specificity = found.sum() / cells.sum(), spared.sum() / cells.sum()
    accuracy = Accuracy(
        sensitivity,
        specificity,
        draw_rates(found, cells, rng=rng, draws=20000),
        draw_rates(spared, cells, rng=rng, draws=20000),
    )
    called, counted = 180, 400
    answer = accuracy.share(called, cells=counted, rng=rng)
    apparent, gain, known = called / counted, sensitivity + specificity - 1, cells.sum()
    share = (apparent + specificity - 1) / gain
    variance = apparent * (1 - apparent) / counted
    variance += share**2 * sensitivity * (1 - sensitivity) / known
    variance += (1 - share) ** 2 * specificity * (1 - specificity) / known
    half = 1.96 * np.sqrt(variance) / gain
    assert answer["value"] == pytest.approx(share)
    # Binomial subjects look a little unlike each other by chance, so the cluster-aware interval is somewhat wider.
    assert half < ((answer["high"] or 0) - (answer["low"] or 0)) / 2 < 1.6 * half


def test_the_interval_holds_the_true_share_of_new_subjects() -> None:
    """Subjects whose sensitivity and specificity differ: the naive interval fails, this one keeps its promise."""
    rng = np.random.default_rng(1)
    kept = naive = 0
    trials = 150
    for _ in range(trials):
        cells = rng.integers(20, 120, 20).astype(float)
        found = rng.binomial(cells.astype(int), rng.beta(8, 2, 20)).astype(float)
        spared = rng.binomial(cells.astype(int), rng.beta(9, 2, 20)).astype(float)
        accuracy = Accuracy(
            found.sum() / cells.sum(),
            spared.sum() / cells.sum(),
            draw_rates(found, cells, rng=rng, draws=600),
            draw_rates(spared, cells, rng=rng, draws=600),
        )
        share, sensitivity, specificity = rng.uniform(), rng.beta(8, 2), rng.beta(9, 2)
        called = rng.binomial(200, share * sensitivity + (1 - share) * (1 - specificity))
        answer = accuracy.share(called, cells=200, rng=rng)
        kept += (answer["low"] or 0) <= share <= (answer["high"] or 0)
        same = np.full(600, accuracy.sensitivity), np.full(600, accuracy.specificity)
        simple = Accuracy(accuracy.sensitivity, accuracy.specificity, *same).share(called, cells=200, rng=rng)
        naive += (simple["low"] or 0) <= share <= (simple["high"] or 0)
    assert kept / trials > 0.91
    assert naive / trials < 0.75


def test_chance_within_subjects_is_not_taken_for_a_difference_between_them() -> None:
    rng = np.random.default_rng(2)
    cells = np.full(30, 40.0)
    rates = draw_rates(rng.binomial(40, 0.8, 30).astype(float), cells, rng=rng)
    unlike = draw_rates(rng.binomial(40, rng.beta(4, 1, 30)).astype(float), cells, rng=rng)
    assert rates.std() < 0.06
    assert unlike.std() == pytest.approx(np.sqrt(0.8 * 0.2 / 6), rel=0.35)  # of beta(4, 1)


def test_too_few_subjects_give_no_share(single: Bundle, tmp_path: Path) -> None:
    figures = [each for each in single.manifest.subjects if each.label == "normal"]
    few = changed(single, tmp_path / "few", subjects=[each.model_dump() for each in figures])
    assert accuracy_of(few.manifest, "balanced") is None
    tally = Tally(few.manifest, point="balanced")
    tally.add(Opinion("a", "normal", called="normal"), subject="P1")
    assert "share" not in tally.summaries()[0]


def test_subjects_are_counted(single: Bundle) -> None:
    tally = Tally(single.manifest, point="balanced")
    said = [("blast", "blast"), ("unsure", "blast"), ("normal", "normal"), ("refused", "")]
    for decision, called in said:
        tally.add(Opinion("a", decision, called=called, readable=decision != "refused"), subject="P1")
    tally.add(Opinion("b", "normal", called="normal"), subject="P2")
    tally.add(Opinion("c", "normal", called="normal"))
    first, second = tally.summaries()
    counts = {name: first[name] for name in ("cells", "answered", "above", "called", "unsure", "refused")}
    assert counts == {"cells": 4, "answered": 3, "above": 2, "called": 1, "unsure": 1, "refused": 1}
    assert first["unreadable"] == 1
    assert second["cells"] == 1
    assert tally.all.cells == 6
    assert 0 <= first["share"]["low"] <= first["share"]["value"] <= first["share"]["high"] <= 1
    assert tally.summaries() == [first, second]
