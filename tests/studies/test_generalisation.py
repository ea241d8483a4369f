"""Sizes alike, and what a laboratory's cells bring: the numbers behind two studies."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from leukoscope.config import Experiment, shipped
from leukoscope.data.cells import Cell
from leukoscope.models.catalogue import build_network
from leukoscope.studies.adaptation_curve import _drawn, _halves, laboratories
from leukoscope.studies.generalisation import RECIPES, Answers, Test, Trained, equal_size_weights, measured
from leukoscope.studies.material import Material


@pytest.fixture
def material(tmp_path: Path) -> Material:
    """Cells of 24 subjects in two parts; blasts are larger, and in one part brighter as well."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(24), 30)
    label = (subject % 2).astype(int)
    size = np.exp(rng.normal(10, 0.2, len(subject)) + 0.2 * label)
    traits = np.column_stack([size, rng.normal(100, 5, (len(subject), 3))])
    parts = np.where(subject < 12, "one", "two")
    cells = [
        Cell(
            tmp_path / f"{row}.png",
            ("hem", "all")[label[row]],
            f"P{subject[row]:02}",
            str(parts[row]),
            "folder",
            f"{row}.png",
            f"{row:064}",
            64,
            64,
        )
        for row in range(len(subject))
    ]
    return Material(cells, traits, np.array([cell.subject for cell in cells]), tmp_path)


def test_with_equal_size_weights_size_alone_is_worth_nothing(material: Material) -> None:
    sizes, units = np.log(material.traits[:, 0]), material.groups
    weights = equal_size_weights(sizes, material.labels, units) / np.bincount(units)[units]
    assert roc_auc_score(material.labels, sizes) > 0.7
    assert roc_auc_score(material.labels, sizes, sample_weight=weights) == pytest.approx(0.5, abs=0.03)
    drawn = [
        np.random.default_rng(1).choice(sizes[own], 4000, p=weights[own] / weights[own].sum())
        for own in (material.labels == 0, material.labels == 1)
    ]
    assert ks_2samp(*drawn).statistic < 0.1


def test_the_study_gives_the_weighted_auroc_of_scikit_learn(material: Material) -> None:
    chances = np.clip(0.5 + 0.2 * (material.labels - 0.5) + np.random.default_rng(2).normal(0, 0.2, 720), 0, 1)
    answers = Answers(Test("all", np.arange(0), np.arange(720)), [chances])
    found = measured(material, {"it": answers})
    once = 1 / np.bincount(material.groups)[material.groups]
    alike = once * equal_size_weights(np.log(material.traits[:, 0]), material.labels, material.groups)
    for kind, weights in (("auroc", once), ("cells", np.ones(720)), ("sizes", alike)):
        expected = roc_auc_score(material.labels, chances, sample_weight=weights)
        assert found.interval(f"it.{kind}")["value"] == pytest.approx(expected, abs=1e-5)


def test_reviewed_cells_are_of_other_subjects_than_those_judged(material: Material) -> None:
    assert laboratories(material) == ["one", "two"]
    rows = np.flatnonzero(material.parts == "two")
    judged = []
    for read, asked in _halves(material, rows, seed=3):
        assert not set(material.groups[rows[read]]) & set(material.groups[rows[asked]])
        chosen = _drawn(material, rows, read, 50, np.random.default_rng(0))
        assert set(chosen) <= set(read)
        labels, groups = material.labels[rows[chosen]], material.groups[rows[chosen]]
        assert np.bincount(labels).tolist() == [25, 25]
        counts = np.unique(groups, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1, "subjects give as many cells each"
        judged += asked.tolist()
    assert sorted(judged) == list(range(len(rows)))


def test_stored_answers_are_found_under_the_keys_they_were_written_with() -> None:
    kinds = {recipe.name: recipe.key.partition(":")[0] for recipe in RECIPES}
    assert kinds["size alone"] == "OneFeature"
    assert kinds["frozen Lite0"] == "Frozen"
    assert kinds["crop and enlarged cell"] == "Stages"
    assert next(recipe.key for recipe in RECIPES if recipe.name == "fine-tune") == "Trained: {'settings': ()}"


def test_the_network_of_the_paper_starts_from_random_weights() -> None:
    """The recipe changes an experiment that names ImageNet weights, which seed-cnn does not have."""
    recipe = next(each for each in RECIPES if each.name == "seed-cnn")
    assert isinstance(recipe, Trained)
    experiment = Experiment.read(shipped("fine-tune"), overrides=recipe.settings)
    network = build_network(experiment.model, classes=2, size=experiment.prepare.size)
    assert sum(each.numel() for each in network.parameters()) == 44_049
