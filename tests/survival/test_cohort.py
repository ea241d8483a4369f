"""Reading cohorts: what is accepted, what is left out and counted, what is refused and in which words."""

import re
from pathlib import Path

import numpy as np
import pytest

from leukoscope.cli.survival import _cuts, _mapping
from leukoscope.errors import DataError, LeukoscopeError, UnknownNameError, UsageError
from leukoscope.survival.cohort import describe, read_cohort
from leukoscope.survival.table import StudySettings

from .conftest import cohort_from

GOOD = "months,died,stage\n5,1,I\n7,0,II\n3,yes,I\n9,Alive,II\n"


def test_events_may_be_numbers_truths_and_words_at_once() -> None:
    assert cohort_from(GOOD).state.tolist() == [1, 0, 1, 0]
    assert cohort_from("months,died,stage\n5,1.0,I\n7,0.0,II").state.tolist() == [1, 0]
    assert cohort_from("months,died,stage\n5,TRUE,I\n7,False,II").state.tolist() == [1, 0]


def test_the_unit_is_read_from_the_name_of_the_column_or_asked_for() -> None:
    assert cohort_from(GOOD).unit == "months"
    with pytest.raises(UsageError, match="--unit days, weeks, months or years"):
        cohort_from(GOOD.replace("months", "t"), time="t")
    assert cohort_from(GOOD.replace("months", "t"), time="t", unit="weeks").unit == "weeks"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("months,died,stage\n-5,1,I\n7,0,II", r"below zero: '-5' \(line 2\)"),
        ("months,died,stage\nsoon,1,I\n7,0,II", r"text where numbers are needed: 'soon' \(line 2\)"),
        ("months,died,stage\n1e999,1,I\n7,0,II", r"text where numbers are needed"),
        ("months,died,stage\n5,2,I\n7,0,II", r"meaning is not known: '2' \(1 ×\).*--events"),
        ("months,died,stage\n5,0,I\n7,0,II", "nobody had the event; all 2 are censored"),
        ("months,died,stage\n0,1,I\n0,0,II", "every time in 'months' is zero"),
        ("months,died,stage\n5,1,\n7,0,", "no row can be used .*the stage"),
        (
            "patient,months,died,stage\na,5,1,I\na,7,0,II",
            r"rows that differ: column 'patient', 'a' \(line 2\), 'a' \(line 3\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cohort_from(text)


def test_rows_that_lack_something_are_left_out_and_counted_with_their_lines() -> None:
    cohort = cohort_from("months,died,stage\n5,1,I\n,1,I\n6,NA,II\n7,0,unknown\n8,0,II\n.,,\n")
    assert len(cohort) == 2
    assert {drop.reason.split("(")[1]: drop.lines for drop in cohort.dropped} == {
        "the time) is missing": (3, 7),
        "what happened) is missing": (4,),
        "the stage) is missing": (5,),
    }
    facts = describe(cohort)
    assert facts["rows"] == facts["patients"] + sum(row["rows"] for row in facts["dropped"])
    assert facts["missing"] == {"months": 2, "died": 2, "stage": 2}


def test_a_row_given_twice_for_one_patient_counts_once_and_is_said() -> None:
    cohort = cohort_from("id,months,died,stage\na,5,1,I\nb,6,0,II\na,5,1,I\n")
    assert len(cohort) == 2
    assert cohort.dropped[0].lines == (4,)


def test_equal_rows_without_a_patient_column_are_kept_and_said() -> None:
    cohort = cohort_from("months,died,stage\n5,1,I\n5,1,I\n6,0,II\n")
    assert len(cohort) == 3
    assert any("1 row equals another row" in note and "--id" in note for note in cohort.notes)


def test_codes_outside_the_mapping_are_refused() -> None:
    text = "months,died,stage\n5,1,I\n7,0,II\n9,3,II"
    with pytest.raises(DataError, match=r"outside --events: '3' \(1 ×\)"):
        cohort_from(text, events={"0": "censored", "1": "death"})


@pytest.mark.parametrize("alive", ["alive", "Censored", "no event", "LIVING"])
def test_a_code_for_the_living_is_censored_whatever_its_word(alive: str) -> None:
    cohort = cohort_from("months,died,stage\n5,1,I\n7,0,II", events={"0": alive, "1": "death"})
    assert cohort.state.tolist() == [1, 0]
    assert cohort.events == ("death",)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ({"1": "relapse", "1.0": "death"}, "gives '1' two meanings: 'relapse' and 'death'"),
        ({"0": "alive", "NA": "death"}, "'NA' means a missing value"),
        ({"0": "alive", "1": "censored"}, "every value means censored"),
    ],
)
def test_a_mapping_that_says_two_things_or_none_is_refused(events: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cohort_from("months,died,stage\n5,1,I\n7,0,II", events=events)


def test_a_code_given_twice_on_the_command_line_is_refused() -> None:
    assert _mapping("0=alive, 1=death") == {"0": "alive", "1": "death"}
    with pytest.raises(UsageError, match="'1' two meanings"):
        _mapping("0=alive,1=relapse,1=death")
    with pytest.raises(UsageError, match="is not value=meaning"):
        _mapping("0=alive,1")


def test_competing_events_are_found_in_any_case_and_named_once() -> None:
    text = "months,died,stage\n5,1,I\n7,0,II\n9,2,II"
    events = {"0": "alive", "1": "Relapse", "2": "Death"}
    assert cohort_from(text, events=events, competing=["death"]).events == ("Relapse", "Death")
    with pytest.raises(UsageError, match="twice"):
        cohort_from(text, events=events, competing=["death", "Death"])
    with pytest.raises(UsageError, match="names every event"):
        cohort_from(text, events=events, competing=["death", "relapse"])
    with pytest.raises(UsageError, match="--competing-time needs --competing"):
        cohort_from(text, events=events, competing=["death"], competing_time="months")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"covariates": ["age", "age"]}, "names 'age' twice"),
        ({"covariates": ["age", "stage"]}, "'stage' is the stage"),
        ({"covariates": ["log(months)"]}, "is to be predicted"),
        ({"stage": "died"}, "also the time or an event"),
        ({"event": "months"}, "both 'months'"),
        ({"stage_cuts": (1.0,), "stage_order": ("I", "II")}, "leave out --stage-order"),
    ],
)
def test_a_column_has_one_part_to_play(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cohort_from("months,died,stage,age\n5,1,I,60\n7,0,II,70", **settings)


def test_spellings_that_differ_in_case_are_one_stage_and_said() -> None:
    cohort = cohort_from("months,died,stage,sex\n5,1,CR1,f\n7,0,cr1,F\n9,1,CR1,F\n3,1,CR2,M", covariates=["sex"])
    assert cohort.stages == ("CR1", "CR2")
    assert cohort.covariates["sex"].tolist() == ["F", "F", "F", "M"]
    assert "Column 'stage': counted CR1, cr1 as CR1" in cohort.notes[0]


def test_of_several_events_all_but_one_must_be_said_to_compete() -> None:
    text = "months,died,stage\n5,1,I\n7,0,II\n9,2,II"
    events = {"0": "censored", "1": "relapse", "2": "death"}
    with pytest.raises(UsageError, match='--competing "death"'):
        cohort_from(text, events=events)
    cohort = cohort_from(text, events=events, competing=["relapse"])
    assert cohort.events == ("death", "relapse")
    assert cohort.state.tolist() == [2, 0, 1]


def test_a_competing_column_with_its_own_time_counts_by_what_came_first() -> None:
    text = "months,died,relapse,relapse_months,stage\n9,1,1,4,I\n9,1,0,9,I\n5,0,1,5,II\n"
    cohort = cohort_from(text, competing=["relapse"], competing_time="relapse_months")
    assert cohort.time.tolist() == [4, 9, 5]
    assert cohort.state.tolist() == [2, 1, 2]


def test_a_competing_column_without_times_counts_where_the_event_did_not_happen() -> None:
    cohort = cohort_from("months,died,relapse,stage\n9,0,1,I\n8,1,0,II\n7,0,0,I\n", competing=["relapse"])
    assert (cohort.time.tolist(), cohort.state.tolist()) == ([9, 8, 7], [2, 1, 0])


def test_two_events_at_one_time_are_refused_until_their_order_is_known() -> None:
    with pytest.raises(DataError, match="two events at one time.*lines 2"):
        cohort_from("months,died,relapse,stage\n9,1,1,I\n8,1,0,II\n", competing=["relapse"])


def test_an_entry_after_the_end_is_left_out_and_said() -> None:
    cohort = cohort_from("months,died,start,stage\n9,1,2,I\n8,1,8,II\n7,0,,I\n", entry="start")
    assert cohort.start.tolist() == [2]
    assert [drop.lines for drop in cohort.dropped] == [(4,), (3,)]


def test_covariates_keep_their_missing_values_for_the_model_to_count() -> None:
    cohort = cohort_from("months,died,stage,age,sex\n5,1,I,60,F\n6,0,II,,M\n7,1,I,70,\n", covariates=["age", "sex"])
    assert np.isnan(cohort.covariates["age"]).tolist() == [False, True, False]
    assert cohort.covariates["sex"].tolist() == ["F", "M", ""]
    assert len(cohort) == 3


def test_a_logarithm_of_zero_and_a_word_among_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"log\(wbc\) needs values above zero: '0' \(line 3\)"):
        cohort_from("months,died,stage,wbc\n5,1,I,3\n6,0,II,0\n", covariates=["log(wbc)"])
    rows = "\n".join(f"5,1,I,{age}" for age in (50, 51, 52, 53, 54, "old"))
    with pytest.raises(DataError, match=r"'old' \(line 7\)"):
        cohort_from(f"months,died,stage,age\n{rows}", covariates=["age"])


