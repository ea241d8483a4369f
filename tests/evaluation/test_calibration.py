"""Temperature and thresholds, from validation cells only."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss, roc_curve

from leukoscope.evaluation.predictions import (
    TEMPERATURES,
    Predictions,
    calibrate,
    fit_temperature,
    fit_thresholds,
    temper,
)


def predictions_of(labels: np.ndarray, chance: np.ndarray, *, test: np.ndarray) -> Predictions:
    count = len(labels)
    names = np.array([str(row) for row in range(count)])
    return Predictions(
        ("hem", "all"),
        names,
        labels,
        names,
        names,
        names,
        names,
        np.zeros(count, dtype=np.int64),
        test,
        np.stack([1 - chance, chance], axis=1),
    )


def overlapping(count: int = 4000, *, sureness: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels drawn from true probabilities, and probabilities whose logits are `sureness` times too large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, count)
    return (rng.random(count) < expit(logits)).astype(np.int64), expit(sureness * logits)


def test_the_temperature_undoes_overconfidence() -> None:
    labels, chance = overlapping(sureness=3.0)
    assert fit_temperature(labels, np.stack([1 - chance, chance], axis=1)) == pytest.approx(3.0, rel=0.1)


def test_no_other_temperature_gives_a_lower_log_loss() -> None:
    labels, chance = overlapping(500, sureness=2.0)
    probabilities = np.stack([1 - chance, chance], axis=1)
    best = log_loss(labels, temper(probabilities, fit_temperature(labels, probabilities)))
    assert all(best <= log_loss(labels, temper(probabilities, other)) + 1e-6 for other in np.geomspace(0.1, 10, 60))


def test_the_balanced_threshold_has_the_highest_youden_index() -> None:
    labels, chance = overlapping(300)
    alarm, found, _ = roc_curve(labels, chance)
    said = chance >= fit_thresholds(labels, chance)["balanced"]
    index = said[labels == 1].mean() - said[labels == 0].mean()
    assert index == pytest.approx((found - alarm).max())


def test_high_points_keep_their_promise_on_the_cells_they_were_set_on() -> None:
    labels, chance = overlapping(300)
    cuts = fit_thresholds(labels, chance)
    assert (chance[labels == 1] >= cuts["high_sensitivity"]).mean() >= 0.95
    assert (chance[labels == 0] < cuts["high_specificity"]).mean() >= 0.95
    tighter = np.nextafter(cuts["high_sensitivity"], 1) + 0.02
    assert (chance[labels == 1] >= tighter).mean() < 0.97


def test_test_cells_do_not_touch_the_calibration() -> None:
    labels, chance = overlapping(400)
    test = np.arange(400) % 2 == 0
    before = calibrate(predictions_of(labels, chance, test=test))
    flipped = np.where(test, 1 - labels, labels)
    after = calibrate(predictions_of(flipped, np.where(test, 0.5, chance), test=test))
    assert before == after


def two_folds() -> Predictions:
    """Subject s is tested in fold s % 2 and validated in the other one, but for every third, which both validate."""
    labels, chance = overlapping(1200)
    subject = np.repeat(np.arange(60), 20)
    plain = predictions_of(labels, chance, test=subject % 3 != 0)
    fold = np.where(plain.test, subject % 2, (subject // 3) % 2)
    return replace(plain, group=subject.astype(str), fold=fold)


def test_a_fold_borrows_validation_cells_of_other_folds() -> None:
    assert {each.validation_groups for each in calibrate(two_folds()).values()} == {20}  # 10 are its own


def test_no_fold_is_calibrated_on_a_subject_that_it_is_tested_on() -> None:
    plain = two_folds()
    # Fold 1 validates a subject that fold 0 is tested on, with labels that would spoil the calibration of fold 0.
    tested = plain.test & (plain.fold == 0)
    spoilt = replace(plain.pick(tested), fold=np.ones(tested.sum(), np.int64), test=np.zeros(tested.sum(), bool))
    spoilt = replace(spoilt, label=1 - spoilt.label)
    names = [field.name for field in fields(Predictions) if field.name != "classes"]
    both = Predictions(plain.classes, *(np.concatenate([getattr(plain, n), getattr(spoilt, n)]) for n in names))
    assert calibrate(both)[0] == calibrate(plain)[0]
    assert calibrate(both)[1] != calibrate(plain)[1]


@pytest.mark.parametrize("kept", [lambda labels: labels == 1, lambda labels: labels > 5])
def test_validation_without_both_classes_falls_back_and_says_so(kept: object) -> None:
    labels, chance = overlapping(200)
    test = ~kept(labels)  # type: ignore[operator]
    calibration = calibrate(predictions_of(labels, chance, test=test))[0]
    assert calibration.temperature == 1.0
    assert calibration.thresholds == {"balanced": 0.5, "high_sensitivity": 0.5, "high_specificity": 0.5}
    assert calibration.note.startswith("Not calibrated")
    assert calibration.note.endswith("The temperature is 1 and the threshold 0.5.")


def test_probabilities_that_are_too_cautious_get_a_temperature_below_one() -> None:
    labels, chance = overlapping(1200)
    both = np.stack([1 - chance, chance], axis=1)
    plain = fit_temperature(labels, both)
    assert fit_temperature(labels, temper(both, 4)) == pytest.approx(plain / 4, rel=0.01)
    assert plain / 4 < 1


def test_a_temperature_within_its_bounds_needs_no_note() -> None:
    calibrations = calibrate(two_folds()).values()
    assert [each.note for each in calibrations] == ["", ""]
    assert all(TEMPERATURES[0] < each.temperature < TEMPERATURES[1] for each in calibrations)


def test_equal_scores_everywhere_give_thresholds_and_no_crash() -> None:
    cuts = fit_thresholds(np.array([0, 1]), np.array([0.5, 0.5]))
    assert all(0 <= cut <= 1.000001 for cut in cuts.values())


def test_no_cell_is_called_ill_at_a_stricter_point_and_well_at_a_more_sensitive_one() -> None:
    """So high specificity is never below balanced: here the balanced point leaves more than 95 % alone."""
    labels, chance = np.repeat([0, 1], [40, 40]), np.append(np.linspace(0, 0.6, 40), np.linspace(0.595, 1, 40))
    cuts = fit_thresholds(labels, chance)
    assert cuts["high_sensitivity"] <= cuts["balanced"] <= cuts["high_specificity"]
    assert (chance[labels == 0] < cuts["balanced"]).mean() > 0.95
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 60)
        cuts = fit_thresholds(labels, expit(rng.normal(3 * labels, 1.0)))
        assert cuts["high_sensitivity"] <= cuts["balanced"] <= cuts["high_specificity"]
