"""What `import leukoscope` offers: held to a list, lazy, typed, and as the documentation says."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukoscope as lk
from leukoscope.data.synthetic import draw_cells
from leukoscope.files import read_csv

from .client import counted

PUBLIC = [
    "Opinion",
    "Opinions",
    "Predictor",
    "__version__",
    "adapt",
    "compare",
    "errors",
    "explain",
    "export",
    "find_cells",
    "load",
    "predict",
    "run",
    "survival",
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cells of six subjects, one sub-folder for each subject."""
    made, sorted_by = tmp_path_factory.mktemp("drawn"), tmp_path_factory.mktemp("subjects")
    for cell in draw_cells(made, count=48, seed=9)[:12]:
        target = sorted_by / cell.subject / cell.path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(cell.path.read_bytes())
    return sorted_by


@pytest.fixture(scope="module")
def opinions(folder: Path) -> lk.Opinions:
    return lk.predict(folder)


def test_the_public_names_are_these_and_no_others() -> None:
    assert lk.__all__ == PUBLIC == dir(lk)
    assert all(getattr(lk, name) is not None for name in PUBLIC)
    assert lk.__version__ == metadata.version("leukoscope")
    with pytest.raises(AttributeError, match="no attribute 'Wishes'"):
        _ = lk.Wishes


def test_public_functions_stay_functions_when_modules_of_the_package_are_imported() -> None:
    import leukoscope.adaptation
    import leukoscope.explanation  # noqa: F401

    assert all(callable(getattr(lk, name)) for name in ("adapt", "explain", "export", "run", "predict", "compare"))


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, leukoscope; print([n for n in sys.modules if n.startswith('leukoscope.') or n == 'numpy'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_function_says_what_it_takes_returns_and_raises() -> None:
    for name in ("adapt", "compare", "explain", "export", "find_cells", "load", "predict", "run"):
        assert "Raises:" in getattr(lk, name).__doc__, name


def test_a_client_program_passes_the_strict_type_checker() -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent"]
    checked = subprocess.run([*command, "tests/api/client.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_client_program_counts_the_cells_of_each_subject(folder: Path, tmp_path: Path) -> None:
    cells = counted(folder, tmp_path / "predictions.csv")
    assert sum(cells.values()) == 12
    assert len(read_csv(tmp_path / "predictions.csv", required=("path", "subject", "prob_all", "decision"))) == 12


def test_a_folder_its_files_arrays_and_pil_images_get_the_same_answers(folder: Path, opinions: lk.Opinions) -> None:
    paths = [Path(opinion.name) for opinion in opinions]
    images = [Image.open(path).convert("RGB") for path in paths]
    for given in (paths, [str(path) for path in paths], images, [np.asarray(image) for image in images]):
        again = lk.predict(given)
        assert [each.probabilities for each in again] == [each.probabilities for each in opinions]
        assert [each.decision for each in again] == [each.decision for each in opinions]


def test_opinions_are_a_sequence_that_knows_its_subjects(opinions: lk.Opinions) -> None:
    assert len(opinions) == 12
    assert isinstance(opinions[0], lk.Opinion)
    assert isinstance(opinions[2:5], lk.Opinions)
    assert opinions[-1] is list(opinions)[-1]
    rows = opinions.by_subject()
    assert sum(row.cells for row in rows) == 12
    for row in rows:
        own = [each.decision for each in opinions if each.subject == row.subject]
        assert (row.called, row.unsure, row.refused) == tuple(own.count(name) for name in ("all", "unsure", "refused"))


def test_a_repr_is_short(opinions: lk.Opinions) -> None:
    assert len(repr(opinions)) < 120
    assert repr(opinions).startswith("<Opinions: 12 cells: ")
    assert all(len(repr(opinion)) < 400 and "array" not in repr(opinion) for opinion in opinions)
    assert "C-NMC" in repr(lk.load())


def test_the_table_holds_what_the_opinions_say(opinions: lk.Opinions, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = opinions.to_pandas()
    assert list(table["decision"]) == [opinion.decision for opinion in opinions]
    expected = [(opinion.probabilities or {}).get("all", float("nan")) for opinion in opinions]
    np.testing.assert_allclose(table["prob_all"].to_numpy(), expected, atol=1e-6)
    opinions.to_csv(tmp_path / "cells.csv")
    written = pandas.read_csv(tmp_path / "cells.csv", keep_default_na=False)
    pandas.testing.assert_frame_equal(written[["path", "reason"]], table[["path", "reason"]])


def test_the_contact_sheet_shows_every_cell(opinions: lk.Opinions) -> None:
    sheet = opinions.plot(columns=4)
    assert sheet.mode == "RGB"
    plain = opinions.plot(columns=4, heat=False)
    assert plain.width < sheet.width
    drawn = np.asarray(plain)
    rows = np.array_split(drawn, 3)
    assert all((row.max(axis=2) < 60).mean() > 0.1 for row in rows)  # the black around the cells


def test_a_notebook_shows_cells_with_their_decisions(opinions: lk.Opinions) -> None:
    html = opinions._repr_html_()
    assert html.count("data:image/webp") >= 12
    assert "Research use, not a diagnosis" in html
    strange = lk.predict([np.zeros((64, 64, 3), np.uint8)])
    assert "refused" in strange._repr_html_()


def test_names_are_escaped_in_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "<b>.png"
    Image.new("RGB", (64, 64)).save(path)
    assert "<b>.png" not in lk.predict(path)._repr_html_()


def test_no_opinion_at_all_is_shown_too(opinions: lk.Opinions) -> None:
    nothing = opinions[:0]
    assert repr(nothing) == "<Opinions: 0 cells: none>"
    assert nothing.plot().width > 0
    assert "0 cells" in nothing._repr_html_()
    assert nothing.by_subject() == []


def test_default_is_the_name_of_the_shipped_bundle() -> None:
    assert lk.load("default").manifest.seal == lk.load().manifest.seal


def test_a_cell_is_explained(folder: Path) -> None:
    path = next(folder.rglob("*.png"))
    found = lk.explain(path, target="all")
    assert found.target == "all"
    assert found.heat.shape == found.crop.shape[:2]


def test_a_field_gives_one_opinion_for_each_of_its_cells(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    from tests.inference.test_predict_fields import synthetic_field

    pixels, path = synthetic_field(), tmp_path / "field.png"
    Image.fromarray(pixels).save(path)
    cells = lk.find_cells(path, um_per_px=0.12)
    for given in (path, pixels, Image.fromarray(pixels)):
        opinions = lk.predict(given, um_per_px=0.12)
        assert [opinion.found.number for opinion in opinions if opinion.found] == [cell.number for cell in cells]
        assert len(cells) > 1
    table = tmp_path / "cells.csv"
    opinions.to_csv(table)
    assert len(read_csv(table, required=("path", "cell", "left", "outline"))) == len(cells)
