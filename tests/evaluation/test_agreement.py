"""Agreement of readers, against scikit-learn and statsmodels."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, cohens_kappa, fleiss_kappa

from leukoscope.evaluation.compare import COHEN, FLEISS, agreement

LABELS = np.array(["blast", "normal", "unsure", "not_a_cell"])


def read(rng: np.random.Generator, *, cells: int, readers: int, error: float) -> np.ndarray:
    """Return labels (cells, readers) of readers who each err on their own."""
    true = rng.choice(4, p=[0.5, 0.35, 0.1, 0.05], size=(cells, 1))
    codes = np.where(rng.random((cells, readers)) < error, rng.integers(0, 4, (cells, readers)), true)
    return LABELS[codes]


@pytest.mark.parametrize("seed", range(20))
def test_cohens_kappa_is_that_of_scikit_learn_and_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = read(rng, cells=int(rng.integers(5, 200)), readers=2, error=float(rng.uniform(0.1, 0.9)))
    found = agreement(rows.tolist(), [str(cell % 7) for cell in range(len(rows))], named=True)
    codes = np.unique(rows, return_inverse=True)[1].reshape(rows.shape)
    table = np.zeros((codes.max() + 1,) * 2)
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    assert found["statistic"] == COHEN
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(rows[:, 0], rows[:, 1]), abs=1e-6)
    assert found["kappa"]["value"] == pytest.approx(cohens_kappa(table).kappa, abs=1e-6)
    assert found["percent"]["value"] == pytest.approx((rows[:, 0] == rows[:, 1]).mean(), abs=1e-6)


@pytest.mark.parametrize("readers", [2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_fleiss_kappa_is_that_of_statsmodels(seed: int, readers: int) -> None:
    rng = np.random.default_rng(seed)
    rows = read(rng, cells=int(rng.integers(5, 200)), readers=readers, error=float(rng.uniform(0.1, 0.9)))
    found = agreement(rows.tolist(), [str(cell % 7) for cell in range(len(rows))], named=False)
    codes = np.unique(rows, return_inverse=True)[1].reshape(rows.shape)
    assert found["statistic"] == FLEISS
    assert found["kappa"]["value"] == pytest.approx(fleiss_kappa(aggregate_raters(codes)[0]), abs=1e-6)


def test_with_many_independent_cells_the_interval_is_the_asymptotic_one() -> None:
    """Leaving out cells, which are independent here, gives the standard error of Fleiss, Cohen and Everitt (1969)."""
    rows = read(np.random.default_rng(3), cells=2000, readers=2, error=0.4)
    found = agreement(rows.tolist(), ["one patient"] * len(rows), named=True)
    codes = np.unique(rows, return_inverse=True)[1].reshape(rows.shape)
    table = np.zeros((4, 4))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    other = cohens_kappa(table)
    assert found["unit"] == "cells"
    assert found["kappa"]["low"] == pytest.approx(other.kappa_low, abs=0.004)
    assert found["kappa"]["high"] == pytest.approx(other.kappa_upp, abs=0.004)


def test_subjects_are_the_clusters() -> None:
    """Each cell of twelve subjects copied ten times tells no more of other subjects than one cell of each did."""
    rows = read(np.random.default_rng(1), cells=12, readers=2, error=0.5)
    subjects = [f"P{number}" for number in range(12)]
    once, often = (
        agreement(np.repeat(rows, times, axis=0).tolist(), list(np.repeat(subjects, times)), named=True)
        for times in (1, 10)
    )
    assert once["unit"] == often["unit"] == "subjects"
    for name in ("percent", "kappa"):
        assert once[name] == pytest.approx(often[name], abs=1e-6)
    alone = agreement(np.repeat(rows, 10, axis=0).tolist(), ["P"] * 120, named=True)
    assert alone["kappa"]["high"] - alone["kappa"]["low"] < 0.6 * (often["kappa"]["high"] - often["kappa"]["low"])


def test_the_interval_holds_the_true_kappa_of_clustered_cells() -> None:
    """Errors are correlated within subjects: at least nine in ten intervals contain the kappa of very many cells."""
    error, held, rounds = (0.05, 0.6), 0, 200

    def drawn(rng: np.random.Generator, subjects: int) -> tuple[np.ndarray, np.ndarray]:
        hard = rng.random(subjects) < 0.4
        rows = [read(rng, cells=20, readers=2, error=error[int(each)]) for each in hard]
        return np.concatenate(rows), np.repeat(np.arange(subjects), 20)

    rows, _ = drawn(np.random.default_rng(10_000), 20_000)
    true = cohen_kappa_score(rows[:, 0], rows[:, 1])
    for seed in range(rounds):
        rows, of = drawn(np.random.default_rng(seed), 12)
        kappa = agreement(rows.tolist(), of.astype(str).tolist(), named=True)["kappa"]
        held += kappa["low"] <= true <= kappa["high"]
    assert held / rounds >= 0.90


def test_what_chance_alone_would_do_as_well_has_no_kappa() -> None:
    found = agreement([["blast", "blast"]] * 8, [f"P{number}" for number in range(8)], named=True)
    assert found["kappa"] == {"value": None, "low": None, "high": None}
    assert found["percent"]["value"] == 1
    assert found["percent"]["low"] < 0.7, "eight equal answers are not certainty"
    assert agreement([], [], named=True)["percent"]["value"] is None


def test_readers_who_never_differ_have_a_kappa_of_one_without_an_interval() -> None:
    rows = [["blast", "blast"], ["normal", "normal"]] * 4
    assert agreement(rows, list("aabbccdd"), named=True)["kappa"] == {"value": 1.0, "low": None, "high": None}


@pytest.mark.parametrize(("subjects", "unit"), [("aaaaa", "cells"), ("abcde", "subjects")])
def test_a_kappa_that_nobody_left_out_moves_has_no_interval(subjects: str, unit: str) -> None:
    """Beside a reader who calls everything a blast, kappa is 0 whatever the other says: five cells show nothing."""
    rows = [["blast", "blast"], *[["blast", "normal"]] * 2, *[["blast", "unsure"]] * 2]
    found = agreement(rows, list(subjects), named=True)
    assert found["unit"] == unit
    assert found["kappa"] == {"value": 0.0, "low": None, "high": None}
    assert found["percent"]["low"] < found["percent"]["value"] < found["percent"]["high"]


def test_a_share_that_is_the_same_in_every_subject_has_no_interval() -> None:
    rows = [["blast", "blast"], ["normal", "normal"], ["blast", "normal"], ["normal", "blast"]] * 3
    found = agreement(rows, list("aaaabbbbcccc"), named=True)
    assert found["percent"] == {"value": 0.5, "low": None, "high": None}
    assert found["kappa"] == {"value": 0.0, "low": None, "high": None}
