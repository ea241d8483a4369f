"""The whole path on the command line: from a CSV to survival.html, and from its model to an answer."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from leukoscope.cli import leukoscope
from leukoscope.errors import LeukoscopeError, UsageError
from leukoscope.report.survival import lines_of_c_index, verdict, write_page
from leukoscope.survival.cohort import describe
from leukoscope.survival.scores import judge, optimism
from leukoscope.survival.study import choose_horizons, compare, run_study
from leukoscope.survival.table import Horizon, StudySettings

from .conftest import drawn

Call = Callable[..., Result]
QUICK = ("--repeats", "1", "--bootstrap", "3")


@pytest.fixture
def call() -> Call:
    def run(*words: str) -> Result:
        return CliRunner().invoke(leukoscope, ["survival", *words])

    return run


def _write(path: Path, *, competing: bool = False, patients: int = 150) -> Path:
    cohort = drawn(patients, seed=3, competing=competing)
    rows = [
        f"P{row},{cohort.stages[cohort.stage[row]]},{cohort.time[row]},{cohort.state[row]},{cohort.covariates['age'][row]:.0f}"
        for row in range(patients)
    ]
    path.write_text("\n".join(["patient,<b>stage,months,died,age", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    words = ["fit", str(_write(folder / "cohort.csv")), "--time", "months", "--event", "died", "--stage", "<b>stage"]
    result = CliRunner().invoke(
        leukoscope, ["survival", *words, "--covariates", "age", *QUICK, "-o", str(folder / "out")]
    )
    assert result.exit_code == 0, result.output
    return folder / "out"


def test_fit_writes_numbers_model_figures_and_page(fitted: Path) -> None:
    names = {path.relative_to(fitted).as_posix() for path in fitted.rglob("*.*")}
    assert {"survival.json", "model.json", "survival.html", "run.json", "figures/survival.svg"} <= names
    result = json.loads((fitted / "survival.json").read_text())
    assert result["format"] == 1
    assert result["comparison"]["tests"]["logrank"]["df"] == 2
    assert {"model", "stage alone", "no covariates"} <= set(result["judgement"]["estimators"])


class _Page(HTMLParser):
    """Collects what a page would load from elsewhere, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "link", "img", "iframe", "object"}:
            self.loads.append(tag)
        if tag == "b" and ("", None) in attrs:
            self.loads.append("raw markup")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(path: Path) -> tuple[_Page, str]:
    page = _Page()
    page.feed(path.read_text())
    return page, " ".join(" ".join(page.text).split())


def test_the_page_stands_alone_and_says_what_it_is_not_for(fitted: Path) -> None:
    page, text = _read(fitted / "survival.html")
    assert page.loads == []
    assert "not for decisions about a patient" in text
    assert "TRIPOD+AI" in text
    assert "Model card" in text
    assert re.search(r"\d+ are alive after .*; between \d+ and \d+\.", text)


def test_names_from_the_table_are_escaped_on_the_page(fitted: Path) -> None:
    raw = (fitted / "survival.html").read_text()
    assert "<b>stage I" not in raw
    assert "&lt;b&gt;stage" in raw


