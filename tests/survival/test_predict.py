"""Answers for one patient: within the data, at their end, past it; by covariates or by the curve of the stage."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import binomtest

from leukoscope.cli import leukoscope
from leukoscope.errors import DataError, LeukoscopeError, UnknownNameError, UsageError
from leukoscope.survival.cohort import Cohort
from leukoscope.survival.cox import make_design
from leukoscope.survival.curves import kaplan_meier, median, risk_table
from leukoscope.survival.fitting import fit_aft, fit_model
from leukoscope.survival.model import SurvivalModel, patient_curves, read_model, write_model
from leukoscope.survival.predict import answer, as_json, ask, ask_table, fields_of, write_predictions
from leukoscope.survival.study import compare
from leukoscope.survival.table import Horizon, read_table

from .conftest import drawn, table

TWO_YEARS, THIRTY_YEARS = Horizon(24.0, "two years"), Horizon(360.0, "thirty years")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return drawn(300)


@pytest.fixture(scope="module")
def model(cohort: Cohort) -> SurvivalModel:
    design = make_design(cohort, stages=cohort.stages)
    return replace(fit_model(cohort).model, horizons=((24.0, "two years"),), extrapolation=fit_aft(design))


def test_the_answer_is_a_sentence_with_its_limits(model: SurvivalModel) -> None:
    answer = ask(model, {"stage": "II", "age": "60"}).answers[0]
    assert answer.survival is not None
    assert answer.survival.low < answer.survival.value < answer.survival.high
    value, low, high = (
        round(100 * share) for share in (answer.survival.value, answer.survival.low, answer.survival.high)
    )
    assert answer.text == f"Of 100 patients like this one, {value} are alive after two years; between {low} and {high}."


def test_past_the_last_follow_up_no_number_is_invented(model: SurvivalModel) -> None:
    answer = ask(model, {"stage": "II", "age": "60"}, horizons=[THIRTY_YEARS]).answers[0]
    assert answer.survival is None
    assert answer.incidence == {}
    assert "no number" in answer.text


def test_an_extrapolated_number_is_marked_as_such(model: SurvivalModel) -> None:
    patient = {"stage": "II", "age": "60"}
    within, past = ask(model, patient, horizons=[TWO_YEARS, THIRTY_YEARS], extrapolate=True).answers
    assert not within.extrapolated
    assert past.extrapolated
    assert "an assumption, not an observation" in past.text


def test_a_graver_stage_has_the_lower_survival(model: SurvivalModel) -> None:
    first, second, third = (ask(model, {"stage": stage, "age": "60"}).answers[0].survival for stage in model.stages)
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.value > second.value > third.value


def test_a_value_outside_what_was_seen_is_answered_with_a_warning(model: SurvivalModel) -> None:
    assert "outside the range of the training data" in ask(model, {"stage": "II", "age": "150"}).notes[0]


@pytest.mark.parametrize(
    ("patient", "error", "message"),
    [
        ({"stage": "II"}, UsageError, "also needs: age"),
        ({"age": "60"}, UsageError, "also needs: stage"),
        ({"stage": "VII", "age": "60"}, UnknownNameError, "Known: I, II, III"),
        ({"stage": "II", "age": "old"}, UsageError, "not a number"),
        ({"stage": "II", "age": "nan"}, UsageError, "also needs: age"),
        ({"stage": "II", "age": "60", "wbc": "4"}, UnknownNameError, "Known: stage, age"),
    ],
)
def test_a_bad_patient_is_refused(
    model: SurvivalModel, patient: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ask(model, patient)


def test_stage_means_the_stage_whatever_its_column_is_called(cohort: Cohort) -> None:
    model = replace(fit_model(replace(cohort, stage_column="Ann Arbor")).model, horizons=((24.0, "two years"),))
    by_alias = ask(model, {"stage": "II", "age": "60"}).answers[0].survival
    assert by_alias == ask(model, {"ann-arbor": "ii", "Age": "60"}).answers[0].survival


def test_too_few_events_are_answered_by_the_curve_of_the_stage() -> None:
    small = drawn(9)
    model = replace(fit_model(small).model, horizons=((5.0, "five months"),))
    assert model.causes == ()
    prediction = ask(model, {"stage": "II", "age": "60"})
    assert "Observed curve" in prediction.method
    assert "covariates are not used" in prediction.notes[0]


def test_a_stage_without_an_event_is_answered_by_its_curve() -> None:
    cohort = drawn(200)
    quiet = replace(cohort, state=np.where(cohort.stage == 0, 0, cohort.state))
    model = replace(fit_model(quiet).model, horizons=((12.0, "one year"),))
    assert "I" in model.unmodelled
    answer = ask(model, {"stage": "I", "age": "60"}).answers[0]
    followed = int(((quiet.stage == 0) & (quiet.time >= 12)).sum())
    # scipy.stats.binomtest(0, followed, alternative="less").proportion_ci(0.95, "exact")
    limit = binomtest(0, followed, alternative="less").proportion_ci(0.95).high
    limits = f"so up to {100 * limit:.0f} of 100 could have died (95 % limit)."
    assert f"{followed} patients were followed that far, {limits}" in answer.text
    assert answer.survival is not None
    assert (answer.survival.value, answer.survival.low) == (1.0, pytest.approx(1 - limit))
    far = ask(model, {"stage": "I", "age": "60"}, horizons=[THIRTY_YEARS], extrapolate=False)
    assert far.answers[0].survival is None
    assert ask(model, {"stage": "II", "age": "60"}).method.startswith("Cox")


def test_a_stage_cut_from_a_number_is_asked_by_the_number(wbc: Cohort, tmp_path: Path) -> None:
    fitted = replace(fit_model(wbc).model, horizons=((2.0, "two years"),))
    write_model(tmp_path / "model.json", fitted)
    model = read_model(tmp_path)
    prediction = ask(model, {"sokal": "1.0", "age": "50"})
    assert prediction.patient["sokal"] == "0.8 < sokal ≤ 1.2"
    assert fields_of(model)[0] == {"name": "sokal", "kind": "number", "cuts": [0.8, 1.2]}


def test_competing_events_are_answered_with_the_incidence_of_each() -> None:
    model = replace(fit_model(drawn(300, competing=True)).model, horizons=((24.0, "two years"),))
    answer = ask(model, {"stage": "II", "age": "60"}).answers[0]
    assert answer.survival is not None
    total = answer.survival.value + sum(interval.value for interval in answer.incidence.values())
    assert total == pytest.approx(1.0)
    assert "have relapsed after two years" in answer.text
    with pytest.raises(UsageError, match="no smooth curve to extrapolate"):
        ask(model, {"stage": "II", "age": "60"}, extrapolate=True)


def test_a_table_is_answered_row_by_row_and_a_bad_row_is_named(model: SurvivalModel, tmp_path: Path) -> None:
    good = table("name,stage,age\na,I,50\nb,III,70\n")
    predictions = ask_table(model, good, horizons=[TWO_YEARS, THIRTY_YEARS])
    write_predictions(tmp_path / "p.csv", predictions, good)
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert len(lines) == 5
    assert ",,," in lines[2]  # past the data the numbers stay empty
    with pytest.raises(DataError, match="line 3"):
        ask_table(model, table("stage,age\nI,50\nIX,70\n"))


def _of_one_stage(state: np.ndarray, *, competing: bool = False) -> Cohort:
    """Return a patient a month, all of one stage."""
    cohort, count = drawn(len(state), competing=competing), len(state)
    time, stage = np.arange(1.0, count + 1), np.zeros(count, dtype=np.int64)
    return replace(cohort, time=time, state=state, stage=stage, stages=("I",))


@pytest.mark.parametrize("competing", [False, True])
def test_all_with_the_event_have_the_limit_of_none_with_it(competing: bool, tmp_path: Path) -> None:
    """Where everybody was followed until the event, the number alive is binomial as the number of events is."""
    ill = _of_one_stage(np.ones(9, dtype=np.int64), competing=competing)
    write_model(tmp_path / "model.json", replace(fit_model(ill).model, causes=(), horizons=((24.0, "two years"),)))
    found = ask(read_model(tmp_path), {"stage": "I"}).answers[0]
    limit = binomtest(0, 9, alternative="less").proportion_ci(0.95).high
    alive, had = ("without relapse", "relapsed") if competing else ("alive", "died")
    words = f"all 9 {had} by two years, so up to {100 * limit:.0f} of 100 could still be {alive} (95 % limit)."
    assert found.text.endswith(words)
    assert found.survival is not None
    assert vars(found.survival) == {"value": 0.0, "low": 0.0, "high": pytest.approx(limit)}
    assert vars(found.incidence[ill.events[0]]) == {"value": 1.0, "low": pytest.approx(1 - limit), "high": 1.0}
    stage = compare(ill, horizons=[TWO_YEARS])["stages"]["I"]["horizons"][0]
    assert stage["count"] == words
    assert stage["survival"] == {"value": 0.0, "low": 0.0, "high": pytest.approx(limit)}


def test_a_curve_at_zero_of_whom_some_were_lost_says_why_it_has_no_limits(tmp_path: Path) -> None:
    cohort = _of_one_stage(np.array([0] + [1] * 8))
    write_model(tmp_path / "model.json", replace(fit_model(cohort).model, causes=(), horizons=((24.0, "two years"),)))
    why = "no limits can be given, since not all were followed from the start until the event"
    assert why in ask(read_model(tmp_path), {"stage": "I"}).answers[0].text
    assert why in compare(cohort, horizons=[TWO_YEARS])["stages"]["I"]["horizons"][0]["text"]


def test_a_covariate_that_was_left_out_is_not_asked_for_and_changes_nothing(cohort: Cohort, tmp_path: Path) -> None:
    more = {"wbc": np.full(len(cohort), 9000.0), "double": 2 * cohort.covariates["age"], "none": np.full(300, np.nan)}
    fitted = fit_model(replace(cohort, covariates={**cohort.covariates, **more})).model
    write_model(tmp_path / "model.json", replace(fitted, horizons=((24.0, "two years"),)))
    model = read_model(tmp_path)
    assert [field["name"] for field in fields_of(model)] == ["stage", "age"]
    assert [facts["name"] for facts in json.loads((tmp_path / "model.json").read_text())["columns"]] == ["age"]
    without = answer(model, "II", {"age": 60})
    given = answer(model, "II", {"age": 60, "WBC": 20000, "none": 1})
    assert without["horizons"][0]["survival"] is not None
    assert given["horizons"] == without["horizons"]
    assert [line.split()[0] for line in given["warnings"]] == ["wbc", "none"]
    rows = ask_table(model, table("stage,age,wbc\nII,60,\nII,60,abc\n"))
    assert [as_json(row)["horizons"] for row in rows] == [without["horizons"]] * 2


@pytest.mark.parametrize("text", ["-5", "-0,5"])
def test_a_number_below_zero_is_refused_where_none_was_seen(model: SurvivalModel, text: str) -> None:
    with pytest.raises(UsageError, match=f"age is {text}, but nobody .* was below zero"):
        answer(model, "II", {"age": text})


def test_a_number_below_zero_is_answered_where_some_were_seen(cohort: Cohort) -> None:
    centred = replace(cohort, covariates={"age": cohort.covariates["age"] - 60})
    model = replace(fit_model(centred).model, horizons=((24.0, "two years"),))
    assert answer(model, "II", {"age": -5})["horizons"][0]["survival"] is not None


def test_the_form_of_the_reading_room_names_choices_and_ranges(model: SurvivalModel) -> None:
    stage, age = fields_of(model)
    assert stage == {"name": "stage", "kind": "choice", "choices": ["I", "II", "III"]}
    assert age["kind"] == "number"
    assert age["low"] < age["typical"] < age["high"]


def test_a_prediction_says_what_it_is_for(model: SurvivalModel) -> None:
    assert "not a diagnosis" in as_json(ask(model, {"stage": "II", "age": "60"}))["notice"]


def test_the_face_for_other_programs_gives_plain_values(model: SurvivalModel) -> None:
    found = answer(model, "ii", {"Age": 60}, horizons=["2 years", "30 years"])
    assert json.loads(json.dumps(found)) == found
    assert {"horizons", "median", "median_text", "sentences", "warnings", "notice"} <= set(found)
    near, far = found["horizons"]
    assert near["survival"] == pytest.approx(vars(ask(model, {"stage": "II", "age": "60"}).answers[0].survival))
    assert far["survival"] is None
    with pytest.raises(UsageError, match="'stage' is the stage"):
        answer(model, "II", {"stage": "III", "age": 60})
    with pytest.raises(UsageError, match="age is given twice"):
        answer(model, "II", {"age": 60, "Age": 61})


def test_far_outside_what_was_seen_no_number_is_invented(model: SurvivalModel, tmp_path: Path) -> None:
    found = answer(model, "II", {"age": 6000})
    assert found["horizons"][0]["survival"] is None
    assert found["median"] == {"value": None, "low": None, "high": None}
    assert "far outside the range of the training data" in found["warnings"][0]


@pytest.mark.parametrize(("text", "value"), [("60,5", 60.5), (" 60.5 ", 60.5), ("+60", 60.0)])
def test_a_decimal_comma_is_read(model: SurvivalModel, text: str, value: float) -> None:
    assert answer(model, "II", {"age": text})["horizons"] == answer(model, "II", {"age": value})["horizons"]


@pytest.mark.parametrize("text", ["1,234", "6_0", "60 years"])
def test_a_number_that_can_be_misread_is_refused(model: SurvivalModel, text: str) -> None:
    with pytest.raises(UsageError, match="two ways|not a number"):
        answer(model, "II", {"age": text})


def test_a_table_may_write_its_columns_and_decimals_its_own_way(model: SurvivalModel, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Name;STAGE;Age\nä;iii;60,5\n", encoding="utf-8-sig")
    found = ask_table(model, read_table(tmp_path / "t.csv"))
    assert found[0].answers == ask(model, {"stage": "III", "age": "60.5"}).answers
    with pytest.raises(DataError, match="could all be 'age'"):
        ask_table(model, table("stage,Age,AGE\nI,50,51\n"))


def test_a_comma_in_a_number_of_a_table_with_decimal_points_is_refused(model: SurvivalModel, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('stage,age\nII,"1,234"\n')
    with pytest.raises(LeukoscopeError, match="two ways"):
        ask_table(model, read_table(tmp_path / "t.csv"))


def test_a_table_that_is_not_utf_8_is_said_where_it_is_answered(model: SurvivalModel, tmp_path: Path) -> None:
    write_model(tmp_path / "model.json", model)
    (tmp_path / "t.csv").write_bytes("name;stage;age\nMüller;III;60,5\n".encode("cp1252"))
    words = ["survival", "predict", str(tmp_path), str(tmp_path / "t.csv"), "-o", str(tmp_path / "p.csv")]
    said = CliRunner().invoke(leukoscope, words)
    assert said.exit_code == 0, said.output
    assert "read as Windows-1252: Müller" in said.stderr
    assert next(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))["name"] == "Müller"


def test_the_table_of_answers_has_incidences_warnings_and_the_notice(tmp_path: Path) -> None:
    model = replace(fit_model(drawn(300, competing=True)).model, horizons=((24.0, "two years"),))
    patients = table("stage,age,time\nII,95,x\n")
    write_predictions(tmp_path / "p.csv", ask_table(model, patients), patients)
    row = next(csv.DictReader((tmp_path / "p.csv").open()))
    assert row["time"] == "x"  # the column of the table is not written over
    assert row["predicted time"] == "24.0"
    total = float(row["event-free"]) + float(row["relapse"]) + float(row["death"])
    assert total == pytest.approx(1, abs=2e-4)
    assert float(row["relapse low"]) < float(row["relapse"]) < float(row["relapse high"])
    assert "outside the range of the training data" in row["warnings"]
    assert "not a diagnosis" in row["notice"]


def test_a_stage_that_the_model_does_not_cover_is_not_extrapolated() -> None:
    cohort = drawn(200)
    quiet = replace(cohort, state=np.where(cohort.stage == 0, 0, cohort.state))
    smooth = fit_aft(make_design(quiet, stages=("II", "III")))
    model = replace(fit_model(quiet).model, horizons=((900.0, "75 years"),), extrapolation=smooth)
    found = ask(model, {"stage": "I", "age": "60"}, extrapolate=True)
    assert found.answers[0].survival is None
    assert "nothing to extrapolate from" in found.notes[0]
    assert "little more than a guess" in ask(model, {"stage": "II", "age": "60"}, extrapolate=True).answers[0].text


def test_prediction_needs_neither_lifelines_nor_pandas(model: SurvivalModel, tmp_path: Path) -> None:
    write_model(tmp_path / "model.json", model)
    program = (
        "import sys, pathlib\n"
        "from leukoscope.survival.model import read_model\n"
        "from leukoscope.survival.predict import ask\n"
        f"ask(read_model(pathlib.Path({str(tmp_path)!r})), {{'stage': 'II', 'age': '60'}})\n"
        "assert not {'lifelines', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_times_past_the_stages_own_follow_up_are_said_to_lean_on_the_others(cohort: Cohort) -> None:
    short = cohort.take((cohort.stage < 2) | (cohort.time < 10))
    model = replace(fit_model(short).model, horizons=((24.0, "two years"),))
    assert "later times depend on the other stages" in ask(model, {"stage": "III", "age": "60"}).notes[0]
    assert ask(model, {"stage": "I", "age": "60"}).notes == ()


def test_what_is_read_from_a_curve_with_many_steps_is_exact() -> None:
    """Curves are thinned to be drawn; horizons and medians are read where all steps stand."""
    rng = np.random.default_rng(5)
    many = drawn(6000, seed=5)
    many = replace(many, time=many.time + rng.uniform(0, 0.1, 6000), covariates={"age": many.covariates["age"]})
    model = fit_model(many).model
    columns = {"stage": np.array(["II"]), "age": np.array([61.0])}
    whole = patient_curves(model, columns, points=10**6)
    asked = [7.77, 24.0, 31.415]
    found = ask(model, {"stage": "II", "age": "61"}, horizons=[Horizon(when, f"{when} months") for when in asked])
    for when, one in zip(asked, found.answers, strict=True):
        assert one.survival is not None
        assert (one.survival.value, one.survival.low, one.survival.high) == pytest.approx(whole["survival"].at(when))
    assert found.median == median(whole["survival"])
    assert len(found.curves["survival"].times) < 1000 < len(whole["survival"].times)


def test_the_curve_of_a_stage_with_many_steps_gives_its_exact_median() -> None:
    cohort = drawn(15_000, seed=6)
    cohort = replace(cohort, time=cohort.time + np.random.default_rng(6).uniform(0, 0.1, 15_000))
    found = compare(cohort, horizons=(Horizon(12.0, "one year"),))["stages"]["I"]
    first = cohort.take(cohort.stage == 0)
    curve = kaplan_meier(risk_table(first.time, first.state), last=float(first.time.max()))
    assert len(curve.times) > 2000
    assert len(found["curves"]["survival"]["times"]) == 2000
    assert found["median"]["value"] == median(curve).value
    assert found["horizons"][0]["survival"]["value"] == curve.at(12.0)[0]


def test_a_model_file_with_very_many_times_stays_small_and_answers_alike(tmp_path: Path) -> None:
    cohort = drawn(60_000, seed=7)
    cohort = replace(cohort, time=cohort.time + np.random.default_rng(7).uniform(0, 0.1, 60_000))
    model = fit_model(cohort).model
    write_model(tmp_path / "model.json", model)
    assert (tmp_path / "model.json").stat().st_size < 10_000_000
    columns = {"stage": np.array(["III"]), "age": np.array([50.0])}
    times = np.array([3.3, 12.0, 40.0])
    assert read_model(tmp_path).incidence(columns, times) == pytest.approx(model.incidence(columns, times), abs=1e-4)
