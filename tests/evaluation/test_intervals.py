"""Intervals over subject groups: against R, SciPy and a plain loop over scikit-learn, and their laws."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score

from leukoscope.evaluation.intervals import (
    LEAST,
    Bootstrap,
    Design,
    bootstrap,
    design_of,
    draw,
    jackknife,
    limits,
    spread,
)
from leukoscope.evaluation.metrics import auroc
from leukoscope.evaluation.outcomes import Outcome, measure

GOLDEN = Path(__file__).parents[1] / "golden" / "cells.json"


def outcome_of_subjects(cells: int = 300, groups: int = 12) -> Outcome:
    rng = np.random.default_rng(5)
    group = np.append(np.arange(groups), rng.integers(groups, size=cells - groups))
    labels = group % 2
    chance = 1 / (1 + np.exp(-rng.normal(labels - 0.5, 1.0)))
    probabilities = np.stack([1 - chance, chance], axis=1)
    return Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), np.abs(chance - 0.5), {}, group)


def one_class(groups: int) -> Design:
    return Design(np.zeros(groups, dtype=np.int64), np.ones(groups))


# The jackknife


def test_leaving_out_a_group_equals_scikit_learn_on_the_other_cells() -> None:
    outcome = outcome_of_subjects()
    found = jackknife(lambda w: measure(outcome, w), design_of(outcome.labels, outcome.groups), cells=300)
    for group in range(12):
        rest = outcome.groups != group
        labels, chance = outcome.labels[rest], outcome.probabilities[rest, 1]
        assert found.left_out["auroc"][group] == pytest.approx(roc_auc_score(labels, chance))
        assert found.left_out["brier"][group] == pytest.approx(brier_score_loss(labels, chance))
        said = balanced_accuracy_score(labels, outcome.predicted[rest])
        assert found.left_out["balanced_accuracy"][group] == pytest.approx(said)


@pytest.mark.parametrize("weighting", ["cells", "alike"])
def test_the_standard_error_of_a_share_is_the_cluster_robust_cr3_of_r(weighting: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    groups, chance = np.array(golden["subject"]) - 1, np.array(golden["probability"])
    right = ((chance > 0.5) == np.array(golden["label"])).astype(float)
    sizes = np.bincount(groups).astype(float)
    total = np.bincount(groups, right)
    scale = sizes if weighting == "alike" else np.ones_like(sizes)

    def share(weights: np.ndarray) -> dict[str, np.ndarray]:
        each = weights / scale
        return {"accuracy": each @ total / (each @ sizes)}

    found = jackknife(share, one_class(len(sizes)), cells=len(groups))
    variance, _, _ = spread(found.point["accuracy"], found.left_out["accuracy"], found.design)
    expected = golden["accuracy"][weighting]
    assert found.point["accuracy"] == pytest.approx(expected["value"], abs=1e-9)
    subjects = len(sizes)
    assert np.sqrt(variance) == pytest.approx(expected["se"] * np.sqrt((subjects - 1) / subjects), rel=1e-6)


def test_the_mean_of_subjects_has_the_t_interval_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.6, 0.1, 7)
    found = jackknife(lambda w: {"calibration_slope": w @ values / w.sum(1)}, one_class(7), cells=7).interval(
        "calibration_slope"
    )
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-6)


def test_a_share_has_that_interval_on_the_logit_scale_and_a_correlation_on_fishers() -> None:
    values = np.random.default_rng(0).uniform(0.4, 0.95, 5)
    mean, error, wide = values.mean(), stats.sem(values), stats.t.ppf(0.975, 4)

    def found(name: str) -> tuple[float, float]:
        number = jackknife(lambda w: {name: w @ values / w.sum(1)}, one_class(5), cells=5).interval(name)
        return number["low"], number["high"]

    middle, half = np.log(mean / (1 - mean)), wide * error / (mean * (1 - mean))
    assert found("auroc") == pytest.approx([1 / (1 + np.exp(-(middle + s * half))) for s in (-1, 1)], abs=1e-6)
    turned = np.arctanh(mean) + np.array([-1, 1]) * wide * error / (1 - mean**2)
    assert found("mcc") == pytest.approx(np.tanh(turned), abs=1e-6)
    lost = np.log(1 - mean) + np.array([1, -1]) * wide * error / (1 - mean)
    assert found("ipa") == pytest.approx(1 - np.exp(lost), abs=1e-6)
    assert found("brier") == pytest.approx(mean * np.exp(np.array([-1, 1]) * wide * error / mean), abs=1e-6)


def test_the_standard_error_of_the_auroc_is_that_of_clustered_delong() -> None:
    """Obuchowski 1997, equations 3 to 5, for subjects of one class each and as many cells each."""
    rng = np.random.default_rng(3)
    groups, labels = np.repeat(np.arange(14), 20), np.repeat(np.arange(14) % 2, 20)
    scores = rng.normal(labels + rng.normal(0, 0.8, 14)[groups], 1.0)
    over = (scores[labels == 1][:, None] > scores[labels == 0][None]).astype(float)
    area = over.mean()
    error = 0.0
    for placed, mine in ((over.mean(1), groups[labels == 1]), (over.mean(0), groups[labels == 0])):
        sums = np.array([(placed[mine == subject] - area).sum() for subject in np.unique(mine)])
        error += len(sums) / (len(sums) - 1) * (sums**2).sum() / len(placed) ** 2
    chances = np.stack([-scores, scores], axis=1)
    design = design_of(labels, groups)
    found = jackknife(lambda w: {"auroc": auroc(labels, chances, weights=w, groups=groups)}, design, cells=280)
    variance, freedom, fewest = spread(found.point["auroc"], found.left_out["auroc"], design)
    assert variance == pytest.approx(error, rel=1e-9)
    assert 6 < freedom <= 12
    assert fewest == 7


def test_degrees_of_freedom_are_those_of_welch_where_two_classes_add_up() -> None:
    rng = np.random.default_rng(1)
    values, strata = np.append(rng.normal(0, 1, 4), rng.normal(0, 3, 9)), np.repeat([0, 1], [4, 9])

    def gap(weights: np.ndarray) -> dict[str, np.ndarray]:
        sides = [weights[:, strata == s] @ values[strata == s] / weights[:, strata == s].sum(1) for s in (0, 1)]
        return {"calibration_slope": sides[1] - sides[0]}

    found = jackknife(gap, Design(strata, np.ones(13)), cells=13)
    _, freedom, fewest = spread(found.point["calibration_slope"], found.left_out["calibration_slope"], found.design)
    welch = stats.ttest_ind(values[strata == 1], values[strata == 0], equal_var=False)
    assert freedom == pytest.approx(welch.df)
    number, expected = found.interval("calibration_slope"), welch.confidence_interval(0.95)
    assert (number["low"], number["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert fewest == 4


def test_few_subjects_have_a_much_wider_interval_than_a_normal_one() -> None:
    values = np.array([0.5, 0.6, 0.7])
    found = jackknife(lambda w: {"calibration_slope": w @ values / w.sum(1)}, one_class(3), cells=3).interval(
        "calibration_slope"
    )
    assert found["high"] - found["low"] == pytest.approx(2 * 4.3027 * stats.sem(values), rel=1e-4)


def test_one_subject_with_most_cells_costs_degrees_of_freedom() -> None:
    left_out = np.array([0.50, 0.52, 0.54, 0.56])
    even, heavy = (Design(np.zeros(4, dtype=np.int64), np.array(share)) for share in ([1.0] * 4, [400.0, 20, 20, 20]))
    assert spread(np.float64(0.53), left_out, even)[1] == pytest.approx(3)
    assert spread(np.float64(0.53), left_out, heavy)[1] < 1


def test_below_the_least_number_of_subjects_of_a_class_no_interval_is_offered() -> None:
    labels = np.repeat([0, 1], [LEAST, LEAST - 1]).repeat(10)
    groups = np.repeat(np.arange(2 * LEAST - 1), 10)
    chance = np.random.default_rng(0).uniform(size=len(labels))
    outcome = Outcome(labels, np.stack([1 - chance, chance], 1), (chance > 0.5).astype(int), chance, {}, groups)
    found = jackknife(lambda w: measure(outcome, w), design_of(labels, groups), cells=len(labels))
    assert found.interval("sensitivity")["low"] is None
    assert found.interval("auroc")["low"] is None
    assert found.interval("auroc")["value"] is not None
    assert found.interval("specificity")["low"] is not None  # rests on class 0 alone


def test_all_cells_right_is_as_sure_as_so_few_subjects_can_make_it() -> None:
    found = limits(1.0, np.ones(5), one_class(5))
    wide = stats.t.ppf(0.975, 4) ** 2
    assert (found["low"], found["high"]) == (pytest.approx(5 / (5 + wide), abs=1e-6), 1.0)
    assert limits(0.0, np.zeros(5), one_class(5))["high"] == pytest.approx(wide / (5 + wide), abs=1e-6)
    assert limits(1.0, np.ones(5), one_class(5), known=True)["low"] == 1.0


def test_the_difference_to_a_constant_is_the_interval_moved() -> None:
    values = np.random.default_rng(0).uniform(0.6, 0.9, 6)

    def both(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"model.auroc": weights @ values / weights.sum(1), "majority.auroc": np.full(len(weights), 0.5)}

    found = jackknife(both, one_class(6), cells=6, constants=frozenset({"majority"}))
    model, more = found.interval("model.auroc"), found.difference("model.auroc", "majority.auroc")
    assert [more[key] + 0.5 for key in model] == pytest.approx(list(model.values()), abs=2e-6)
    assert found.interval("majority.auroc") == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_the_difference_of_a_run_and_itself_is_exactly_zero() -> None:
    outcome = outcome_of_subjects()

    def twice(weights: np.ndarray) -> dict[str, np.ndarray]:
        measured = measure(outcome, weights)["auroc"]
        return {"a": measured, "b": measured}

    found = jackknife(twice, design_of(outcome.labels, outcome.groups), cells=300)
    assert found.difference("a", "b") == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_groups_that_move_together_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 30)

    def width(groups: np.ndarray) -> float:
        count = int(groups.max()) + 1

        def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
            each = weights[:, groups]
            return {"calibration_slope": each @ values / each.sum(1)}

        found = jackknife(mean, one_class(count), cells=300).interval("calibration_slope")
        return float(found["high"] - found["low"])

    assert width(np.repeat(np.arange(10), 30)) > 3 * width(np.arange(300))


def test_very_many_groups_are_left_out_in_blocks_with_nearly_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.2, 3000)
    found = jackknife(lambda w: {"calibration_slope": w @ values / w.sum(1)}, one_class(3000), cells=3000)
    assert len(found.left_out["calibration_slope"]) == 400
    number = found.interval("calibration_slope")
    assert number["high"] - number["low"] == pytest.approx(2 * 1.96 * stats.sem(values), rel=0.1)


def test_mixed_subjects_are_a_kind_of_their_own_unless_they_are_too_few() -> None:
    pure = np.repeat(np.arange(8), 2)
    labels = np.repeat([0, 0, 0, 0, 1, 1, 1, 1], 2)
    mixed = labels.copy()
    mixed[0] = 1
    assert len(np.unique(design_of(labels, pure).strata)) == 2
    assert len(np.unique(design_of(mixed, pure).strata)) == 2
    mixed[[2, 4]] = 1
    assert len(np.unique(design_of(mixed, pure).strata)) == 3


@given(value=st.floats(0, 1), left_out=arrays(float, (7,), elements=st.floats(0, 1)))
def test_a_share_lies_in_its_interval_and_the_interval_between_nothing_and_all(
    value: float, left_out: np.ndarray
) -> None:
    found = limits(value, left_out, one_class(7))
    if found["low"] is not None:
        assert -1e-6 <= found["low"] <= found["value"] + 1e-6
        assert found["value"] - 1e-6 <= found["high"] <= 1 + 1e-6


def test_an_undefined_number_is_none_and_not_zero() -> None:
    found = limits(np.nan, np.full(10, np.nan), one_class(10))
    assert found == {"value": None, "low": None, "high": None}
    assert limits(0.5, np.append(np.full(9, 0.5), np.nan), one_class(10))["low"] is None


# The bootstrap


def test_every_replicate_equals_scikit_learn_on_the_repeated_cells() -> None:
    outcome = outcome_of_subjects()
    sampled = bootstrap(lambda weights: measure(outcome, weights), groups=12, cells=300, replicates=40, seed=1)
    counts = np.concatenate(list(draw(12, replicates=40, seed=1, at_once=40)))
    for replicate, often in enumerate(counts.astype(int)):
        again = np.repeat(np.arange(300), often[outcome.groups])
        labels = outcome.labels[again]
        assert sampled.replicates["auroc"][replicate] == pytest.approx(
            roc_auc_score(labels, outcome.probabilities[again, 1])
        )
        assert sampled.replicates["balanced_accuracy"][replicate] == pytest.approx(
            balanced_accuracy_score(labels, outcome.predicted[again])
        )


def test_how_many_replicates_are_drawn_at_once_does_not_change_them() -> None:
    whole, pieces = (list(draw(7, replicates=20, seed=3, at_once=size)) for size in (20, 3))
    assert np.array_equal(np.concatenate(whole), np.concatenate(pieces))


def test_every_replicate_draws_as_many_groups_as_there_are() -> None:
    assert (np.concatenate(list(draw(9, replicates=50, seed=0, at_once=8))).sum(1) == 9).all()


def test_the_same_seed_gives_the_same_replicates() -> None:
    outcome = outcome_of_subjects()
    first, second = (
        bootstrap(lambda weights: measure(outcome, weights), groups=12, cells=300, replicates=100, seed=4) for _ in "ab"
    )
    assert np.array_equal(first.replicates["ece"], second.replicates["ece"])


def test_no_interval_of_the_calibration_error_is_offered_nor_of_its_difference() -> None:
    """Chance alone raises it, more on fewer subjects: it lies above its true value in nearly every replicate."""
    rng = np.random.default_rng(8)
    chance = rng.uniform(size=2000)
    labels, group = (rng.uniform(size=2000) < chance).astype(np.int64), rng.integers(40, size=2000)
    probabilities = np.stack([1 - chance, chance], axis=1)
    outcome = Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), np.abs(chance - 0.5), {}, group)
    sampled = bootstrap(lambda weights: measure(outcome, weights), groups=40, cells=2000, replicates=500)
    assert np.mean(sampled.replicates["ece"] > sampled.point["ece"]) > 0.75  # without a bias it were half
    found = jackknife(lambda weights: {"a.ece": measure(outcome, weights)["ece"]}, one_class(40), cells=2000)
    assert found.interval("a.ece") == {"value": round(float(sampled.point["ece"]), 6), "low": None, "high": None}
    assert found.difference("a.ece", "a.ece") == {"value": 0.0, "low": None, "high": None}


def test_a_band_is_wider_than_its_percentiles_by_student_s_t_and_the_number_of_groups() -> None:
    replicates = np.random.default_rng(0).normal([[0.5, 0.9]], 0.02, (4000, 2))
    sampled = Bootstrap({"roc": np.array([0.5, 0.9])}, {"roc": replicates})
    design = Design(np.repeat([0, 1], 4), np.ones(8))
    found = sampled.band("roc", design)
    longer = stats.t.ppf(0.975, 6) / stats.norm.ppf(0.975) * np.sqrt(8 / 7)
    low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
    assert found["value"] == [0.5, 0.9]
    assert np.array([0.5, 0.9]) - found["low"] == pytest.approx(longer * (np.array([0.5, 0.9]) - low), abs=1e-6)
    assert found["high"] - np.array([0.5, 0.9]) == pytest.approx(longer * (high - np.array([0.5, 0.9])), abs=1e-6)
    few = Design(np.array([0, 0, 0, 1, 1]), np.ones(5))
    assert sampled.band("roc", few)["low"] == [None, None]


def test_a_band_stays_between_nothing_and_all() -> None:
    replicates = np.random.default_rng(0).uniform(0, 1, (200, 1))
    found = Bootstrap({"roc": np.array([0.9])}, {"roc": replicates}).band("roc", one_class(6))
    assert found["low"][0] >= 0
    assert found["high"][0] == 1


def test_the_bias_of_a_statistic_is_taken_from_the_middle_of_its_interval() -> None:
    """The plug-in variance of n subjects is low by its n-th part, which the jackknife finds exactly."""
    values = np.random.default_rng(4).normal(0, 1, 8)

    def variance(weights: np.ndarray) -> dict[str, np.ndarray]:
        mean = weights @ values / weights.sum(1)
        return {"calibration_slope": weights @ values**2 / weights.sum(1) - mean**2}

    found = jackknife(variance, one_class(8), cells=8)
    number = found.interval("calibration_slope")
    assert number["value"] == pytest.approx(values.var(), abs=1e-6)
    assert (number["low"] + number["high"]) / 2 == pytest.approx(values.var(ddof=1), abs=1e-6)


def test_the_bias_is_that_of_each_class_by_itself() -> None:
    """Of the product of two plug-in variances, one of each class: what each class alone is too low by adds up."""
    values, strata = np.random.default_rng(5).normal(0, 1, 13), np.repeat([0, 1], [5, 8])

    def product(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = []
        for stratum in (0, 1):
            own = weights * (strata == stratum)
            mean = own @ values / own.sum(1)
            found.append(own @ values**2 / own.sum(1) - mean**2)
        return {"calibration_slope": found[0] + found[1]}

    number = jackknife(product, Design(strata, np.ones(13)), cells=13).interval("calibration_slope")
    unbiased = values[:5].var(ddof=1) + values[5:].var(ddof=1)
    assert (number["low"] + number["high"]) / 2 == pytest.approx(unbiased, abs=1e-6)


def test_an_interval_without_bias_still_reaches_to_the_value() -> None:
    found = limits(0.9, np.full(6, 0.899), one_class(6), scale="plain", biased=True)
    assert found["low"] <= 0.9 <= found["high"]
