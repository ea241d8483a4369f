"""report.html: one file, nothing from outside, every number of metrics.json, and the warnings where they belong."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from leukoscope.cli.run import report as command
from leukoscope.errors import DataError
from leukoscope.evaluation.evaluate import evaluate
from leukoscope.evaluation.verdict import span
from leukoscope.files import read_json, write_json
from leukoscope.report.page import write_report
from tests.synthetic_run import narrow, write_run

VOID = {"meta", "img", "br", "link", "input", "hr", "path", "use"}
SMALL: dict[str, Any] = {"cells": 200, "subjects": 20, "size_effect": 0.1, "strength": 2.5, "images": True}


class Page(HTMLParser):
    """Collects what a browser would load, and fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else, at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def written(folder: Path, **options: Any) -> Path:
    run = write_run(folder, **(SMALL | options))
    evaluate(run)
    return write_report(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("runs") / "good").parent


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_every_tag_is_closed_and_every_id_is_used_once(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_the_page_loads_nothing_from_outside(page: Page, run: Path) -> None:
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)", html)


def test_links_inside_the_page_lead_somewhere(page: Page) -> None:
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_every_headline_number_and_its_baselines_are_on_the_page(page: Page, run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    for weighting in (metrics, metrics["subject_weighted"]):
        for estimator in ("model", "majority", "size"):
            for name, number in weighting["estimators"][estimator].items():
                assert span(number) in page.text, (estimator, name)
    assert metrics["verdict"]["text"] in page.text
    for fingerprint in (metrics["split"]["hash"], metrics["data"]["fingerprint"]):
        assert fingerprint in page.text


def test_every_subject_and_every_count_of_the_confusion_matrix_is_on_the_page(page: Page, run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert page.text.count(" %") >= len(metrics["subjects"])
    for row in metrics["confusion"]["matrix"]:
        for count in row:
            assert str(count) in page.text


def test_pictures_of_cells_and_their_words_are_there(page: Page) -> None:
    assert page.tags.count("img") >= 12
    assert "before" in page.text
    assert "The mistakes it was surest of" in page.text


def test_figures_have_words_for_those_who_cannot_see_them(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<svg role="img" aria-label="([^"]+)"', html)
    assert len(drawn) == 10
    assert all(len(words) > 40 for words in drawn)


def test_figures_are_also_files_that_stand_alone(run: Path) -> None:
    files = sorted((run / "figures").glob("*.svg"))
    assert len(files) == 10
    for file in files:
        text = file.read_text()
        assert text.startswith("<?xml")
        assert "var(--" not in text


def test_the_warning_stands_in_every_part_that_shows_results(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    parts = dict(re.findall(r'<section id="(\w+)">(.*?)</section>', html, flags=re.S))
    for part in ("numbers", "who", "decisions", "ranking", "trust", "subjects", "mistakes"):
        assert "not a diagnosis" in parts[part], part


def test_the_page_is_small(run: Path) -> None:
    assert (run / "report.html").stat().st_size < 1_000_000


def test_names_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    path = written(tmp_path / "<b>run", classes=("hem", "<script>x"), images=False)
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "<script>x" in page.text


def test_a_leaky_split_is_called_leaky_wherever_numbers_stand(tmp_path: Path) -> None:
    html = written(tmp_path / "run", images=False, settings={"split": {"leaky": True}}).read_text(encoding="utf-8")
    assert html.count("Leaky split") >= html.count("Research use, not a diagnosis.") > 5
    assert "leaky split" in html[: html.index("</title>")]


def test_synthetic_cells_are_called_synthetic_wherever_numbers_stand(tmp_path: Path) -> None:
    html = written(tmp_path / "run", images=False, source="synthetic").read_text(encoding="utf-8")
    assert html.count("Synthetic cells, not patients") == html.count("Research use, not a diagnosis.")
    assert "synthetic subjects" in html or "Synthetic cells" in html


def test_a_run_with_nothing_but_its_tables_still_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **(SMALL | {"images": False}))
    for name in ("model.json", "traits.csv"):
        (run / name).unlink()
    for history in run.glob("fold-*/history.csv"):
        history.unlink()
    evaluate(run)
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "no model.json" in text
    assert "no packed crops" in text
    assert "the image file is gone" in text


def test_four_classes_have_a_page(tmp_path: Path) -> None:
    path = written(tmp_path / "run", classes=("Benign", "Early", "Pre", "Pro"), subjects=32, images=False)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "Of 100 cells" in text
    assert "Each fold sets its thresholds" not in text


def test_undefined_numbers_are_said_to_be_undefined(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **(SMALL | {"images": False}))
    narrow(run, lambda name, _, label: name == "validation" or label == "all")
    evaluate(run)
    assert "not defined" in Page(write_report(run).read_text(encoding="utf-8")).text


def test_a_report_before_the_evaluation_says_what_to_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **(SMALL | {"images": False}))
    with pytest.raises(DataError, match="Run leukoscope evaluate"):
        write_report(run)


def test_a_history_that_lost_its_rows_is_told_not_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **(SMALL | {"images": False}))
    evaluate(run)
    (run / "fold-0" / "history.csv").write_text("")
    with pytest.raises(DataError, match=r"fold-0/history\.csv lacks the columns epoch, validation_loss"):
        write_report(run)


def test_metrics_of_another_split_or_with_a_part_missing_are_refused(tmp_path: Path) -> None:
    run = written(tmp_path / "run", images=False).parent
    metrics = read_json(run / "metrics.json")
    metrics["split"]["hash"] = "0" * 64
    write_json(run / "metrics.json", metrics)
    with pytest.raises(DataError, match="another split"):
        write_report(run)
    del metrics["curves"]
    write_json(run / "metrics.json", metrics)
    with pytest.raises(DataError, match="not whole"):
        write_report(run)


def test_the_command_says_where_the_page_is(run: Path) -> None:
    result = CliRunner().invoke(command, [str(run)])
    assert result.exit_code == 0
    assert str(run / "report.html") in result.output


def test_what_the_reader_did_to_the_pictures_stands_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, **SMALL)
    evaluate(run)
    write_json(run / "audit.json", {"changes": {"colours converted from Display P3 to sRGB": 12}})
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "12 files: colours converted from Display P3 to sRGB" in page.text