def test_no_figure_id_stands_twice_on_the_page(fitted: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', (fitted / "survival.html").read_text())
    assert len(ids) == len(set(ids))


def test_predict_answers_from_the_folder_that_fit_wrote(call: Call, fitted: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curve.svg"
    result = call(
        "predict", str(fitted), "--stage", "II", "--age=60", "--horizons", "1 year", "--picture", str(picture)
    )
    assert result.exit_code == 0, result.output
    assert "Of 100 patients like this one" in result.output
    assert "<svg" in picture.read_text()
    told = call("predict", str(fitted), "--stage", "II", "--age", "60", "--json")
    assert json.loads(told.output)["horizons"][0]["survival"]["value"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("TABLE", "--stage", "II"), "cannot be combined with a TABLE"),
        (("TABLE", "--picture", "x.svg"), "draws one patient"),
        (("TABLE", "--json", "-o", "x.csv"), "Leave out one of them"),
        (("--stage", "II", "--age", "60", "--age", "61"), "--age is given twice"),
        (("--stage", "II", "--age", "60", "--Age", "61"), "age is given twice"),
        (("--stage", "--age", "60"), "not followed by a value"),
    ],
)
def test_options_that_would_have_no_effect_are_errors(
    call: Call, fitted: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "t.csv").write_text("stage,age\nII,60\n")
    result = call("predict", str(fitted), *(str(tmp_path / "t.csv") if word == "TABLE" else word for word in words))
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_a_table_is_answered_on_the_screen_in_json_and_as_a_file(call: Call, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("stage,age\nII,60\nIII,99\n")
    told = call("predict", str(fitted), str(tmp_path / "t.csv"))
    assert told.output.count("Median survival") == 2
    assert "Line 3:" in told.output
    assert "Warning: age 99 is outside" in told.output
    assert told.output.endswith("Research use, not a diagnosis; not for decisions about a patient.\n")
    plain = call("predict", str(fitted), str(tmp_path / "t.csv"), "--json")
    assert len(json.loads(plain.output)) == 2
    assert call("predict", str(fitted), "--stage", "II", "--age", "60", "-o", str(tmp_path / "p.csv")).exit_code == 0
    assert (tmp_path / "p.csv").read_text().startswith("stage,age,horizon,time,survival,survival low,survival high,")


def test_predict_past_the_data_gives_no_number(call: Call, fitted: Path) -> None:
    result = call("predict", str(fitted), "--stage", "II", "--age", "60", "--horizons", "40 years")
    assert result.exit_code == 0
    assert "no number" in result.output


def test_competing_events_make_a_page_too(call: Call, tmp_path: Path) -> None:
    path = _write(tmp_path / "c.csv", competing=True)
    result = call(
        "fit",
        str(path),
        "--time",
        "months",
        "--event",
        "died",
        "--stage",
        "<b>stage",
        "--covariates",
        "age",
        *QUICK,
        "--events",
        "0=censored,1=relapse,2=death",
        "--competing",
        "death",
        "-o",
        str(tmp_path / "out"),
    )
    assert result.exit_code == 0, result.output
    _, text = _read(tmp_path / "out" / "survival.html")
    assert "Gray's test" in text
    assert "Pair by pair: relapse" in text
    assert "curves for any event (relapse or death): p" in text.lower()
    assert "Median time to the first event of any kind" in text
    assert "Gray's test, relapse: χ²" in result.output
    assert "Log-rank test, relapse or death: χ²" in result.output
    assert "Research use, not a diagnosis" in result.output
    told = call("predict", str(tmp_path / "out"), "--stage", "II", "--age", "60")
    assert "Median time to the first event of any kind (relapse or death): " in told.output
    assert "Fine and Gray" in text
    assert "have relapsed" in text
    relapses = sum(line.split(",")[3] == "1" for line in path.read_text().splitlines())
    assert json.loads((tmp_path / "out" / "model.json").read_text())["facts"]["events"] == relapses


@pytest.mark.parametrize(
    ("patients", "said"),
    [(5, "at least 10 are needed"), (14, "fewer than 2 each|at least 10 are needed|too few to test")],
)
def test_a_handful_of_patients_gets_curves_and_a_plain_limit(
    call: Call, tmp_path: Path, patients: int, said: str
) -> None:
    path = _write(tmp_path / "c.csv", patients=patients)
    words = ("--time", "months", "--event", "died", "--stage", "<b>stage", "--covariates", "age", *QUICK)
    result = call("fit", str(path), *words, "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert re.search(said, result.output)
    _, text = _read(tmp_path / "out" / "survival.html")
    assert "What this page cannot say" in text


def test_a_bad_table_ends_with_an_error_and_writes_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("months,died,stage\n-3,1,I\n4,0,II\n")
    result = call(
        "fit",
        str(tmp_path / "c.csv"),
        "--time",
        "months",
        "--event",
        "died",
        "--stage",
        "stage",
        "-o",
        str(tmp_path / "out"),
    )
    assert isinstance(result.exception, LeukoscopeError)
    assert not (tmp_path / "out").exists()


def test_one_stage_is_described_and_not_compared() -> None:
    cohort = drawn(120)
    one = cohort.take(cohort.stage == 1)
    alone = StudySettings(time="months", event="died", stage="stage", repeats=1, bootstrap=0)
    single = replace(one, stages=("II",), stage=np.zeros(len(one), dtype=np.int64), covariates={})
    result = run_study(single, alone).result
    assert result["comparison"]["tests"] == {}
    assert any("only one stage" in limit for limit in result["limits"])
    assert any("nothing to rank by" in limit for limit in result["limits"])


def test_a_stage_without_events_gets_limits_that_its_patients_allow_and_no_false_precision() -> None:
    cohort = drawn(120)
    quiet = replace(cohort, state=np.where(cohort.stage == 0, 0, cohort.state))
    found = compare(quiet, horizons=(Horizon(12.0, "one year"),))
    entry = found["stages"]["I"]["horizons"][0]
    followed = int(((quiet.stage == 0) & (quiet.time >= 12)).sum())
    assert entry["survival"]["low"] == pytest.approx(0.05 ** (1 / followed))
    assert f"{followed} patients were followed that far" in entry["text"]
    assert found["stages"]["I"]["restricted_mean"]["low"] is None
    differences = {tuple(d["stages"]): d["p_holm"] for d in found["restricted_mean"]["differences"]}
    assert differences["I", "II"] is None
    assert differences["II", "III"] is not None


def test_every_figure_of_the_judgement_has_an_interval_around_it() -> None:
    cohort = drawn(200)
    settings = StudySettings(time="months", event="died", stage="stage")
    judged = judge(cohort, horizons=choose_horizons(cohort, settings), folds=4, repeats=2, rng=np.random.default_rng(0))
    for figure in judged["estimators"]["model"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert judged["estimators"]["no covariates"]["c_index"]["value"] == pytest.approx(0.5)
    assert judged["estimators"]["model"]["c_index"]["value"] > judged["estimators"]["no covariates"]["c_index"]["value"]


def test_the_same_seed_gives_the_same_judgement() -> None:
    cohort = drawn(100)
    settings = StudySettings(time="months", event="died", stage="stage", horizons=("12",))
    horizons = choose_horizons(cohort, settings)
    one, two = (judge(cohort, horizons=horizons, folds=3, repeats=1, rng=np.random.default_rng(7)) for _ in range(2))
    assert one == two


def test_noise_looks_good_on_its_own_patients_and_optimism_says_so() -> None:
    rng = np.random.default_rng(0)
    cohort = drawn(80)
    noisy = replace(cohort, covariates={f"noise{place}": rng.normal(size=80) for place in range(6)})
    horizons = choose_horizons(noisy, StudySettings(time="months", event="died", stage="stage", horizons=("12",)))
    found = optimism(noisy, horizons=horizons, samples=15, rng=rng)
    assert found is not None
    assert found["c_index"]["optimism"] > 0.01
    assert found["c_index"]["corrected"] < found["c_index"]["apparent"]


def test_a_landmark_is_said_on_the_page_and_in_every_answer(call: Call, tmp_path: Path) -> None:
    words = ("--time", "months", "--event", "died", "--stage", "<b>stage", "--covariates", "age", *QUICK)
    result = call("fit", str(_write(tmp_path / "c.csv")), *words, "--landmark", "3 months", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    _, text = _read(tmp_path / "out" / "survival.html")
    assert "from three months after the start" in text
    assert "Landmark analysis: times count from 3 months" in text
    told = call("predict", str(tmp_path / "out"), "--stage", "II", "--age", "60")
    assert "Times count from three months after the start" in told.output


def test_times_free_and_lost_add_to_the_whole_and_differ_as_their_stages(call: Call, tmp_path: Path) -> None:
    cohort = drawn(300, competing=True)
    found = compare(cohort, horizons=(Horizon(24.0, "two years"),))
    until = found["restricted_mean"]["until"]
    for stage in found["stages"].values():
        lost = sum(stage["time_lost"][event]["value"] for event in cohort.events)
        assert stage["restricted_mean"]["value"] + lost == pytest.approx(until)
    first, second = (found["stages"][name]["time_lost"]["relapse"]["value"] for name in ("I", "II"))
    gap = found["time_lost"]["relapse"][0]
    assert gap["stages"] == ["I", "II"]
    assert gap["value"] == pytest.approx(second - first)
    assert gap["p_holm"] >= gap["p"]


def test_the_page_says_how_many_patients_riley_s_criteria_ask_for(fitted: Path) -> None:
    size = json.loads((fitted / "survival.json").read_text())["model"]["size"]
    assert size["patients"] == max(size["shrink"], size["optimism"], size["risk"])
    _, text = _read(fitted / "survival.html")
    assert f"Riley's criteria ask for {size['patients']:,} patients" in text


def test_a_spline_is_drawn_and_said_in_words(call: Call, tmp_path: Path) -> None:
    path = _write(tmp_path / "c.csv", patients=300)
    words = ("--time", "months", "--event", "died", "--stage", "<b>stage", "--covariates", "spline(age)", *QUICK)
    result = call("fit", str(path), *words, "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    _, text = _read(tmp_path / "out" / "survival.html")
    assert re.search(r"\(the quartiles\): hazard ratio \d\.\d+ \(\d\.\d+ to \d\.\d+\)\. (It|That it) bends", text)
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"spline-1-1.svg", "nomogram.svg", "decision-1.svg", "effect-1-1.svg"} <= names
    raw = json.loads((tmp_path / "out" / "survival.json").read_text())
    assert {row["bends"] for row in raw["model"]["causes"][0]["ratios"]} == {True, False}
    assert "bend 1" not in re.sub(r"Does an effect change over time.*", "", text.split("Are the ratios")[0])


def _ordered(counts: dict[str, tuple[float, int]], *, seed: int, **changed: object) -> dict[str, object]:
    """Compare ordered stages, given by mean time to the event and number of patients, all followed to it."""
    rng = np.random.default_rng(seed)
    times = [rng.exponential(mean, number) + 0.01 for mean, number in counts.values()]
    stage = np.repeat(np.arange(len(counts)), [number for _, number in counts.values()])
    cohort = replace(
        drawn(len(stage)),
        time=np.concatenate(times),
        state=np.ones(len(stage), dtype=np.int64),
        stage=stage,
        stages=tuple(counts),
        covariates={},
        **changed,
    )
    comparison = compare(cohort, horizons=(Horizon(5.0, "five months"),))
    return {"comparison": comparison, "cohort": describe(cohort)}


def test_the_headline_says_both_where_stages_differ_but_no_trend_is_shown() -> None:
    """Stage II is the worst, so the global test sees what a trend from I to III cannot."""
    result = _ordered({"I": (20, 100), "II": (4, 100), "III": (20, 100)}, seed=1)
    tests = result["comparison"]["tests"]
    assert tests["logrank"]["p"] < 1e-6
    assert tests["trend"]["p"] > 0.05
    said = verdict(result)
    assert said.startswith("The stages differ (the log-rank test of equal survival in all stages: p below 0.0001).")
    assert "But no trend from I to III is shown" in said


def test_the_headline_does_not_claim_a_difference_that_only_the_trend_shows() -> None:
    means = {name: (12 - place, 45) for place, name in enumerate(("I", "II", "III", "IV"))}
    result = next(
        found
        for found in (_ordered(means, seed=seed) for seed in range(200))
        if found["comparison"]["tests"]["logrank"]["p"] > 0.05 > found["comparison"]["tests"]["trend"]["p"]
    )
    said = verdict(result)
    assert said.startswith("No difference between the stages is shown (the log-rank test of equal survival")
    assert "Yet a trend from I to IV is shown" in said


def test_with_late_entry_the_headline_tests_the_event_that_it_names() -> None:
    cohort = drawn(400, competing=True)
    late = replace(cohort, entry=cohort.time * 0.2)
    tests = compare(late, horizons=(Horizon(12.0, "one year"),))["tests"]
    assert tests["primary"]["of"] == "equal incidence of relapse in all stages"
    assert tests["primary"]["p"] == tests["gray"]["relapse"]["p"]
    assert tests["primary"]["p"] != tests["logrank"]["p"]
    assert "late entry" in tests["primary"]["name"]


def test_a_horizon_past_the_follow_up_is_shown_but_not_judged() -> None:
    settings = StudySettings(
        time="months", event="died", stage="stage", horizons=("12", "1000"), folds=3, repeats=1, bootstrap=3
    )
    result = run_study(drawn(200), settings).result
    assert [horizon["time"] for horizon in result["horizons"]] == [12, 1000]
    assert [at["time"] for at in result["judgement"]["calibration"]] == [12]


@pytest.mark.parametrize(("covariates", "said"), [((), 1), (("age",), 0)])
def test_a_model_of_stage_alone_is_told_from_the_curves_of_the_stages(
    covariates: tuple[str, ...], said: int, tmp_path: Path
) -> None:
    """Without covariates the model is Cox by stage, whose C-index can differ from that of the observed curves."""
    cohort = drawn(120)
    cohort = replace(cohort, covariates={name: cohort.covariates[name] for name in covariates})
    settings = StudySettings(
        time="months", event="died", stage="stage", covariates=covariates, folds=2, repeats=1, bootstrap=0
    )
    result = run_study(cohort, settings).result
    write_page(tmp_path, result)
    page, terminal = (tmp_path / "survival.html").read_text(), " ".join(lines_of_c_index(result))
    for text in (page, terminal):
        assert text.count("Both know nothing but the stage.") == said
    assert "Cox model: 0." in terminal
    assert "stage alone (observed curve of each stage): 0." in terminal


@pytest.mark.parametrize("folds", [1, 21])
def test_cross_validation_needs_two_folds_at_least(folds: int) -> None:
    with pytest.raises(ValidationError, match="folds"):
        StudySettings(time="months", event="died", stage="stage", folds=folds)
