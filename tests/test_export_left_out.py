"""A guarantee that is fitted on parts left out, and the error rates that it reaches on the next one."""

from pathlib import Path

import numpy as np
import pytest

from leukoscope.bundle.manifest import ConformalRule, Manifest, Member, Reached
from leukoscope.config import Prepare
from leukoscope.errors import DataError, UsageError
from leukoscope.evaluation.predictions import fit_temperature, temper
from leukoscope.exporting import (
    TOLERANCE,
    LeftOutPredictions,
    fit_on_left_out,
    fit_rule,
    guarantee_by_part,
    judged_parts,
    read_left_out,
)
from leukoscope.files import read_csv
from leukoscope.inference.rejection import UNSURE, decide, fit_conformal, reached
from leukoscope.report.card import card, figures_at
from tests.synthetic_run import write_run

ALPHA = 0.15
PREPARE = Prepare(size=64)


def parts_that_differ(seed: int = 0, *, subjects: int = 90, shift: float = 1.2) -> LeftOutPredictions:
    """Subjects of three parts; a part moves the scores of all its cells, as another lamp or stain does."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(subjects), rng.integers(5, 60, subjects))
    label, part = group % 2, group // 2 % 3
    moved = rng.normal(0, 0.8, subjects)[group] + shift * (part - 1)
    score = 3 * label - 1.5 + moved + rng.normal(0, 1, len(group))
    chance = 1 / (1 + np.exp(-2 * score))
    names = np.array([f"fold_{each}" for each in part])
    return LeftOutPredictions(("hem", "all"), np.stack([1 - chance, chance], 1), label, group.astype(str), names)


def manifest() -> Manifest:
    members = tuple(Member(graph=f"member-{n}/model.onnx", network="seed-cnn", prepare=PREPARE) for n in range(2))
    return Manifest(name="two", classes=("hem", "all"), positive="all", members=members, metrics={"notes": ["kept"]})


def by_hand(known: LeftOutPredictions) -> ConformalRule:
    """Return the lowest limits of the rule of all parts together and of the laxer ones of each part alone."""
    chosen = [(np.ones(len(known.labels), bool), ALPHA)]
    chosen += [(known.parts == part, ALPHA + TOLERANCE) for part in np.unique(known.parts)]
    rules = [
        fit_conformal(known.probabilities[rows], known.labels[rows], known.groups[rows], alpha=alpha)
        for rows, alpha in chosen
    ]
    lowest = np.min([rule.smallest_plausible for rule in rules], axis=0).tolist()
    return ConformalRule(alpha=ALPHA, smallest_plausible=lowest)


def test_a_rule_fitted_on_parts_nearly_keeps_its_guarantee_in_each_of_them() -> None:
    """One for the mixture alone may err in one part what it saves in another."""
    mixture, each = [], []
    for seed in range(12):
        known = parts_that_differ(seed)
        plain = fit_conformal(known.probabilities, known.labels, known.groups, alpha=ALPHA)
        for rule, worst in ((plain, mixture), (fit_rule(known, alpha=ALPHA), each)):
            tables = [
                reached(rule, part.probabilities, part.labels, part.groups, classes=known.classes)
                for part in (known.pick(known.parts == name) for name in np.unique(known.parts))
            ]
            worst.append(max(row.called_another for table in tables for row in table.values()))
    assert max(each) <= ALPHA + TOLERANCE == pytest.approx(0.2)
    assert np.mean(mixture) > ALPHA + TOLERANCE


def test_a_part_with_too_few_subjects_for_a_guarantee_does_not_silence_the_others() -> None:
    known = parts_that_differ()
    few = known.pick((known.parts != "fold_2") | np.isin(known.groups.astype(int), range(12)))
    assert None not in fit_rule(few, alpha=ALPHA).smallest_plausible


def test_what_is_reached_is_counted_on_a_part_that_the_rule_has_not_seen() -> None:
    """Counted by hand: rule and temperature from two parts, each subject of the third weighing the same."""
    known = parts_that_differ()
    here = known.parts == "fold_1"
    others = known.pick(~here)
    temperature = fit_temperature(others.labels, others.probabilities)
    rule = by_hand(others.tempered(temperature))
    said = decide(temper(known.probabilities[here], temperature), rule)
    label, group = known.labels[here], known.groups[here]
    wrong = [np.mean((said == 0)[(group == each)]) for each in np.unique(group[label == 1])]
    row = next(row for row in guarantee_by_part(known, alpha=ALPHA) if row.part == "fold_1")
    assert row.classes["all"].called_another == pytest.approx(np.mean(wrong), abs=1e-6)
    assert row.classes["all"].subjects == len(wrong)
    decided = [np.mean((said != UNSURE)[group == each]) for each in np.unique(group[label == 1])]
    assert row.classes["all"].decided == pytest.approx(np.mean(decided), abs=1e-6)


def test_subjects_count_alike_whatever_the_number_of_their_cells() -> None:
    rule = ConformalRule(alpha=0.1, smallest_plausible=[0.3, 0.2])
    chances = np.array([[0.9, 0.1]] * 9 + [[0.1, 0.9]])
    table = reached(rule, chances, np.zeros(10, int), np.array(["many"] * 9 + ["one"]), classes=("hem", "all"))
    assert table == {"hem": Reached(called_another=0.5, decided=1.0, subjects=2, cells=10)}


def test_a_guarantee_fitted_across_parts_holds_on_one_between_them_where_that_of_one_part_breaks() -> None:
    """The reason for it all. A part that lies beyond all that were seen would break it too; no rule can know."""
    across, within = [], []
    for seed in range(12):
        known = parts_that_differ(seed)
        row = next(row for row in guarantee_by_part(known, alpha=ALPHA) if row.part == "fold_1")
        across.append([each.called_another for each in row.classes.values()])
        one, asked = known.pick(known.parts == "fold_0"), known.pick(known.parts == "fold_1")
        rule = fit_conformal(one.probabilities, one.labels, one.groups, alpha=ALPHA)
        table = reached(rule, asked.probabilities, asked.labels, asked.groups, classes=known.classes)
        within.append([each.called_another for each in table.values()])
    assert np.mean(across, axis=0).max() < ALPHA
    assert np.mean(within, axis=0).max() > 2 * ALPHA


def test_everything_that_is_guaranteed_comes_from_the_parts_left_out() -> None:
    known = parts_that_differ()
    changes = fit_on_left_out(known, manifest(), alpha=ALPHA)
    temperature = fit_temperature(known.labels, known.probabilities)
    assert [each.temperature for each in changes["members"]] == [temperature] * 2
    assert changes["conformal"].smallest_plausible == by_hand(known.tempered(temperature)).smallest_plausible
    assert not changes.keys() & {"metrics", "name", "classes"}
    edge = changes["operating_points"]["balanced"]
    scores = temper(known.probabilities, temperature)[:, 1]
    called = {each.group: each.called["balanced"] for each in changes["subjects"]}
    assert called == {group: int((scores[known.groups == group] >= edge).sum()) for group in np.unique(known.groups)}
    found = figures_at(manifest().model_copy(update=changes), "balanced", subject_weighted=False)["sensitivity"]
    assert found["value"] == pytest.approx((scores[known.labels == 1] >= edge).mean(), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]


def test_the_card_says_what_was_asked_and_what_was_reached() -> None:
    changes = fit_on_left_out(parts_that_differ(), manifest(), alpha=ALPHA)
    text = card(manifest().model_copy(update=changes))
    row = changes["conformal"].left_out[0].classes["hem"]
    assert f"| fold_0 | hem | 15% | {row.called_another:.0%} | {row.decided:.0%} | {row.subjects} |" in text


def test_small_parts_are_judged_together() -> None:
    assert judged_parts(np.array(["a"] * 50 + ["b"] * 45 + ["c"] * 3 + ["d"] * 2)) == [["a"], ["b"], ["c", "d"]]


def test_a_part_is_judged_by_the_run_trained_on_most_cells(tmp_path: Path) -> None:
    """fold_2 is left out of both runs; the one that was trained on two parts is better."""
    settings = {"split": {"scheme": "parts", "test_parts": ["fold_2"]}}
    most = write_run(tmp_path / "most", settings=settings)
    few = {"split": {"scheme": "parts", "train_parts": ["fold_0"], "test_parts": ["fold_1", "fold_2"]}}
    least = write_run(tmp_path / "least", settings=few, strength=0.4)
    known = read_left_out([least, most])
    assert known is not None
    rows = [row for row in read_csv(most / "predictions.csv") if row["set"] == "test"]
    chances = sorted(float(row["prob_all"]) for row in rows)
    assert sorted(known.probabilities[known.parts == "fold_2", 1]) == pytest.approx(chances)
    assert set(known.parts.tolist()) == {"fold_1", "fold_2"}
    assert "fold_1" not in {row["part"] for row in rows}


def test_runs_that_leave_no_part_out_change_no_guarantee(tmp_path: Path) -> None:
    assert read_left_out([write_run(tmp_path / "kfold")]) is None
    assert read_left_out([]) is None


def test_other_classes_and_a_missing_class_are_named() -> None:
    known = parts_that_differ()
    strange = manifest().model_copy(update={"classes": ("normal", "blast"), "positive": "blast"})
    with pytest.raises(UsageError, match="normal, blast, the runs hem, all"):
        fit_on_left_out(known, strange, alpha=ALPHA)
    with pytest.raises(DataError, match="lack a class"):
        fit_on_left_out(known.pick(known.labels == 0), manifest(), alpha=ALPHA)
