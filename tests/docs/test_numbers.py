"""Numbers in README and docs are those that a run or a study measured."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def numbers() -> ModuleType:
    return _module(ROOT / "docs" / "site" / "page_numbers.py")


def test_every_marked_number_is_the_one_of_its_file(numbers: ModuleType) -> None:
    marked = 0
    for page in numbers.pages():
        text = page.read_text(encoding="utf-8")
        assert numbers.written(text) == text, f"{page.relative_to(ROOT)}: run make numbers"
        marked += text.count(numbers.OPENED)
    assert marked >= 10


@pytest.mark.parametrize(("page", "least"), [("README.md", 6), ("docs/explanation/leakage.md", 3)])
def test_the_pages_whose_numbers_had_drifted_are_marked(page: str, least: int) -> None:
    assert (ROOT / page).read_text(encoding="utf-8").count("<!--number ") >= least


def test_every_share_on_a_page_of_people_is_of_a_file_or_names_its_source(numbers: ModuleType) -> None:
    """So a number cannot be typed into a page and stay there when the run that measured it is repeated."""
    found = {
        page.relative_to(ROOT).as_posix(): numbers.unsourced(page.read_text("utf-8")) for page in numbers.peoples()
    }
    assert len(found) > 15
    assert {page: shares for page, shares in found.items() if shares} == {}, "mark them: see docs/site/page_numbers.py"


def test_a_source_that_is_not_closed_is_an_error(numbers: ModuleType) -> None:
    with pytest.raises(ValueError, match="is not written as"):
        numbers.unsourced("<!--from a run-->.93")


_NUMBER = r"[−-]?\d\.\d{3}"


def _figures(found: object) -> Iterator[tuple[str, ...]]:
    """Yield value, low and high of every figure of a JSON, as a page writes them."""
    if isinstance(found, dict):
        if {"value", "low", "high"} <= set(found) and found["low"] is not None:
            yield tuple(f"{found[key]:.3f}".replace("-0.000", "0.000") for key in ("value", "low", "high"))
        for each in found.values():
            yield from _figures(each)
    elif isinstance(found, list):
        for each in found:
            yield from _figures(each)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "evidence").glob("*.md")), ids=lambda page: page.stem)
def test_the_figures_of_a_page_of_evidence_are_those_of_its_json(page: Path) -> None:
    known = set(_figures(json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))))
    text = page.read_text(encoding="utf-8").replace("−", "-").replace("-0.000", "0.000")
    said = re.findall(rf"({_NUMBER}) \(\+?({_NUMBER}) to \+?({_NUMBER})\)", text)
    assert len(said) >= 10
    assert [figure for figure in said if figure not in known] == []


def test_the_page_of_coverage_is_written_from_its_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    coverage = _module(ROOT / "benchmarks" / "interval_coverage.py")
    written = (ROOT / "docs" / "benchmarks" / "coverage.md").read_text(encoding="utf-8")
    new = coverage.page(coverage.kept())
    assert written.partition("Machine:")[0] == new.partition("Machine:")[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    figures = {"a b": {"auroc": {"value": 0.8934, "low": -0.0123, "high": 1.0}}, "cells": 4133, "rows": [0.636]}
    (tmp_path / "run.json").write_text(json.dumps(figures))
    return tmp_path


@pytest.mark.parametrize(
    ("keys", "form", "said"),
    [
        ("a b/auroc", ".2", ".89"),
        ("a b/auroc/value", ".3", ".893"),
        ("a b/auroc", "span .2", ".89 (−.01 to 1.00)"),
        ("cells", "count", "4,133"),
        ("rows/0", "percent 1", "63.6 %"),
        ("cells", "text", "4133"),
    ],
)
def test_numbers_are_written_as_asked(numbers: ModuleType, root: Path, keys: str, form: str, said: str) -> None:
    page = f"It has <!--number run.json: {keys} | {form} -->.94<!--/number--> of them."
    assert f"-->{said}<!--/number--> of them." in numbers.written(page, root=root)


@pytest.mark.parametrize(
    ("mark", "wrong"),
    [
        ("<!--number run.json: a c | .2 -->1<!--/number-->", "has no 'a c'"),
        ("<!--number none.json: a | .2 -->1<!--/number-->", "does not exist"),
        ("<!--number run.json: cells | round -->1<!--/number-->", "no form"),
        ("<!--number run.json: cells | .2 -->1", "is not written as"),
    ],
)
def test_a_mark_that_leads_nowhere_is_an_error(numbers: ModuleType, root: Path, mark: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        numbers.written(mark, root=root)
