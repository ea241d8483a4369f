"""Tables at their limits: each gives a page that can be read, or one clear error and nothing written."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from leukoscope.cli import leukoscope
from leukoscope.errors import LeukoscopeError

N = 120
Columns = dict[str, np.ndarray]


def _table(**changed: np.ndarray) -> Columns:
    rng = np.random.default_rng(0)
    event, censored = np.ceil(rng.exponential(40, N)), np.ceil(rng.uniform(5, 60, N))
    columns = {
        "months": np.minimum(event, censored),
        "died": (event <= censored).astype(int),
        "stage": np.array(["I", "II", "III"])[rng.integers(0, 3, N)],
        "age": rng.normal(60, 10, N).round(),
        "start": np.zeros(N),
    }
    return columns | changed


def _fit(folder: Path, columns: Columns, *more: str, covariates: str = "age") -> Result:
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    (folder / "c.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    words = ["--time", "months", "--event", "died", "--stage", "stage", "--covariates", covariates]
    quick = ["--repeats", "1", "--bootstrap", "2", "-o", str(folder / "out")]
    return CliRunner().invoke(leukoscope, ["survival", "fit", str(folder / "c.csv"), *words, *quick, *more])


_HALF, _TENS = np.arange(N) < N // 2, np.arange(N) % 10
_RNG = np.random.default_rng(1)
_THREE = ("--events", "0=alive,1=relapse,2=death", "--competing", "death")
READABLE = {
    "all times equal": (_table(months=np.full(N, 5)), ()),
    "ties everywhere": (_table(months=_RNG.integers(1, 3, N)), ()),
    "many times of zero": (_table(months=np.where(_HALF, 0, _RNG.integers(1, 9, N))), ()),
    "every event at zero": (_table(months=np.where(_HALF, 0, 10), died=_HALF.astype(int)), ()),
    "some enter after they leave": (_table(start=_RNG.integers(0, 20, N)), ("--entry", "start")),
    "one patient": ({name: column[:1] for name, column in _table(died=np.ones(N, int)).items()}, ()),
    "one stage": (_table(stage=np.full(N, "I")), ()),
    "everybody had the event": (_table(died=np.ones(N, int)), ()),
    "a covariate known of nobody": (_table(age=np.full(N, "")), ()),
    "a covariate known of half": (_table(age=np.where(_HALF, "", np.arange(N).astype(str))), ()),
    "a competing event that never happens": (_table(), _THREE),
    "only the competing event": (_table(died=2 * _HALF.astype(int)), _THREE),
    "competing events and late entry": (
        _table(died=_RNG.integers(0, 3, N), start=_RNG.integers(0, 10, N)),
        (*_THREE, "--entry", "start"),
    ),
    "times near nothing": (_table(months=_RNG.exponential(1e-300, N)), ()),
    "nobody is followed beside anybody else": (
        _table(months=np.arange(1, N + 1), start=np.arange(1, N + 1) - 0.05),
        ("--entry", "start"),
    ),
    "one vast value of a covariate": (_table(age=np.where(np.arange(N) == 3, 1e11, 50 + np.arange(N) % 20)), ()),
    "a stage in which everybody dies early": (
        _table(
            stage=np.where(_HALF, "I", "III"),
            months=np.where(_HALF, 30 + _TENS, _TENS + 1),
            died=np.where(_HALF, _TENS > 4, 1),
        ),
        (),
    ),
}


@pytest.mark.parametrize("name", READABLE)
def test_a_table_at_its_limits_still_gives_a_page(name: str, tmp_path: Path) -> None:
    columns, more = READABLE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = _fit(tmp_path, columns, *more)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "survival.html").read_text()
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)
    json.loads((tmp_path / "out" / "survival.json").read_text())


REFUSED = {
    "a time below zero": (_table(months=np.where(np.arange(N) == 3, -1, 5)), (), r"below zero: '-1' \(line 5\)"),
    "all enter after they leave": (_table(start=np.full(N, 100)), ("--entry", "start"), "no row can be used"),
    "nobody had the event": (_table(died=np.zeros(N, int)), (), "nobody had the event"),
    "no time is known": (_table(months=np.full(N, "")), (), "no row can be used"),
    "no stage is known": (_table(stage=np.full(N, "")), (), "no row can be used"),
    "times without end": (_table(months=np.full(N, 1e300)), (), "above a million"),
    "an infinite time": (_table(months=np.where(np.arange(N) == 3, "inf", "5")), (), r"'inf' \(line 5\)"),
    "every event is left out": (
        _table(start=np.where(_table()["died"] == 1, 999, 0)),
        ("--entry", "start"),
        "nobody had the event in the",
    ),
    "a date": (_table(months=np.full(N, "2020-01-01")), (), "text where numbers are needed"),
    "a vast covariate": (_table(age=np.where(np.arange(N) == 3, 1e308, 50)), (), r"beyond a trillion: .* \(line 5\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_makes_no_sense_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    columns, more, message = REFUSED[name]
    result = _fit(tmp_path, columns, *more)
    assert isinstance(result.exception, LeukoscopeError)
    with pytest.raises(LeukoscopeError, match=message):
        raise result.exception
    assert not (tmp_path / "out").exists()


def test_a_covariate_that_separates_is_named(tmp_path: Path) -> None:
    columns = _table()
    early = ((columns["months"] < 10) & (columns["died"] == 1)).astype(int)
    result = _fit(tmp_path, {**columns, "early": early}, covariates="age,early")
    assert result.exit_code == 0, result.output
    assert "'early' separates patients with the event from those without" in result.output


def test_a_category_that_separates_is_named_with_its_patients(tmp_path: Path) -> None:
    columns = _table()
    marker = np.where((columns["died"] == 1) | (np.arange(N) < 5), "yes", "no")
    result = _fit(tmp_path, {**columns, "marker": marker}, covariates="age,marker")
    assert result.exit_code == 0, result.output
    patients = int((marker == "no").sum())
    named = f"'marker' = no: none of {patients} patients had the event, so its hazard ratio cannot be estimated"
    assert named in result.output


def test_a_number_that_separates_is_named(tmp_path: Path) -> None:
    """Whoever dies next has the highest value of all at risk, as where a column follows from the time itself."""
    columns = _table()
    result = _fit(tmp_path, {**columns, "marker": 100 - columns["months"]}, covariates="age,marker")
    assert result.exit_code == 0, result.output
    assert "'marker' separates patients with the event from those without" in result.output


def test_what_incomplete_cases_cost_is_said_column_by_column(tmp_path: Path) -> None:
    columns = _table(age=np.where(_HALF, "", np.arange(N).astype(str)))
    result = _fit(tmp_path, columns)
    assert "The model uses 60 of 120 patients (50 % are excluded; age unknown: 60)" in result.output
    page = (tmp_path / "out" / "survival.html").read_text()
    assert "Nothing was imputed" in page
    assert "A Cox model: 60 patients of 120 (complete cases; 60 are left out, see the limits)" in page
    assert "60 patients of 120 (those with every value known) in c.csv" in page
    assert json.loads((tmp_path / "out" / "model.json").read_text())["facts"]["patients"] == 60
