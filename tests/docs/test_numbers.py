"""Numbers in README and docs are those that a run or a study measured."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def numbers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("numbers_of_docs", ROOT / "docs" / "site" / "page_numbers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_claim_of_discrimination_in_the_readme_is_marked() -> None:
    """An AUROC with two digits beside it must come from a file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    unmarked = re.sub(r"<!--number .*?<!--/number-->", "", text, flags=re.S)
    claims = [match[0] for match in re.finditer(r"AUROC of[^.]{0,40}\s\.\d\d", unmarked)]
    assert [claim for claim in claims if "between .55 and .75" not in claim.replace("\n", " ")] == []


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
