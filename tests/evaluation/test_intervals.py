"""The bootstrap over subject groups: against a plain loop over scikit-learn, and its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from leukoscope.evaluation.intervals import Bootstrap, bootstrap, draw, interval
from leukoscope.evaluation.outcomes import Outcome, measure


def outcome_of_subjects(cells: int = 300, groups: int = 12) -> Outcome:
    rng = np.random.default_rng(5)
    group = np.append(np.arange(groups), rng.integers(groups, size=cells - groups))
    labels = group % 2
    chance = 1 / (1 + np.exp(-rng.normal(labels - 0.5, 1.0)))
    probabilities = np.stack([1 - chance, chance], axis=1)
    return Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), np.abs(chance - 0.5), {}, group)


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


def test_the_same_seed_gives_the_same_intervals() -> None:
    outcome = outcome_of_subjects()
    first, second = (
        bootstrap(lambda weights: measure(outcome, weights), groups=12, cells=300, replicates=100, seed=4) for _ in "ab"
    )
    assert first.interval("auroc") == second.interval("auroc")


def test_groups_that_move_together_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 30)

    def width(groups: np.ndarray) -> float:
        count = int(groups.max()) + 1

        def mean(weights: np.ndarray) -> dict[str, np.ndarray]:
            spread = weights[:, groups]
            return {"mean": spread @ values / spread.sum(1)}

        found = bootstrap(mean, groups=count, cells=300, replicates=500).interval("mean")
        return float(found["high"] - found["low"])

    assert width(np.repeat(np.arange(10), 30)) > 3 * width(np.arange(300))


def test_the_difference_of_a_run_and_itself_is_exactly_zero() -> None:
    outcome = outcome_of_subjects()

    def twice(weights: np.ndarray) -> dict[str, np.ndarray]:
        measured = measure(outcome, weights)["auroc"]
        return {"a": measured, "b": measured}

    sampled = bootstrap(twice, groups=12, cells=300, replicates=100)
    assert sampled.difference("a", "b") == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_replicates_with_one_class_only_are_counted_as_undefined() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]])
    outcome = Outcome(labels, probabilities, probabilities.argmax(1), np.ones(4), {}, labels)
    sampled = bootstrap(lambda weights: measure(outcome, weights), groups=2, cells=4, replicates=1000)
    found = sampled.interval("auroc")
    assert 400 < found["undefined"] < 600  # half of all draws of two from two hold one group twice
    assert "undefined" not in sampled.interval("accuracy")


def test_one_subject_group_has_no_interval() -> None:
    found = interval(0.7, np.full(100, 0.7), groups=1)
    assert (found["value"], found["low"], found["high"]) == (0.7, None, None)


def test_an_undefined_number_is_none_and_not_zero() -> None:
    found = interval(np.nan, np.full(10, np.nan), groups=5)
    assert (found["value"], found["low"], found["high"], found["undefined"]) == (None, None, None, 10)


@given(
    value=st.floats(0, 1),
    replicates=arrays(float, 60, elements=st.floats(0, 1) | st.just(np.nan)),
    other=st.floats(0, 1),
    others=arrays(float, 60, elements=st.floats(0, 1)),
)
def test_the_calibration_error_always_lies_in_its_own_interval(
    value: float, replicates: np.ndarray, other: float, others: np.ndarray
) -> None:
    point = {"a.ece": np.float64(value), "b.ece": np.float64(other)}
    sampled = Bootstrap(point, {"a.ece": replicates, "b.ece": others}, groups=9)
    for found, least in ((sampled.interval("a.ece"), 0), (sampled.difference("a.ece", "b.ece"), -1)):
        if found["low"] is not None:
            assert least <= found["low"] <= found["value"] <= found["high"] <= 1


def test_centring_keeps_the_width_of_the_replicates_and_leaves_other_metrics_alone() -> None:
    swollen = np.random.default_rng(2).normal(0.3, 0.02, 2000)
    replicates = {"model.ece": swollen, "model.auroc": swollen}
    sampled = Bootstrap({name: np.float64(0.2) for name in replicates}, replicates, groups=9)
    centred, usual = sampled.interval("model.ece"), sampled.interval("model.auroc")
    assert usual["low"] > usual["value"]
    assert centred["high"] - centred["low"] == pytest.approx(usual["high"] - usual["low"], abs=2e-6)
    assert (centred["high"] + centred["low"]) / 2 == pytest.approx(0.2, abs=0.003)


def test_well_calibrated_probabilities_have_their_calibration_error_in_its_interval() -> None:
    rng = np.random.default_rng(8)
    chance = rng.uniform(size=2000)
    labels, group = (rng.uniform(size=2000) < chance).astype(np.int64), rng.integers(40, size=2000)
    probabilities = np.stack([1 - chance, chance], axis=1)
    outcome = Outcome(labels, probabilities, (chance > 0.5).astype(np.int64), np.abs(chance - 0.5), {}, group)
    sampled = bootstrap(lambda weights: measure(outcome, weights), groups=40, cells=2000, replicates=500)
    assert np.mean(sampled.replicates["ece"] > sampled.point["ece"]) > 0.75  # without swelling it were half
    found = sampled.interval("ece")
    assert 0 <= found["low"] < found["value"] < found["high"]