def test_a_column_that_does_not_exist_shows_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'stage'"):
        cohort_from(GOOD, stage="stagee")


def test_a_number_with_many_values_is_no_stage_until_it_is_cut() -> None:
    rows = "\n".join(f"{5 + value},1,{value / 10}" for value in range(1, 21))
    with pytest.raises(UsageError, match="--stage-cuts"):
        cohort_from(f"months,died,stage\n{rows}")
    cohort = cohort_from(f"months,died,stage\n{rows}", stage_cuts=(0.8, 1.2))
    assert cohort.stages == ("stage ≤ 0.8", "0.8 < stage ≤ 1.2", "stage > 1.2")
    assert np.bincount(cohort.stage).tolist() == [8, 4, 8]


def test_semicolons_and_decimal_commas_are_read(tmp_path: Path) -> None:
    path = tmp_path / "de.csv"
    path.write_text("Monate;tot;Stadium\n5,5;1;I\n7,25;0;II\n", encoding="utf-8-sig")
    cohort = read_cohort(path, StudySettings(time="Monate", event="tot", stage="Stadium", unit="months"))
    assert cohort.time.tolist() == [5.5, 7.25]


def test_a_file_that_is_not_utf_8_is_read_as_windows_writes_it_and_that_is_said(tmp_path: Path) -> None:
    settings = StudySettings(time="months", event="died", stage="stage")
    text = "months,died,stage\n5,1,mild\n7,0,schwäche\n"
    (tmp_path / "c.csv").write_bytes(text.encode("latin-1"))
    cohort = read_cohort(tmp_path / "c.csv", settings)
    assert cohort.stages == ("mild", "schwäche")
    assert "not UTF-8; it was read as Windows-1252" in cohort.notes[0]
    (tmp_path / "c.csv").write_bytes(text.encode("utf-16"))
    assert read_cohort(tmp_path / "c.csv", settings).stages == ("mild", "schwäche")
    (tmp_path / "c.csv").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(DataError, match="is a workbook"):
        read_cohort(tmp_path / "c.csv", settings)


