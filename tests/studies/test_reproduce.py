"""Every study runs in small on synthetic cells, says so, goes on where it was stopped, and gives numbers that hold."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from click.testing import CliRunner, Result
from scipy.stats import ttest_1samp, ttest_rel
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from leukoscope.cli import leukoscope
from leukoscope.files import read_json
from leukoscope.studies import transfer
from leukoscope.studies.material import folds_by
from leukoscope.studies.study import Bench, Given, StudySize, Truth, find, names, over_seeds, sampled

# Enough for every path; the numbers mean nothing.
SMALL = ("--synthetic", "144", "--seeds", "2", "--images", "120", "--size", "32", "--epochs", "2", "--offline")


# One recipe of each kind; all of them take minutes.
RECIPES = (
    "frozen Lite0",
    "frozen Lite0, optical density",
    "crop and enlarged cell, logistic",
    "crop and enlarged cell",
)
MORE = {"generalisation": [word for recipe in RECIPES for word in ("--recipe", recipe)]}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all studies, so that cells and features are made once."""
    return tmp_path_factory.mktemp("evidence")


def reproduce(name: str, out: Path, *options: str) -> Result:
    return CliRunner().invoke(leukoscope, ["reproduce", name, "-o", str(out), *(options or SMALL)])


def numbers_in(value: Any) -> list[dict[str, Any]]:
    """Return every number with an interval in a JSON table."""
    if isinstance(value, dict):
        inside = [each for child in value.values() for each in numbers_in(child)]
        return [value, *inside] if {"value", "low", "high"} <= value.keys() else inside
    return [each for child in value for each in numbers_in(child)] if isinstance(value, list) else []


@pytest.fixture
def two_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transfer compare two networks: five, of up to 54 million parameters, take minutes."""
    few = {name: transfer.BACKBONES[name] for name in ("EfficientNet-Lite0", "InceptionV3")}
    monkeypatch.setattr(transfer, "BACKBONES", few)


@pytest.mark.usefixtures("two_backbones")
@pytest.mark.parametrize("name", names())
def test_a_study_writes_a_page_that_says_what_it_is(name: str, out: Path) -> None:
    result = reproduce(name, out, *SMALL, *MORE.get(name, []))
    assert result.exit_code == 0, result.output
    page, found = (out / f"{name}.md").read_text(), read_json(out / f"{name}.json")
    assert find(name).claim in page
    assert "**Answer.** " + found["answer"] in page
    assert "Made small" in page
    assert "Synthetic cells" in page
    assert f"leukoscope reproduce {name} --synthetic 144" in page
    assert str(out) not in page + (out / f"{name}.json").read_text()
    assert all((out / figure).read_text().startswith("<?xml") for figure in re.findall(r"\]\(([^)]+\.svg)\)", page))
    measured = numbers_in(found)
    assert measured
    for number in measured:
        if number["low"] is not None:
            assert number["low"] <= number["value"] <= number["high"]


def test_transfer_compares_networks_that_exist() -> None:
    assert {model.removeprefix("timm:") for model in transfer.BACKBONES.values()} <= set(timm.list_models())


def test_a_finished_arm_is_not_run_again(out: Path) -> None:
    assert reproduce("leak", out).exit_code == 0
    again = reproduce("leak", out)
    assert again.exit_code == 0
    assert "seed" not in again.stderr


def test_a_lost_arm_is_run_again_and_no_other(out: Path) -> None:
    assert reproduce("leak", out).exit_code == 0
    page = (out / "leak.md").read_text()
    lost = sorted((out / "work" / "leak").glob("*.json"))[0]
    before = read_json(lost)["result"]
    lost.write_text("{")  # as a full disk might leave it
    again = reproduce("leak", out)
    assert again.stderr.count("leak: ") == 1
    assert read_json(lost)["result"] == before
    assert (out / "leak.md").read_text() == page


def test_an_arm_with_other_settings_is_run_anew(tmp_path: Path) -> None:
    study = find("leak")
    bench = Bench(study, Given(synthetic=48), StudySize(seeds=1, size=32), tmp_path, print)
    assert bench.kept("arm", {"seed": 0}, lambda: 1) == 1
    assert bench.kept("arm", {"seed": 0}, lambda: 2) == 1
    assert bench.kept("arm", {"seed": 1}, lambda: 3) == 3


def test_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, groups, chance = rng.integers(0, 2, 200), rng.integers(0, 20, 200), rng.random(200)
    found = sampled(Truth(labels, groups), {"arm": [np.stack([1 - chance, chance], axis=1)]})
    assert found.point["arm.auroc"] == pytest.approx(roc_auc_score(labels, chance))
    assert found.point["arm.balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, chance >= 0.5))


def test_a_difference_over_seeds_is_paired() -> None:
    """Two arms that differ by the same step in every seed differ by it for sure, however far the seeds lie apart."""
    found = over_seeds({"a": [0.1, 0.5, 0.9], "b": [0.2, 0.6, 1.0]})
    difference = found.difference("b", "a")
    assert (difference["low"], difference["high"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_limits_over_seeds_are_those_of_a_t_test_and_of_an_exact_binomial_test() -> None:
    values = [0.71, 0.64, 0.78]
    found = over_seeds({"auroc": values, "one_class": [0, 0, 0], "other": [0.70, 0.66, 0.71]})
    number, expected = found.interval("auroc"), ttest_1samp(values, 0).confidence_interval()
    assert (number["low"], number["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    gain = found.difference("auroc", "other")
    paired = ttest_rel(values, [0.70, 0.66, 0.71]).confidence_interval()
    assert (gain["low"], gain["high"]) == (pytest.approx(paired.low), pytest.approx(paired.high))
    assert found.interval("one_class") == {"value": 0, "low": 0, "high": pytest.approx(1 - 0.025 ** (1 / 3))}
    assert over_seeds({"auroc": [0.7]}).interval("auroc")["low"] is None


def test_grouped_folds_share_no_group() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 15, 150)
    for train, test in folds_by(groups, groups % 2, seed=0):
        assert not set(groups[train]) & set(groups[test])


def test_the_list_shows_every_study_with_its_claim() -> None:
    listed = CliRunner().invoke(leukoscope, ["reproduce", "--list"]).stdout
    assert all(name in listed and find(name).claim in listed for name in names())


def test_an_unknown_study_is_answered_with_the_nearest(out: Path) -> None:
    result = CliRunner().invoke(leukoscope, ["reproduce", "leek", "--synthetic", "48", "-o", str(out)])
    assert "Did you mean 'leak'?" in str(result.exception)


def test_without_images_a_study_says_how_to_get_some(tmp_path: Path) -> None:
    result = CliRunner().invoke(leukoscope, ["reproduce", "leak", "-o", str(tmp_path)])
    assert "--synthetic 600" in str(result.exception)