def test_decimal_commas_beside_decimal_points_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("months;died;stage\n5,5;1;I\n1.250;0;II\n")
    with pytest.raises(DataError, match=r"decimal commas and decimal points: '5,5' \(line 2\), '1.250' \(line 3\)"):
        read_cohort(tmp_path / "c.csv", StudySettings(time="months", event="died", stage="stage"))


@pytest.mark.parametrize("text", ["", "months,died,stage\n", "months,died,stage\n5,1\n", "a,a\n1,2\n"])
def test_broken_files_give_one_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(LeukoscopeError, match=r"c\.csv"):
        read_cohort(tmp_path / "c.csv", StudySettings(time="months", event="died", stage="stage"))


@pytest.mark.parametrize("text", ["1,nan", "inf", "low"])
def test_cuts_that_are_no_numbers_are_an_error_of_the_call(text: str) -> None:
    with pytest.raises(UsageError, match="are not numbers. Write them with commas"):
        _cuts(text)


@pytest.mark.parametrize("cell", ["-0", "+1", "3.5", "-2"])
def test_a_number_among_words_is_no_category(cell: str) -> None:
    text = f"months,died,stage,d\n5,1,I,ALL\n7,0,II,AML\n4,1,I,{cell}\n9,1,II,ALL"
    with pytest.raises(DataError, match=rf"column 'd' holds numbers among words: '{re.escape(cell)}' \(line 4\)"):
        cohort_from(text, covariates=["d"])


def test_minus_zero_is_zero_among_numbers_stages_and_events() -> None:
    cohort = cohort_from("months,died,stage,x\n5,1,0,-0\n7,-0,-0,1\n4,1,1.0,2\n9,+1,+1,3", covariates=["x"])
    assert cohort.stages == ("0", "1")
    assert cohort.stage.tolist() == [0, 0, 1, 1]
    assert cohort.state.tolist() == [1, 0, 1, 1]


def test_a_landmark_counts_from_then_on_who_got_there_without_an_event() -> None:
    text = "months,died,stage,start\n5,1,I,0\n6,0,I,0\n9,1,II,0\n20,0,II,3\n30,1,II,8\n"
    cohort = cohort_from(text, entry="start", landmark="6 months")
    assert cohort.time.tolist() == [3, 14]
    assert cohort.entry is None
    assert {drop.reason: drop.lines for drop in cohort.dropped} == {
        "followed no longer than the landmark (six months), or had an event by then": (2, 3),
        "entered after the landmark (six months)": (6,),
    }
    assert "Landmark analysis" in cohort.notes[-1] or "Landmark analysis" in cohort.notes[0]


def test_a_landmark_that_nobody_reaches_is_refused() -> None:
    with pytest.raises(DataError, match="no row can be used .*landmark"):
        cohort_from("months,died,stage\n5,1,I\n6,0,II\n", landmark="2 years")
